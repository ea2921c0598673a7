//! Which checkpoint of its namespace has most of another one's bytes.
//!
//! ```text
//!   commits of the namespace    ... 5   3   1  [it]  2   4 ...     the order in which they are compared
//! ```
//!
//! Training writes checkpoints that resemble their neighbours, so the nearest commits come first, and a
//! walk that has to end early has seen those that matter. It is for a copy of the catalogue, beside the
//! async threads.

use super::{Catalogue, Checkpoint};
use crate::segment_set::SegmentSet;
use cairn_types::ids::{CheckpointId, Step};
use cairn_types::limits::SHARED_REFERENCES_MAX;

/// The checkpoint that names most of another one's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMost {
    pub checkpoint: CheckpointId,
    pub step: Step,
    /// Raw bytes of the segments that both name.
    pub bytes: u64,
    /// How many checkpoints were compared.
    pub compared: u64,
}

impl Catalogue {
    /// Compares a committed checkpoint with the other commits of its namespace, the nearest first, until
    /// `SHARED_REFERENCES_MAX` references are walked. `None` if it shares nothing with these.
    pub fn shared_most(&self, record: &Checkpoint) -> Option<SharedMost> {
        let own: SegmentSet = record.segments.iter().collect();
        let (mut most, mut compared, mut walked) = (None::<SharedMost>, 0, own.len());
        for other in self.neighbours(record) {
            if walked >= SHARED_REFERENCES_MAX {
                break;
            }
            walked += other.segments.len();
            compared += 1;
            let both = other.segments.iter().filter(|id| own.contains(*id));
            let bytes = both.map(|id| self.raw_len(id)).sum();
            if bytes > most.map_or(0, |most| most.bytes) {
                let (checkpoint, step) = (other.id, other.step);
                most = Some(SharedMost { checkpoint, step, bytes, compared });
            }
            // No other has more.
            if bytes == record.segment_bytes {
                break;
            }
        }
        most.map(|most| SharedMost { compared, ..most })
    }

    /// The other commits of the namespace: the one before, the one after, the second before, ...
    fn neighbours<'a>(&'a self, record: &Checkpoint) -> impl Iterator<Item = &'a Checkpoint> {
        let index = |it: &Checkpoint| it.commit.map_or(0, |commit| commit.index);
        let own = index(record);
        let older = self.commits(&record.namespace).filter(move |it| index(it) < own);
        let newer = self.commits(&record.namespace).rev().filter(move |it| index(it) > own);
        let (mut older, mut newer) = (older.fuse(), newer.fuse());
        let mut is_older = false;
        std::iter::from_fn(move || {
            is_older = !is_older;
            let next = match is_older {
                true => older.next().or_else(|| newer.next()),
                false => newer.next().or_else(|| older.next()),
            };
            next.map(|it| &**it)
        })
    }
}
