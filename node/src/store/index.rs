//! The store's index: which segments are durable here, and which space is reserved.
//!
//! A digest enters `held` only after the directory fsync that made its name durable, and leaves
//! it before its file is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::canary;
use cairn_types::form::{Form, StoredBlocks};
use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

use super::error::StoreError;
use super::format::file_len;
use crate::disk::Space;

/// Segments received at the same time, uploads and catch-up together. Each pins up to three 1 MiB
/// buffers.
pub const WRITERS_MAX: usize = 80;

/// Files kept free for the log, snapshots and the ledger. With fewer free inodes than this there is
/// no room for data, even if there is free space.
const INODES_MIN: u64 = 64;

#[derive(Default)]
pub(super) struct StoreIndex {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<SegmentDigest, Held>,
    /// Bytes of the files of `held`.
    held_bytes: u64,
    /// Files at their final place that do not count as held, with their file bytes. They failed the
    /// check at start or could not be moved to quarantine.
    damaged: BTreeMap<SegmentDigest, u64>,
    damaged_bytes: u64,
    /// How many files of a digest are in quarantine.
    quarantined: BTreeMap<SegmentDigest, usize>,
    quarantine_bytes: u64,
    /// File bytes reserved for writers.
    reserved_bytes: u64,
    /// The part of `reserved_bytes` that the file system does not count as used yet.
    unwritten_bytes: u64,
    writers: usize,
}

/// A segment that is durable here, as its file describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub form: Form,
    /// At most about 34 MiB.
    file_bytes: u32,
}

impl Held {
    pub(super) fn of(blocks: &StoredBlocks) -> Self {
        Self { form: blocks.form(), file_bytes: file_len(blocks) as u32 }
    }

    pub(super) fn raw_len(&self) -> u64 {
        self.form.raw_len().into()
    }

    /// Length of its file.
    pub(super) fn file_len(&self) -> u64 {
        self.file_bytes.into()
    }
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
    /// Reserved for uploads in progress.
    pub reserved: u64,
    pub disk: Space,
    /// What new segment files may take.
    pub available: u64,
}

impl StoreIndex {
    pub(super) fn len_of(&self, digest: SegmentDigest) -> Option<u64> {
        self.find(digest).map(|held| held.raw_len())
    }

    pub(super) fn find(&self, digest: SegmentDigest) -> Option<Held> {
        self.state.lock().held.get(&digest).copied()
    }

    pub(super) fn held(&self) -> Vec<(SegmentDigest, u64)> {
        let state = self.state.lock();
        state.held.iter().map(|(digest, held)| (*digest, held.raw_len())).collect()
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
        range.map(|(digest, held)| (*digest, held.raw_len())).collect()
    }

    /// Segments held, and the bytes of their files.
    pub(super) fn totals(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.held.len() as u64, state.held_bytes)
    }

    pub(super) fn enter(&self, digest: SegmentDigest, held: Held) {
        let mut state = self.state.lock();
        let before = state.held.insert(digest, held).map_or(0, |before| before.file_len());
        state.held_bytes = state.held_bytes + held.file_len() - before;
    }

    /// Takes a digest out of the durable set. Returns its entry.
    pub(super) fn leave(&self, digest: SegmentDigest) -> Option<Held> {
        let mut state = self.state.lock();
        let held = state.held.remove(&digest)?;
        state.held_bytes -= held.file_len();
        Some(held)
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

    /// `digest` is `None` for a file whose name is not in our format.
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

    /// How many copies of a digest are in quarantine.
    pub(super) fn quarantined(&self, digest: SegmentDigest) -> usize {
        self.state.lock().quarantined.get(&digest).copied().unwrap_or(0)
    }

    pub(super) fn room(&self, capacity: u64, reserve: u64, disk: Space) -> Room {
        self.state.lock().room(capacity, reserve, disk)
    }

    /// Reserves `needed` file bytes for a writer.
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
        if disk.inodes < INODES_MIN {
            return Err(StoreError::NoInodes);
        }
        if needed > available {
            return Err(StoreError::NoSpace { needed, available, reserve });
        }
        state.writers += 1;
        state.reserved_bytes += needed;
        state.unwritten_bytes += needed;
        Ok(Reservation { index: Arc::clone(self), reserved: needed, unwritten: needed })
    }
}

impl State {
    fn room(&self, capacity: u64, reserve: u64, disk: Space) -> Room {
        let quarantined = self.quarantine_bytes + self.damaged_bytes;
        let used = self.held_bytes + quarantined + self.reserved_bytes;
        let on_disk = match disk.inodes < INODES_MIN {
            true => 0,
            false => disk.available.saturating_sub(reserve + self.unwritten_bytes),
        };
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

/// One writer's space. Dropping it returns the space; by then the file is held or removed.
pub(super) struct Reservation {
    index: Arc<StoreIndex>,
    reserved: u64,
    unwritten: u64,
}

impl Reservation {
    /// `bytes` more of the file are written, so that the file system counts them as used.
    pub(super) fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.unwritten);
        self.unwritten -= bytes;
        self.index.state.lock().unwritten_bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.index.state.lock();
        state.writers -= 1;
        if self.unwritten > 0 && canary!("keep_reservation") {
            return;
        }
        state.reserved_bytes -= self.reserved;
        state.unwritten_bytes -= self.unwritten;
    }
}
