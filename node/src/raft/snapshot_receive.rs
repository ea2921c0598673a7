//! Snapshots on their way in.
//!
//! A snapshot is known by its log id and digest, so whatever stream its bytes come through, they
//! are the same bytes at the same place: a broken stream continues where the last one ended, and
//! two streams at once do no harm. The digest is compared over the whole file before installing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::seam::Lane;
use parking_lot::Mutex;
use tonic::Status;

use super::FatalHook;
use super::machine::SnapshotStore;
use super::snapshot_files::{BODY_BYTES_MAX, Partial, SnapshotError, SnapshotFile};
use super::types::{LogId, SnapshotMeta};

/// Snapshots received at once: one from the leader, one from the leader before it.
const INCOMING_MAX: usize = 2;

/// What tells one snapshot from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub last_log_id: LogId,
    pub len: u64,
    pub digest: [u8; 32],
}

struct Incoming {
    partial: Arc<Partial>,
    /// Bytes of the body written without a gap.
    held: u64,
    installing: bool,
    /// Order of beginning: the eldest makes room.
    began: u64,
}

pub struct SnapshotReceiver {
    store: Arc<SnapshotStore>,
    fatal: FatalHook,
    incoming: Mutex<(u64, BTreeMap<Key, Incoming>)>,
}

fn failed(error: SnapshotError) -> Status {
    match error {
        SnapshotError::Damaged { .. } => Status::data_loss(error.to_string()),
        error => Status::resource_exhausted(error.to_string()),
    }
}

impl SnapshotReceiver {
    /// `fatal` is told of a failed sync.
    pub fn new(store: Arc<SnapshotStore>, fatal: FatalHook) -> Self {
        Self { store, fatal, incoming: Mutex::default() }
    }

    /// What is here already of a snapshot: its length so far, or `None` while it is installed.
    pub async fn begin(&self, key: Key, meta: SnapshotMeta) -> Result<Option<u64>, Status> {
        if key.len > BODY_BYTES_MAX {
            return Err(Status::invalid_argument(format!("snapshot of {} bytes", key.len)));
        }
        if let Some(incoming) = self.incoming.lock().1.get(&key) {
            return Ok((!incoming.installing).then_some(incoming.held));
        }
        let store = self.store.clone();
        let create = move || Partial::create(&*store.disk, &store.dir, &meta, key.len, key.digest);
        let partial = self.store.env.blocking(Lane::Data, create).await.map_err(failed)?;
        let evicted = {
            let mut incoming = self.incoming.lock();
            incoming.0 += 1;
            let began = incoming.0;
            let partial = Arc::new(partial);
            incoming.1.insert(key, Incoming { partial, held: 0, installing: false, began });
            let eldest = incoming.1.iter().filter(|(_, one)| !one.installing);
            let eldest = eldest.min_by_key(|(_, one)| one.began).map(|(key, _)| *key);
            match eldest {
                Some(eldest) if incoming.1.len() > INCOMING_MAX => incoming.1.remove(&eldest),
                _ => None,
            }
        };
        if let Some(evicted) = evicted {
            self.remove(evicted).await;
        }
        Ok(Some(0))
    }

    /// Writes a piece of the body; gives the offset after it.
    pub async fn write(&self, key: Key, offset: u64, bytes: Bytes) -> Result<u64, Status> {
        let partial = {
            let incoming = self.incoming.lock();
            let one = incoming.1.get(&key).filter(|one| !one.installing).ok_or_else(forgotten)?;
            if offset > one.held {
                let why = format!("snapshot piece at {offset}, {} bytes are here", one.held);
                return Err(Status::out_of_range(why));
            }
            one.partial.clone()
        };
        let end = offset + bytes.len() as u64;
        let write = move || partial.write(offset, &bytes);
        self.store.env.blocking(Lane::Data, write).await.map_err(failed)?;
        let mut incoming = self.incoming.lock();
        let one = incoming.1.get_mut(&key).ok_or_else(forgotten)?;
        one.held = one.held.max(end);
        Ok(end)
    }

    /// Checks the whole file. Until [`Self::end`], it counts as being installed.
    pub async fn finish(&self, key: Key) -> Result<SnapshotFile, Status> {
        let partial = {
            let mut incoming = self.incoming.lock();
            let one = incoming.1.get_mut(&key).filter(|one| !one.installing);
            let one = one.ok_or_else(forgotten)?;
            if one.held != key.len {
                let why = format!("snapshot of {} bytes ends at {}", key.len, one.held);
                return Err(Status::out_of_range(why));
            }
            one.installing = true;
            one.partial.clone()
        };
        let finished = self.store.env.blocking(Lane::Data, move || partial.finish()).await;
        if let Err(error @ SnapshotError::Sync { .. }) = &finished {
            (self.fatal)(error.to_string());
        }
        if finished.is_err() {
            let incoming = self.incoming.lock().1.remove(&key);
            if let Some(incoming) = incoming {
                self.remove(incoming).await;
            }
        }
        finished.map_err(failed)
    }

    /// The snapshot was installed, or refused. A file that nobody took goes.
    pub async fn end(&self, key: Key) {
        let incoming = self.incoming.lock().1.remove(&key);
        if let Some(incoming) = incoming {
            self.remove(incoming).await;
        }
    }

    async fn remove(&self, incoming: Incoming) {
        let store = self.store.clone();
        let removed = self.store.env.blocking(Lane::Data, move || {
            let path = incoming.partial.path();
            match store.disk.exists(path) {
                Ok(true) => store.disk.remove(path),
                other => other.map(drop),
            }
        });
        if let Err(error) = removed.await {
            tracing::warn!(%error, "a partial snapshot could not be removed");
        }
    }
}

fn forgotten() -> Status {
    Status::aborted("no such snapshot is being received; begin again")
}
