//! Addresses of other nodes and the transports to them.
//!
//! The `peers` file in the data directory keeps addresses over a restart, so that a starting node
//! can say hello before it takes part in anything. The file is only a hint: it may be lost or
//! stale.
//!
//! A node that has moved reports this in its registration. That needs a leader, and a leader needs
//! a majority whose addresses are known. So every node remembers the announced addresses of others
//! for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::{Env, Lane, Transport};
use cairn_types::ids::{Incarnation, NodeId, check_host_port};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::disk::{Disk, Open};

const PEERS: &str = "peers";
const PEERS_NEW: &str = "peers.new";
/// Longest peers file, bytes. A longer file is not ours.
const PEERS_BYTES_MAX: u64 = 1 << 20;
/// How long an announced address counts. A node that cannot register repeats it.
const ANNOUNCED_FOR: Duration = Duration::from_secs(15);

#[derive(Default)]
pub struct Peers {
    transports: Mutex<BTreeMap<String, Transport>>,
    /// The content of the file.
    remembered: Mutex<Vec<String>>,
    /// Addresses from other sources, kept for the life of this process.
    given: Mutex<BTreeSet<String>>,
    announced: Mutex<BTreeMap<NodeId, Announced>>,
}

/// The announced address of a node.
struct Announced {
    address: String,
    /// The registration at the time of the announcement. A newer one replaces the announcement.
    registered: Incarnation,
    until: Instant,
}

impl Peers {
    pub fn new(remembered: Vec<String>) -> Self {
        Self { remembered: Mutex::new(remembered), ..Self::default() }
    }

    /// Adds an address that may belong to a node.
    pub fn give(&self, address: String) {
        self.given.lock().insert(address);
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

    /// All addresses that may belong to a node, except `own`.
    pub fn known(&self, own: &str) -> BTreeSet<String> {
        let mut all = self.given.lock().clone();
        all.extend(self.remembered.lock().iter().cloned());
        let now = Instant::now();
        let announced = self.announced.lock();
        // A node that cannot be found may be unable to find this node too.
        all.extend(announced.values().filter(|it| now < it.until).map(|it| it.address.clone()));
        all.remove(own);
        all
    }

    /// One known address other than `own`, another one each turn.
    pub fn in_turn(&self, own: &str, turn: usize) -> Option<String> {
        let others = self.known(own);
        let place = turn.checked_rem(others.len())?;
        others.into_iter().nth(place)
    }

    /// A node with this registration announces another address.
    pub fn announce(&self, node: NodeId, registered: Incarnation, address: &str) {
        let (address, until) = (address.to_owned(), Instant::now() + ANNOUNCED_FOR);
        self.announced.lock().insert(node, Announced { address, registered, until });
    }

    /// The node answers at its registered address again.
    pub fn is_at_home(&self, node: NodeId) {
        self.announced.lock().remove(&node);
    }

    /// The announced address of a node with this registration, if it has announced another one.
    pub fn announced(&self, node: NodeId, registered: Incarnation) -> Option<String> {
        let announced = self.announced.lock();
        let said = announced.get(&node)?;
        let counts = said.registered == registered && Instant::now() < said.until;
        counts.then(|| said.address.clone())
    }

    /// Writes `addresses` if they differ from the file. After a failed sync the node has to stop,
    /// because the durable state of the directory is then unknown.
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
    /// The file is unchanged or gone. It is tried again later.
    Other(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

/// Reads the remembered addresses. A missing or unreadable file gives an empty list, and a line
/// that is no address is left out, because the file is only a hint.
pub fn load(disk: &dyn Disk) -> Vec<String> {
    let text = match read(disk) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "cannot read the peers file");
            }
            return Vec::new();
        }
    };
    let is_address = |line: &&str| match check_host_port(line) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "a line of the peers file is left out");
            false
        }
    };
    text.lines().filter(is_address).map(str::to_owned).collect()
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
        ["d", "c"].into_iter().for_each(|address| peers.give(address.to_owned()));
        let turns: Vec<_> = (0..4).filter_map(|turn| peers.in_turn("b", turn)).collect();
        assert_eq!(turns, ["a", "c", "d", "a"]);
        assert_eq!(Peers::new(vec!["b".to_owned()]).in_turn("b", 7), None);
        assert_eq!(Peers::default().in_turn("b", 0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_node_announces_counts_for_a_while_and_until_it_registers() {
        let (peers, node, first) = (Peers::default(), NodeId(2), Incarnation(7));
        assert_eq!(peers.announced(node, first), None);
        peers.announce(node, first, "there");
        assert_eq!(peers.announced(node, first).as_deref(), Some("there"));
        assert_eq!(peers.in_turn("here", 0).as_deref(), Some("there"));
        assert_eq!(peers.announced(node, Incarnation(8)), None);
        peers.is_at_home(node);
        assert_eq!(peers.announced(node, first), None);
        peers.announce(node, first, "there");
        tokio::time::sleep(ANNOUNCED_FOR).await;
        assert_eq!(peers.announced(node, first), None);
    }
}
