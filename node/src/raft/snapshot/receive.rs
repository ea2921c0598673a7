//! Incoming snapshots.
//!
//! A snapshot is identified by its log id and digest. So every stream brings the same bytes at the
//! same offsets. A broken stream continues where the last one ended, and two streams at once do no
//! harm. The digest of the whole file is compared before installing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cairn_host::seam::Lane;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use crate::fatal::FatalHook;
use crate::raft::snapshot::files::{BODY_BYTES_MAX, Partial, SnapshotError, SnapshotFile};
use crate::raft::snapshot::store::SnapshotStore;
use crate::raft::types::{LogId, SnapshotMeta};

/// Snapshots received at once: one from the leader, one from the leader before it.
const INCOMING_MAX: usize = 2;

/// The identity of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub last_log_id: LogId,
    pub len: u64,
    pub digest: [u8; 32],
}

struct Incoming {
    /// `None` while its file is being made.
    partial: Option<Arc<Partial>>,
    /// Bytes of the body written without a gap.
    held: u64,
    installing: bool,
    /// The number of its file. It is also the order of beginning: the oldest is removed first.
    number: u64,
}

pub struct SnapshotReceiver {
    store: Arc<SnapshotStore>,
    fatal: FatalHook,
    incoming: Arc<Mutex<BTreeMap<Key, Incoming>>>,
}

pub(in crate::raft) fn failed(error: SnapshotError) -> Status {
    match error {
        SnapshotError::Damaged { .. } => Status::data_loss(error.to_string()),
        error => Status::resource_exhausted(error.to_string()),
    }
}

impl SnapshotReceiver {
    /// `fatal` is told of a failed sync.
    pub fn new(store: Arc<SnapshotStore>, fatal: FatalHook) -> Self {
        Self { store, fatal, incoming: Arc::default() }
    }

    /// Returns the length of a snapshot received so far. `None` means that it is being installed or
    /// that its file is being made: ask again.
    ///
    /// Its place is taken before the first await. So two callers cannot begin the same snapshot
    /// while a disk hangs.
    pub async fn begin(&self, key: Key, meta: SnapshotMeta) -> Result<Option<u64>, Status> {
        if key.len > BODY_BYTES_MAX {
            return Err(Status::invalid_argument(format!("snapshot of {} bytes", key.len)));
        }
        let number = self.store.next_partial();
        let evicted = {
            let mut incoming = self.incoming.lock();
            if let Some(one) = incoming.get(&key) {
                let ready = !one.installing && one.partial.is_some();
                return Ok(ready.then_some(one.held));
            }
            incoming.insert(key, Incoming { partial: None, held: 0, installing: false, number });
            let eldest = incoming.iter().filter(|(_, one)| !one.installing);
            let eldest = eldest.min_by_key(|(_, one)| one.number).map(|(key, _)| *key);
            match eldest {
                Some(eldest) if incoming.len() > INCOMING_MAX => incoming.remove(&eldest),
                _ => None,
            }
        };
        if let Some(evicted) = evicted.and_then(|evicted| evicted.partial) {
            remove(&self.store, evicted).await;
        }
        // A separate task, so that a caller that gives up does not leave a place without a file.
        let (done, made) = oneshot::channel();
        let (store, incoming) = (Arc::clone(&self.store), Arc::clone(&self.incoming));
        self.store.env.spawn("snapshot begin", async move {
            let _ = done.send(make(store, &incoming, key, meta, number).await);
        });
        made.await.map_err(|_| Status::unavailable("the node stops"))?.map(|()| Some(0))
    }

    /// Writes a piece of the body. Returns the offset after it.
    pub async fn write(&self, key: Key, offset: u64, bytes: Bytes) -> Result<u64, Status> {
        let partial = {
            let incoming = self.incoming.lock();
            let one = incoming.get(&key).filter(|one| !one.installing).ok_or_else(forgotten)?;
            if offset > one.held {
                let why = format!("snapshot piece at {offset}, {} bytes are here", one.held);
                return Err(Status::out_of_range(why));
            }
            one.partial.clone().ok_or_else(forgotten)?
        };
        let end = offset + bytes.len() as u64;
        let written = Arc::clone(&partial);
        let write = move || partial.write(offset, &bytes);
        self.store.env.blocking(Lane::Snapshot, write).await.map_err(failed)?;
        let mut incoming = self.incoming.lock();
        let one = incoming.get_mut(&key).ok_or_else(forgotten)?;
        // While the disk was slow, it may have been given up and begun again in another file.
        if !one.partial.as_ref().is_some_and(|partial| Arc::ptr_eq(partial, &written)) {
            return Err(forgotten());
        }
        one.held = one.held.max(end);
        Ok(end)
    }

    /// Checks the whole file. Until [`Self::end`], it counts as being installed.
    pub async fn finish(&self, key: Key) -> Result<SnapshotFile, Status> {
        let partial = {
            let mut incoming = self.incoming.lock();
            let one = incoming.get_mut(&key).filter(|one| !one.installing);
            let one = one.ok_or_else(forgotten)?;
            if one.held != key.len {
                let why = format!("snapshot of {} bytes ends at {}", key.len, one.held);
                return Err(Status::out_of_range(why));
            }
            let partial = one.partial.clone().ok_or_else(forgotten)?;
            one.installing = true;
            partial
        };
        let finished = self.store.env.blocking(Lane::Snapshot, move || partial.finish()).await;
        if let Err(error @ SnapshotError::Sync { .. }) = &finished {
            (self.fatal)(error.to_string());
        }
        if finished.is_err() {
            self.end(key).await;
        }
        finished.map_err(failed)
    }

    /// The snapshot was installed or refused. A file that was not adopted is removed.
    pub async fn end(&self, key: Key) {
        let incoming = self.incoming.lock().remove(&key);
        if let Some(partial) = incoming.and_then(|incoming| incoming.partial) {
            remove(&self.store, partial).await;
        }
    }
}

/// Makes the file of a snapshot whose place is taken. If the place was given away meanwhile, the
/// file is removed again.
async fn make(
    store: Arc<SnapshotStore>,
    incoming: &Mutex<BTreeMap<Key, Incoming>>,
    key: Key,
    meta: SnapshotMeta,
    number: u64,
) -> Result<(), Status> {
    let making = Arc::clone(&store);
    let create =
        move || Partial::create(&*making.disk, &making.dir, number, &meta, key.len, key.digest);
    let made = store.env.blocking(Lane::Snapshot, create).await;
    let unwanted = {
        let mut incoming = incoming.lock();
        let place = incoming.get_mut(&key).filter(|one| one.number == number);
        match (made, place) {
            (Ok(partial), Some(one)) => {
                one.partial = Some(Arc::new(partial));
                return Ok(());
            }
            (Ok(partial), None) => partial,
            (Err(error), place) => {
                if place.is_some() {
                    incoming.remove(&key);
                }
                return Err(failed(error));
            }
        }
    };
    remove(&store, Arc::new(unwanted)).await;
    Err(forgotten())
}

async fn remove(store: &Arc<SnapshotStore>, partial: Arc<Partial>) {
    let disk = Arc::clone(&store.disk);
    let removed = store.env.blocking(Lane::Snapshot, move || {
        let path = partial.path();
        match disk.exists(path) {
            Ok(true) => disk.remove(path),
            other => other.map(drop),
        }
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "a partial snapshot could not be removed");
    }
}

fn forgotten() -> Status {
    Status::aborted("no such snapshot is being received; begin again")
}
