//! The state machine as openraft drives it: apply, snapshot, restore.
//!
//! The machine itself lives in memory behind a lock that readers share. What survives a restart
//! is the newest snapshot file; openraft restores it and applies the log from there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::command::Reply;
use cairn_proto::seam::{Env, Lane};
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};

use super::FatalHook;
use super::applied::Applied;
use super::snapshot_files::{self, SnapshotError, SnapshotFile};
use super::types::{LogId, LogReply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use crate::disk::Disk;

/// The work of encoding a copy of the machine.
pub type Encode = Arc<dyn Fn() -> Vec<u8> + Send + Sync>;

/// How long a snapshot that does not fit the disk waits for room.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// What the log drives.
pub trait CatalogueMachine: Send + Sync + 'static {
    /// Applies the command of entry `index`. An error says that it cannot be decoded: this node
    /// does not know what the others did, and must stop.
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Reply, String>;
    /// Takes a cheap copy now and gives back the work of encoding it.
    fn snapshot(&self) -> Encode;
    /// Replaces everything by what an encoded snapshot holds.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
}

/// The snapshot directory and which file in it is current.
pub struct SnapshotStore {
    pub(super) env: Env,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: String,
    current: Mutex<Current>,
    /// Held while files are put in place: each removes those it finds older, and two snapshots of
    /// the same entries have one name.
    placing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Current {
    file: Option<SnapshotFile>,
    /// Its bytes are not what was written.
    is_bad: bool,
}

impl SnapshotStore {
    /// Finds the newest sound snapshot; `purged` says how far back the log reaches.
    pub async fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        dir: &str,
        purged: Option<LogId>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let (files, name) = (disk.clone(), dir.to_owned());
        let current =
            env.blocking(Lane::Data, move || snapshot_files::load(&*files, &name, purged)).await?;
        let current = Mutex::new(Current { file: current, is_bad: false });
        Ok(Arc::new(Self { env, disk, dir: dir.into(), current, placing: Default::default() }))
    }

    /// Takes `file` as current unless a newer one is.
    fn set_current(&self, file: SnapshotFile) {
        let mut current = self.current.lock();
        let is_newer = |old: &SnapshotFile| old.meta.last_log_id > file.meta.last_log_id;
        if !current.file.as_ref().is_some_and(is_newer) {
            *current = Current { file: Some(file), is_bad: false };
        }
    }

    /// A peer says that it got other bytes than were announced: if they are so on this disk,
    /// another snapshot is made when one is asked for.
    pub(super) async fn look_at(&self, snapshot: &SnapshotFile) {
        let (disk, file) = (self.disk.clone(), snapshot.clone());
        let check = move || snapshot_files::check(&*disk, &file);
        if let Err(error) = self.env.blocking(Lane::Data, check).await {
            self.found_bad(snapshot, &error);
        }
    }

    /// Nothing, if another one has taken its place.
    pub(super) fn found_bad(&self, snapshot: &SnapshotFile, why: &dyn std::fmt::Display) {
        let mut current = self.current.lock();
        if current.file.as_ref() == Some(snapshot) {
            tracing::error!(path = snapshot.path, %why, "own snapshot is of no use");
            current.is_bad = true;
        }
    }
}

/// Openraft's handle to the machine.
pub struct StateMachine<M> {
    machine: Arc<RwLock<M>>,
    store: Arc<SnapshotStore>,
    applied: Arc<Applied>,
    fatal: FatalHook,
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
        Self { machine, store, applied, fatal, last_applied: None, membership }
    }

    /// Of everything applied so far.
    fn builder(&self) -> SnapshotBuilder {
        SnapshotBuilder {
            encode: self.machine.read().snapshot(),
            meta: SnapshotMeta {
                last_log_id: self.last_applied,
                last_membership: self.membership.clone(),
            },
            store: self.store.clone(),
            fatal: self.fatal.clone(),
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
                    let applied = self.machine.write().apply(id.index, &command.0);
                    let reply = applied.map_err(|why| {
                        let why = format!("apply raft log entry {}: {why}", id.index);
                        stop(&self.fatal, why)
                    })?;
                    LogReply(Arc::new(reply))
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    LogReply::done()
                }
            };
            self.last_applied = Some(id);
            // Before the answer: who gets it may read at once.
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
        let install = move || -> Result<SnapshotFile, SnapshotError> {
            let body = snapshot_files::read_body(&*store.disk, &snapshot)?;
            // Durable under its name first: from here on the log it covers may be purged.
            let adopted = snapshot_files::adopt(&*store.disk, &store.dir, &snapshot)?;
            machine
                .write()
                .restore(&body)
                .map_err(|why| SnapshotError::Restore { path: adopted.path.clone(), why })?;
            // At once: who looks at machine and index together sees a pair.
            if let Some(id) = last {
                applied.advance(id.index);
            }
            Ok(adopted)
        };
        let adopted = {
            let _alone = self.store.placing.lock().await;
            let adopted = self.store.env.blocking(Lane::Data, install).await;
            adopted.map_err(|error| stop(&self.fatal, error.to_string()))?
        };
        self.store.set_current(adopted);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let is_bad = self.store.current.lock().is_bad;
        if is_bad {
            // The log it covers is gone: whoever needs it gets it from here, or not at all.
            match self.builder().write().await {
                Ok(file) => tracing::info!(path = file.path, "a snapshot in place of a bad one"),
                Err(error @ SnapshotError::Sync { .. }) => {
                    return Err(stop(&self.fatal, error.to_string()));
                }
                // Asked again, it is tried again.
                Err(error) => tracing::warn!(%error, "no snapshot in place of a bad one"),
            }
        }
        let file = self.store.current.lock().file.clone();
        Ok(file.map(|file| Snapshot { meta: file.meta.clone(), snapshot: file }))
    }
}

/// A copy of the machine, on its way to a file. Runs beside apply.
pub struct SnapshotBuilder {
    encode: Encode,
    meta: SnapshotMeta,
    store: Arc<SnapshotStore>,
    fatal: FatalHook,
}

impl SnapshotBuilder {
    /// On a full disk the snapshot waits, and the log keeps what it would have replaced.
    async fn build(&self) -> io::Result<Snapshot> {
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

    async fn write(&self) -> Result<SnapshotFile, SnapshotError> {
        let _alone = self.store.placing.lock().await;
        let (store, meta, encode) = (self.store.clone(), self.meta.clone(), self.encode.clone());
        let write = move || snapshot_files::write(&*store.disk, &store.dir, &meta, &encode());
        let file = self.store.env.blocking(Lane::Data, write).await?;
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
