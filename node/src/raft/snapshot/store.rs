//! The snapshot directory: the current file in it, and whether that file is sound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_host::seam::{Env, Lane};
use parking_lot::Mutex;

use super::files::{self, SnapshotError, SnapshotFile};
use crate::disk::Disk;
use crate::raft::types::LogId;

/// The snapshot directory and its current file.
pub struct SnapshotStore {
    pub(in crate::raft) env: Env,
    pub(in crate::raft) disk: Arc<dyn Disk>,
    pub(in crate::raft) dir: String,
    current: Mutex<Current>,
    /// Partial files made so far. Each has its own number.
    partials: AtomicU64,
    /// Held while a file is put in place. Each such step removes older files, and two snapshots of
    /// the same entries have the same name.
    pub(in crate::raft) placing: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Current {
    file: Option<SnapshotFile>,
    /// Its bytes differ from the written ones.
    is_bad: bool,
}

impl SnapshotStore {
    /// Finds the newest sound snapshot. `purged` says how far back the log reaches.
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

    /// Whether the current file's bytes differ from the written ones.
    pub(in crate::raft) fn is_bad(&self) -> bool {
        self.current.lock().is_bad
    }

    /// Makes `file` current unless a newer one is.
    pub(in crate::raft) fn set_current(&self, file: SnapshotFile) {
        let mut current = self.current.lock();
        let is_newer = |old: &SnapshotFile| old.meta.last_log_id > file.meta.last_log_id;
        if !current.file.as_ref().is_some_and(is_newer) {
            *current = Current { file: Some(file), is_bad: false };
        }
    }

    /// A peer says that it received other bytes than were announced. If this disk has those wrong
    /// bytes, the next request for a snapshot makes a new one.
    pub(in crate::raft) async fn look_at(&self, snapshot: &SnapshotFile) {
        let (disk, file) = (self.disk.clone(), snapshot.clone());
        let check = move || files::check(&*disk, &file);
        if let Err(error) = self.env.blocking(Lane::Snapshot, check).await {
            self.found_bad(snapshot, &error);
        }
    }

    /// Does nothing if another file has replaced this one.
    pub(in crate::raft) fn found_bad(&self, snapshot: &SnapshotFile, why: &dyn std::fmt::Display) {
        let mut current = self.current.lock();
        if current.file.as_ref() == Some(snapshot) {
            tracing::error!(path = snapshot.path, %why, "own snapshot is of no use");
            current.is_bad = true;
        }
    }
}
