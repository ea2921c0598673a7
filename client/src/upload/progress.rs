//! Counters of a running upload, to be read at any time by whoever shows them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::caller_code::Watcher;
use crate::cut::Plan;
use crate::source::Source;

/// Bytes and segments so far. Each segment of data is counted once, whatever its replicas.
#[derive(Debug, Default)]
pub struct Progress {
    pub files_total: AtomicU64,
    /// Of all files.
    pub bytes_total: AtomicU64,
    pub segments_total: AtomicU64,
    pub bytes_hashed: AtomicU64,
    pub segments_hashed: AtomicU64,
    /// Durable in the cluster before this run: nothing was sent for them.
    pub bytes_kept: AtomicU64,
    pub segments_kept: AtomicU64,
    /// Sent, and acknowledged by W nodes.
    pub bytes_acked: AtomicU64,
    pub segments_acked: AtomicU64,
    /// Handed to the network, all replicas and repetitions counted.
    pub bytes_on_wire: AtomicU64,
    watcher: Watcher<Progress>,
}

impl Progress {
    /// Counters that call `told` after each change, on the thread that makes it: `told` must be
    /// quick. If it panics, it is not called again, and the upload goes on.
    pub fn watched(told: impl Fn(&Progress) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { watcher: Watcher::new(told), ..Self::default() })
    }

    pub(super) fn note_on_wire(&self, bytes: u64) {
        self.bytes_on_wire.fetch_add(bytes, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    pub(super) fn note_plan(&self, plan: &Plan, source: &dyn Source) {
        let bytes: u64 = source.entries().iter().map(|entry| entry.len).sum();
        self.files_total.store(source.entries().len() as u64, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
        self.segments_total.store(plan.segments.len() as u64, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    pub(super) fn note_hashed(&self, bytes: u64) {
        self.segments_hashed.fetch_add(1, Ordering::Relaxed);
        self.bytes_hashed.fetch_add(bytes, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    pub(super) fn note_kept(&self, bytes: u64) {
        self.segments_kept.fetch_add(1, Ordering::Relaxed);
        self.bytes_kept.fetch_add(bytes, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    pub(super) fn note_acked(&self, bytes: u64) {
        self.segments_acked.fetch_add(1, Ordering::Relaxed);
        self.bytes_acked.fetch_add(bytes, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    /// Segments and bytes sent.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.segments_acked.load(Ordering::Relaxed), self.bytes_acked.load(Ordering::Relaxed))
    }

    pub(super) fn kept(&self) -> (u64, u64) {
        (self.segments_kept.load(Ordering::Relaxed), self.bytes_kept.load(Ordering::Relaxed))
    }
}
