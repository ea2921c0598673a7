//! The state machine as openraft drives it: apply, snapshot, restore.
//!
//! The machine itself lives in memory behind a lock that readers share. The newest snapshot file
//! survives a restart. openraft restores it and applies the log from there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_types::audit::{AuditHead, Audited};
use cairn_types::canary;
use cairn_types::command::Reply;
use cairn_types::ids::{ClusterId, Lineage};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;

use super::applied::Applied;
use super::snapshot::files::{self, SnapshotError, SnapshotFile};
use super::snapshot::restore::Restorer;
use super::snapshot::store::SnapshotStore;
use super::types::{LogId, LogReply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::audit::Trail;
use crate::fatal::FatalHook;

/// The work of encoding a copy of the machine.
pub type Encode = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;
/// The work of decoding the output of [`Encode`].
pub type Decode<M> = Arc<dyn Fn(&[u8]) -> Result<M, String> + Send + Sync>;

/// Says whether a command can be applied, and if not, why.
pub type Check = Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// How long a snapshot that does not fit the disk waits for room.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The state machine that the log drives.
pub trait CatalogueMachine: Send + Sync + 'static {
    /// Applies the command of entry `index` of this term. An error means that it cannot be decoded. This node
    /// then does not know what the others did and must stop.
    fn apply(&mut self, term: u64, index: u64, command: &[u8]) -> Result<Reply, String>;
    /// The audit's record of the entry that was just applied, if it has one.
    fn take_audited(&mut self) -> Option<Audited> {
        None
    }
    /// The end of the audit's chain, as far as this machine has applied the log.
    fn audit_head(&self) -> AuditHead {
        AuditHead::default()
    }
    /// Tells in advance whether [`Self::apply`] would return an error. Such a command must not
    /// enter the log.
    fn checker(&self) -> Check;
    /// The cluster of this machine, once the log has named it.
    fn cluster(&self) -> Option<(ClusterId, Lineage)>;
    /// Takes a cheap copy now and returns the work of encoding it.
    fn snapshot(&self) -> Encode;
    /// The work of decoding a snapshot. Its complete result replaces the machine in one step.
    fn decoder(&self) -> Decode<Self>
    where
        Self: Sized;
}

/// Openraft's handle to the machine.
pub struct StateMachine<M> {
    machine: Arc<RwLock<M>>,
    store: Arc<SnapshotStore>,
    restorer: Restorer<M>,
    applied: Arc<Applied>,
    fatal: FatalHook,
    trail: Option<Arc<Trail>>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
}

impl<M: CatalogueMachine> StateMachine<M> {
    pub fn new(
        machine: Arc<RwLock<M>>,
        store: Arc<SnapshotStore>,
        applied: Arc<Applied>,
        fatal: FatalHook,
    ) -> Self {
        let membership = StoredMembership::default();
        let restorer = Restorer::new(store.clone(), machine.clone());
        let trail = None;
        Self { machine, store, restorer, applied, fatal, trail, last_applied: None, membership }
    }

    /// Records of the audit go there.
    pub fn with_trail(mut self, trail: Option<Arc<Trail>>) -> Self {
        self.trail = trail;
        self
    }

    pub(in crate::raft) fn checker(&self) -> Check {
        self.machine.read().checker()
    }

    /// Prepares a received snapshot for this machine.
    pub(in crate::raft) fn restorer(&self) -> Restorer<M> {
        self.restorer.clone()
    }

    /// Builds a snapshot of everything applied so far.
    fn builder(&self) -> SnapshotBuilder {
        SnapshotBuilder {
            encode: Some(self.machine.read().snapshot()),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            store: self.store.clone(),
            fatal: self.fatal.clone(),
            trail: self.trail.clone().map(|trail| (trail.last(), trail)),
        }
    }
}

/// Reports an error that stops the node, and hands it to openraft.
fn stop(fatal: &FatalHook, why: String) -> io::Error {
    fatal(why.clone());
    io::Error::other(why)
}

