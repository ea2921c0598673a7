//! Counters of the store's work since it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(super) struct Counters {
    pub segments_written: AtomicU64,
    pub bytes_written: AtomicU64,
    pub segments_received: AtomicU64,
    pub bytes_received: AtomicU64,
    pub blocks_read: AtomicU64,
    pub bytes_read: AtomicU64,
    pub segments_verified: AtomicU64,
    pub bytes_verified: AtomicU64,
    pub segments_destroyed: AtomicU64,
    pub bytes_destroyed: AtomicU64,
    pub segments_quarantined: AtomicU64,
}

/// A snapshot. Bytes are raw bytes, except for `bytes_held`, which counts whole files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Made durable and visible.
    pub segments_written: u64,
    pub bytes_written: u64,
    /// Offered by senders, whether or not they became visible.
    pub segments_received: u64,
    pub bytes_received: u64,
    pub blocks_read: u64,
    pub bytes_read: u64,
    /// Re-read whole and found good.
    pub segments_verified: u64,
    pub bytes_verified: u64,
    pub segments_destroyed: u64,
    pub bytes_destroyed: u64,
    pub segments_quarantined: u64,
    pub segments_held: u64,
    pub bytes_held: u64,
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn snapshot(&self, (segments_held, bytes_held): (u64, u64)) -> StoreStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            segments_written: get(&self.segments_written),
            bytes_written: get(&self.bytes_written),
            segments_received: get(&self.segments_received),
            bytes_received: get(&self.bytes_received),
            blocks_read: get(&self.blocks_read),
            bytes_read: get(&self.bytes_read),
            segments_verified: get(&self.segments_verified),
            bytes_verified: get(&self.bytes_verified),
            segments_destroyed: get(&self.segments_destroyed),
            bytes_destroyed: get(&self.bytes_destroyed),
            segments_quarantined: get(&self.segments_quarantined),
            segments_held,
            bytes_held,
        }
    }
}
