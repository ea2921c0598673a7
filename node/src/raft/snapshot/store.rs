//! The snapshot directory: which file in it is current, and whether that is sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_host::seam::{Env, Lane};
use parking_lot::Mutex;

use super::files::{self, SnapshotError, SnapshotFile};
use crate::disk::Disk;
use crate::raft::types::LogId;

/// The snapshot directory and which file in it is current.
pub struct SnapshotStore {
    pub(in crate::raft) env: Env,
    pub(in crate::raft) disk: Arc<dyn Disk>,
    pub(in crate::raft) dir: String,
    current: Mutex<Current>,
    /// Partial files made so far: each has a number of its own.
    partials: AtomicU64,
    /// Held while files are put in place: each removes those it finds older, and two snapshots of
    /// the same entries have one name.
    pub(in crate::raft) placing: tokio::sync::Mutex<()>,
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
            env.blocking(Lane::Snapshot, move || files::load(&*files, &name, purged)).await?;
        let current = Mutex::new(Current { file: current, is_bad: false });
        let (partials, placing) = Default::default();
        Ok(Arc::new(Self { env, disk, dir: dir.into(), current, partials, placing }))
    }

    /// For the name of the next partial file.
    pub(in crate::raft) fn next_partial(&self) -> u64 {
        self.partials.fetch_add(1, Ordering::Relaxed)
    }

    pub(in crate::raft) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().file.clone()
    }

    /// Whether the current file's bytes are not what was written.
    pub(in crate::raft) fn is_bad(&self) -> bool {
        self.current.lock().is_bad
    }

    /// Takes `file` as current unless a newer one is.
    pub(in crate::raft) fn set_current(&self, file: SnapshotFile) {
        let mut current = self.current.lock();
        let is_newer = |old: &SnapshotFile| old.meta.last_log_id > file.meta.last_log_id;
        if !current.file.as_ref().is_some_and(is_newer) {
            *current = Current { file: Some(file), is_bad: false };
        }
    }

    /// A peer says that it got other bytes than were announced: if they are so on this disk,
    /// another snapshot is made when one is asked for.
    pub(in crate::raft) async fn look_at(&self, snapshot: &SnapshotFile) {
        let (disk, file) = (self.disk.clone(), snapshot.clone());
        let check = move || files::check(&*disk, &file);
        if let Err(error) = self.env.blocking(Lane::Snapshot, check).await {
            self.found_bad(snapshot, &error);
        }
    }

    /// Nothing, if another one has taken its place.
    pub(in crate::raft) fn found_bad(&self, snapshot: &SnapshotFile, why: &dyn std::fmt::Display) {
        let mut current = self.current.lock();
        if current.file.as_ref() == Some(snapshot) {
            tracing::error!(path = snapshot.path, %why, "own snapshot is of no use");
            current.is_bad = true;
        }
    }
}
