//! The store's books: which segments are durable here, and whose space is spoken for.
//!
//! A digest enters `held` only after the directory fsync that made its name durable, and leaves
//! it before its file is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::ids::SegmentDigest;
use parking_lot::Mutex;

use super::error::StoreError;
use super::format::file_len;
use crate::disk::Space;

/// Segments received at the same time. Each pins up to three 1 MiB buffers.
pub const WRITERS_MAX: usize = 128;

#[derive(Default)]
pub(super) struct Books {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Raw length by digest.
    held: BTreeMap<SegmentDigest, u32>,
    /// Bytes of the files of `held`.
    held_bytes: u64,
    /// Files at their final place that do not count, and their file bytes: they failed the check
    /// at start, or could not be moved aside.
    damaged: BTreeMap<SegmentDigest, u64>,
    damaged_bytes: u64,
    /// How many files of a digest are in quarantine.
    quarantined: BTreeMap<SegmentDigest, usize>,
    quarantine_bytes: u64,
    /// File bytes promised to writers.
    reserved_bytes: u64,
    /// The part of `reserved_bytes` that the file system does not count as used yet.
    unwritten_bytes: u64,
    writers: usize,
}

/// How much room there is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub capacity: u64,
    /// Never given to data.
    pub reserve: u64,
    /// Segment files held, and files in quarantine.
    pub held: u64,
    pub quarantined: u64,
    /// Promised to uploads in progress.
    pub reserved: u64,
    pub disk: Space,
    /// What new segment files may take.
    pub available: u64,
}

impl Books {
    pub(super) fn len_of(&self, digest: SegmentDigest) -> Option<u64> {
        self.state.lock().held.get(&digest).map(|len| u64::from(*len))
    }

    pub(super) fn held(&self) -> Vec<(SegmentDigest, u64)> {
        let state = self.state.lock();
        state.held.iter().map(|(digest, len)| (*digest, u64::from(*len))).collect()
    }

    pub(super) fn held_after(
        &self,
        after: Option<SegmentDigest>,
        limit: usize,
    ) -> Vec<(SegmentDigest, u64)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let state = self.state.lock();
        let range = state.held.range((from, Unbounded)).take(limit);
        range.map(|(digest, len)| (*digest, u64::from(*len))).collect()
    }

    /// Segments held, and the bytes of their files.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.held.len() as u64, state.held_bytes)
    }

    /// `len` is 1 byte to 32 MiB.
    pub(super) fn enter(&self, digest: SegmentDigest, len: u64) {
        let mut state = self.state.lock();
        let fits = u32::try_from(len).unwrap_or(u32::MAX);
        if state.held.insert(digest, fits).is_none() {
            state.held_bytes += file_len(len);
        }
    }

    /// Takes a digest out of the durable set; returns its raw length if it was there.
    pub(super) fn leave(&self, digest: SegmentDigest) -> Option<u64> {
        let mut state = self.state.lock();
        let len = u64::from(state.held.remove(&digest)?);
        state.held_bytes -= file_len(len);
        Some(len)
    }

    pub(super) fn enter_damaged(&self, digest: SegmentDigest, file_bytes: u64) {
        let mut state = self.state.lock();
        let before = state.damaged.insert(digest, file_bytes).unwrap_or(0);
        state.damaged_bytes = state.damaged_bytes + file_bytes - before;
    }

    pub(super) fn leave_damaged(&self, digest: SegmentDigest) {
        let mut state = self.state.lock();
        let bytes = state.damaged.remove(&digest).unwrap_or(0);
        state.damaged_bytes -= bytes;
    }

    pub(super) fn is_damaged(&self, digest: SegmentDigest) -> bool {
        self.state.lock().damaged.contains_key(&digest)
    }

    pub(super) fn damaged(&self) -> Vec<SegmentDigest> {
        self.state.lock().damaged.keys().copied().collect()
    }

    /// `None` for a file whose name is not one of ours.
    pub(super) fn enter_quarantine(&self, digest: Option<SegmentDigest>, file_bytes: u64) {
        let mut state = self.state.lock();
        state.quarantine_bytes += file_bytes;
        if let Some(digest) = digest {
            *state.quarantined.entry(digest).or_default() += 1;
        }
    }

    pub(super) fn leave_quarantine(&self, digest: SegmentDigest, file_bytes: u64) {
        let mut state = self.state.lock();
        state.quarantine_bytes = state.quarantine_bytes.saturating_sub(file_bytes);
        if let Some(count) = state.quarantined.get_mut(&digest) {
            *count -= 1;
            if *count == 0 {
                state.quarantined.remove(&digest);
            }
        }
    }

    pub(super) fn is_quarantined(&self, digest: SegmentDigest) -> bool {
        self.state.lock().quarantined.contains_key(&digest)
    }

    pub(super) fn room(&self, capacity: u64, reserve: u64, disk: Space) -> Room {
        self.state.lock().room(capacity, reserve, disk)
    }

    /// Takes `needed` file bytes for a writer.
    pub(super) fn reserve(
        self: &Arc<Self>,
        needed: u64,
        capacity: u64,
        reserve: u64,
        disk: Space,
    ) -> Result<Reservation, StoreError> {
        let mut state = self.state.lock();
        if state.writers >= WRITERS_MAX {
            return Err(StoreError::Busy { writers: state.writers });
        }
        let available = state.room(capacity, reserve, disk).available;
        if needed > available {
            return Err(StoreError::NoSpace { needed, available, reserve });
        }
        state.writers += 1;
        state.reserved_bytes += needed;
        state.unwritten_bytes += needed;
        Ok(Reservation { books: Arc::clone(self), reserved: needed, unwritten: needed })
    }
}

impl State {
    fn room(&self, capacity: u64, reserve: u64, disk: Space) -> Room {
        let quarantined = self.quarantine_bytes + self.damaged_bytes;
        let used = self.held_bytes + quarantined + self.reserved_bytes;
        let on_disk = disk.available.saturating_sub(reserve + self.unwritten_bytes);
        Room {
            capacity,
            reserve,
            held: self.held_bytes,
            quarantined,
            reserved: self.reserved_bytes,
            disk,
            available: on_disk.min(capacity.saturating_sub(used)),
        }
    }
}

/// One writer's space, given back when dropped: by then its file is held, or gone.
pub(super) struct Reservation {
    books: Arc<Books>,
    reserved: u64,
    unwritten: u64,
}

impl Reservation {
    /// `bytes` more of the file are written, so that the file system counts them as used.
    pub(super) fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.unwritten);
        self.unwritten -= bytes;
        self.books.state.lock().unwritten_bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.books.state.lock();
        state.writers -= 1;
        state.reserved_bytes -= self.reserved;
        state.unwritten_bytes -= self.unwritten;
    }
}
