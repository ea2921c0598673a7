//! Addresses of other nodes and the transports to them.
//!
//! The `peers` file in the data directory remembers addresses over a restart, so that a starting
//! node can say hello before it takes part in anything. It is advice: it may be lost or stale.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use cairn_proto::seam::{Env, Lane, Transport};
use parking_lot::Mutex;

use crate::disk::{Disk, Open};

const PEERS: &str = "peers";
const PEERS_NEW: &str = "peers.new";
/// A peers file beyond this is not ours, bytes.
const PEERS_BYTES_MAX: u64 = 1 << 20;

#[derive(Default)]
pub struct Peers {
    transports: Mutex<BTreeMap<String, Transport>>,
    /// What the file holds.
    remembered: Mutex<Vec<String>>,
}

impl Peers {
    pub fn new(remembered: Vec<String>) -> Self {
        Self { transports: Mutex::default(), remembered: Mutex::new(remembered) }
    }

    pub fn transport(&self, env: &Env, address: &str) -> Transport {
        let mut transports = self.transports.lock();
        if let Some(transport) = transports.get(address) {
            return transport.clone();
        }
        let transport = env.dialer.dial(address);
        transports.insert(address.to_owned(), transport.clone());
        transport
    }

    pub fn remembered(&self) -> Vec<String> {
        self.remembered.lock().clone()
    }

    /// One that is remembered and is not `own`, another each turn.
    pub fn in_turn(&self, own: &str, turn: usize) -> Option<String> {
        let remembered = self.remembered.lock();
        let others: Vec<&String> = remembered.iter().filter(|address| *address != own).collect();
        let place = turn.checked_rem(others.len())?;
        others.get(place).map(|address| (*address).clone())
    }

    /// Writes `addresses` if they differ from what the file holds. After a failed sync the node
    /// has to stop: what else of the directory was to be durable is no longer known.
    pub async fn remember(
        &self,
        env: &Env,
        disk: &Arc<dyn Disk>,
        mut addresses: Vec<String>,
    ) -> Result<(), SyncFailed> {
        addresses.sort();
        addresses.dedup();
        if *self.remembered.lock() == addresses {
            return Ok(());
        }
        let text = addresses.join("\n");
        let disk = Arc::clone(disk);
        let written = env.blocking(Lane::Data, move || write(&*disk, text.as_bytes())).await;
        match written {
            Ok(()) => *self.remembered.lock() = addresses,
            Err(WriteError::Sync(failed)) => return Err(failed),
            Err(WriteError::Other(error)) => tracing::warn!(%error, "cannot write the peers file"),
        }
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot sync the peers file, the node must stop: {0}")]
pub struct SyncFailed(io::Error);

enum WriteError {
    Sync(SyncFailed),
    /// The file is as it was, or gone; tried again later.
    Other(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

/// Reads the remembered addresses; a missing or unreadable file is an empty list.
pub fn load(disk: &dyn Disk) -> Vec<String> {
    read(disk).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn read(disk: &dyn Disk) -> io::Result<String> {
    let file = disk.open(PEERS, Open::Read)?;
    let len = file.len()?;
    if len > PEERS_BYTES_MAX {
        return Err(io::Error::other("peers file is too long"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_at(0, &mut bytes)?;
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn write(disk: &dyn Disk, bytes: &[u8]) -> Result<(), WriteError> {
    let sync_failed = |error| WriteError::Sync(SyncFailed(error));
    if disk.exists(PEERS_NEW)? {
        disk.remove(PEERS_NEW)?;
    }
    let file = disk.open(PEERS_NEW, Open::Create)?;
    file.write_at(0, bytes)?;
    file.sync().map_err(sync_failed)?;
    disk.rename(PEERS_NEW, PEERS)?;
    disk.sync_dir("").map_err(sync_failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_come_in_turn_and_oneself_never() {
        let peers = Peers::new(["a", "b", "c"].map(str::to_owned).to_vec());
        let turns: Vec<_> = (0..3).filter_map(|turn| peers.in_turn("b", turn)).collect();
        assert_eq!(turns, ["a", "c", "a"]);
        assert_eq!(Peers::new(vec!["b".to_owned()]).in_turn("b", 7), None);
        assert_eq!(Peers::default().in_turn("b", 0), None);
    }
}
