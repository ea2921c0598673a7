//! Converts a snapshot's body to a machine. A received snapshot is decoded before it gets its final
//! name. One that cannot be restored would otherwise stop the node at every start.

use std::sync::Arc;

use cairn_host::seam::Lane;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Mutex as Turns;

use crate::raft::machine::CatalogueMachine;
use crate::raft::snapshot::files::{self, SnapshotError, SnapshotFile};
use crate::raft::snapshot::store::SnapshotStore;

/// A place in a queue.
type Turn = Turns<()>;

/// Decodes snapshots for one machine. Clones share the decoded result.
pub(in crate::raft) struct Restorer<M> {
    store: Arc<SnapshotStore>,
    machine: Arc<RwLock<M>>,
    /// The last received one, until it is installed. A large one takes seconds to decode.
    ready: Arc<Mutex<Option<(SnapshotFile, M)>>>,
    /// Received snapshots are decoded one at a time: each is as large as the catalogue.
    turn: Arc<Turn>,
}

impl<M> Clone for Restorer<M> {
    fn clone(&self) -> Self {
        let Self { store, machine, ready, turn } = self;
        let (ready, turn) = (ready.clone(), turn.clone());
        Self { store: store.clone(), machine: machine.clone(), ready, turn }
    }
}

impl<M: CatalogueMachine> Restorer<M> {
    pub fn new(store: Arc<SnapshotStore>, machine: Arc<RwLock<M>>) -> Self {
        Self { store, machine, ready: Arc::default(), turn: Arc::default() }
    }

    /// Held from [`Restorer::prepare`] until the snapshot is installed or forgotten.
    pub async fn turn(&self) -> impl Sized {
        self.turn.clone().lock_owned().await
    }

    /// Decodes a received snapshot. Keeps the result if `judge` accepts it.
    pub async fn prepare(
        &self,
        snapshot: &SnapshotFile,
        judge: impl FnOnce(&M) -> Result<(), String>,
    ) -> Result<(), SnapshotError> {
        let decoded = self.decode(snapshot).await?;
        judge(&decoded)
            .map_err(|why| SnapshotError::Restore { path: snapshot.path.clone(), why })?;
        let before = self.ready.lock().replace((snapshot.clone(), decoded));
        self.drop_apart(before).await;
        Ok(())
    }

    /// A snapshot as a machine: the prepared one, or one read now.
    pub async fn take(&self, snapshot: &SnapshotFile) -> Result<M, SnapshotError> {
        let ready = self.ready.lock().take_if(|(of, _)| of == snapshot);
        match ready {
            Some((_, machine)) => Ok(machine),
            None => self.decode(snapshot).await,
        }
    }

    /// The snapshot will not be installed.
    pub async fn forget(&self, snapshot: &SnapshotFile) {
        let unused = self.ready.lock().take_if(|(of, _)| of == snapshot);
        self.drop_apart(unused).await;
    }

    /// Dropping a large machine takes long. So it is not done on an async thread or under a lock.
    async fn drop_apart(&self, unused: Option<(SnapshotFile, M)>) {
        if let Some(unused) = unused {
            self.store.env.blocking(Lane::Snapshot, move || drop(unused)).await;
        }
    }

    async fn decode(&self, snapshot: &SnapshotFile) -> Result<M, SnapshotError> {
        let decode = self.machine.read().decoder();
        let (store, snapshot) = (self.store.clone(), snapshot.clone());
        let read = move || {
            let body = files::read_body(&*store.disk, &snapshot)?;
            decode(&body).map_err(|why| SnapshotError::Restore { path: snapshot.path, why })
        };
        self.store.env.blocking(Lane::Snapshot, read).await
    }
}