impl<Rt: AsyncRuntime, M: CatalogueMachine> RaftStateMachine<TypeConfig<Rt>> for StateMachine<M> {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig<Rt>>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let id = entry.log_id;
            let reply = match entry.payload {
                EntryPayload::Blank => LogReply::done(),
                EntryPayload::Normal(command) => {
                    let (applied, audited) = {
                        let mut machine = self.machine.write();
                        let applied = machine.apply(id.leader_id.term, id.index, &command.0);
                        (applied, machine.take_audited())
                    };
                    let reply = applied.map_err(|why| {
                        let why = format!("apply raft log entry {}: {why}", id.index);
                        stop(&self.fatal, why)
                    })?;
                    if let (Some(trail), Some(audited)) = (&self.trail, audited) {
                        trail.push(audited).await;
                    }
                    LogReply(Arc::new(reply))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    LogReply::done()
                }
            };
            self.last_applied = Some(id);
            // Done before the answer, because the receiver of the answer may read at once.
            self.applied.advance(id.index);
            tracing::trace!(applied = id.index);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.builder()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (store, machine) = (self.store.clone(), self.machine.clone());
        let (applied, last) = (self.applied.clone(), meta.last_log_id);
        // Decoding is done before any task has to wait for it, and before the snapshot gets its
        // name. A large one takes seconds, and readers of the machine are async tasks.
        let decoded = self.restorer.take(&snapshot).await;
        let mut decoded = decoded.map_err(|error| stop(&self.fatal, error.to_string()))?;
        if let Some(trail) = &self.trail {
            // Before the snapshot gets its name: a snapshot of this node whose records are not
            // durable then always means that records were lost.
            let is_own = self.store.current().as_ref() == Some(&snapshot);
            trail.adopt(decoded.audit_head(), is_own).await;
        }
        let install = move || -> Result<SnapshotFile, SnapshotError> {
            // The file is made durable under its name first. From here on the log that it covers
            // may be purged.
            let adopted = files::adopt(&*store.disk, &store.dir, &snapshot)?;
            {
                let mut machine = machine.write();
                std::mem::swap(&mut *machine, &mut decoded);
                // Both are set at once, so that a reader of machine and index sees a consistent
                // pair.
                if let Some(id) = last {
                    applied.advance(id.index);
                }
            }
            // The old machine is dropped here, without the lock.
            drop(decoded);
            Ok(adopted)
        };
        let adopted = {
            let _alone = self.store.placing.lock().await;
            let adopted = self.store.env.blocking(Lane::Snapshot, install).await;
            adopted.map_err(|error| stop(&self.fatal, error.to_string()))?
        };
        self.store.set_current(adopted);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.store.is_bad() {
            // The log that the snapshot covers is gone. A node that needs it can only get it from
            // here.
            match self.builder().write().await {
                Ok(file) => tracing::info!(path = file.path, "a snapshot in place of a bad one"),
                Err(error @ SnapshotError::Sync { .. }) => {
                    return Err(stop(&self.fatal, error.to_string()));
                }
                // The next request tries it again.
                Err(error) => tracing::warn!(%error, "no snapshot in place of a bad one"),
            }
        }
        Ok(self.store.current().map(|file| Snapshot { meta: file.meta.clone(), snapshot: file }))
    }
}

/// A copy of the machine, to be written to a file. Runs beside apply.
pub struct SnapshotBuilder {
    /// `None` once it is written.
    encode: Option<Encode>,
    meta: SnapshotMeta,
    store: Arc<SnapshotStore>,
    fatal: FatalHook,
    /// The audit, and the last of its records that the copy covers.
    trail: Option<(u64, Arc<Trail>)>,
}

impl SnapshotBuilder {
    /// On a full disk the snapshot waits, and the log keeps the entries that it would have
    /// replaced.
    async fn build(&mut self) -> io::Result<Snapshot> {
        loop {
            match self.write().await {
                Ok(file) => return Ok(Snapshot { meta: file.meta.clone(), snapshot: file }),
                Err(error) if error.is_full() => {
                    tracing::warn!(%error, "no snapshot until there is room; the log grows");
                    tokio::time::sleep(self.store.env.jitter(FULL_PAUSE)).await;
                }
                Err(error) => return Err(stop(&self.fatal, error.to_string())),
            }
        }
    }

    async fn write(&mut self) -> Result<SnapshotFile, SnapshotError> {
        // A restart applies the log from the snapshot on, and the log before it may be purged. So
        // what is not durable of the audit by then could not be derived again.
        if let Some((number, trail)) = &self.trail
            && !canary!("purge_before_audit")
        {
            trail.until_durable(*number).await;
        }
        let _alone = self.store.placing.lock().await;
        let (store, meta) = (self.store.clone(), self.meta.clone());
        let Some(encode) = self.encode.take() else {
            let (doing, path) = ("second building", self.store.dir.clone());
            let source = io::Error::other("a builder builds once");
            return Err(SnapshotError::Disk { doing, path, source });
        };
        let number = store.next_partial();
        let write = move || {
            let file = files::write(&*store.disk, &store.dir, number, &meta, &encode());
            // The copy now owns only the data that changed since it was taken. Dropping it takes
            // long, so it is done here and not on an async thread.
            let left = file.is_err().then_some(encode);
            (file, left)
        };
        let (file, left) = self.store.env.blocking(Lane::Snapshot, write).await;
        self.encode = left;
        let file = file?;
        self.store.set_current(file.clone());
        Ok(file)
    }
}

impl<Rt: AsyncRuntime> RaftSnapshotBuilder<TypeConfig<Rt>> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.build().await
    }
}
