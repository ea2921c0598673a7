//! The catalogue's own record of a checkpoint.
//!
//! References: a checkpoint holds at most one on a segment, taken at Stage. They are kept in two
//! disjoint sets, `segments` (what the commit names) and `loose` (the rest):
//!
//! ```text
//!   Open       segments = {}            loose = everything staged by any run or attempt
//!   Committed  segments = the content   loose = leftovers, dropped by DropReferences
//!   Deleted    in the trash: as they were, until the grace is over or a deletion with `now`
//!              then segments, loose = what DropReferences has not yet dropped
//! ```
//!
//! An upload that was aborted or expired is in no trash: its references are dropped at once, and their
//! segments wait out the grace. Until that is over, its record stays with them in `dropped`, so that
//! `rm --deleted` can give their space back early. `dropped` is no reference, and keeps nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::persistent::Map;
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::id_set::IdSet;
use cairn_types::ids::{Attempt, CheckpointId, Namespace, SegmentId, Step};
use cairn_types::marks::Quarantine;
use cairn_types::model::{
    Began, CheckpointState, Commit, DeletedFor, Metric, OpenPart, Policy, SealedPart,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub id: CheckpointId,
    pub namespace: Namespace,
    pub step: Step,
    pub attempt: Attempt,
    pub state: CheckpointState,
    /// The rules this checkpoint is held to; `keep_last` here decides nothing: it is what the
    /// namespace had from the commit on.
    pub policy: Policy,
    /// When its attempt began: beside the commit, what retention goes by.
    pub began: Began,
    /// Parts the upload has, or had.
    pub parts_wanted: u32,
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    /// Set where it must not be used.
    pub quarantine: Option<Quarantine>,
    /// Present while the state is Open.
    pub open: Option<Upload>,
    /// In part order; empty until the commit. Shared by copies of the record, as they may be many.
    pub parts: Arc<[SealedPart]>,
    pub segments: IdSet,
    pub loose: SegmentSet,
    pub commit: Option<Commit>,
    /// Bytes and number of the parts' files.
    pub bytes: u64,
    pub files: u64,
    /// Raw bytes of `segments` at the commit.
    pub segment_bytes: u64,
    /// Of these: what no other checkpoint had committed, also none in the trash.
    pub new_bytes: u64,
    /// Cluster time of the deletion.
    pub deleted_at_ms: Option<u64>,
    pub deleted_for: Option<DeletedFor>,
    /// The client that asked for the deletion, and when by the wall clock.
    pub deleted_by: String,
    pub deleted_wall_ms: u64,
    /// Deleted without a grace: what loses its last reference may be reaped at once.
    pub now: bool,
    /// Of a deleted checkpoint: what it gave back under a grace.
    pub dropped: SegmentSet,
    /// Cluster time at which the grace of the last of these is over, and that of an upload which a
    /// rollback aborted; 0 without one.
    pub dropped_until_ms: u64,
}

/// What an upload in progress has reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upload {
    /// Cluster time from which the upload is stale.
    pub lease_until_ms: u64,
    /// Commit may take the place of a committed checkpoint of this step.
    pub replace: bool,
    /// `keep_last` that the namespace gets with the commit: `Some(0)` keeps all.
    pub keep_last: Option<u32>,
    /// Parts that were staged or sealed in this attempt.
    pub parts: Map<u32, UploadPart>,
    /// How many of these are sealed; derived.
    pub sealed: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadPart {
    pub part: OpenPart,
    /// What the current run staged; fixed once the part is sealed.
    pub staged: SegmentSet,
}

impl Checkpoint {
    pub fn is_committed(&self) -> bool {
        self.state == CheckpointState::Committed
    }

    /// Committed, and not in quarantine.
    pub fn is_good(&self) -> bool {
        self.is_committed() && self.quarantine.is_none()
    }

    /// References this checkpoint holds.
    pub fn reference_count(&self) -> u64 {
        self.segments.len() + self.loose.len()
    }

    /// Every segment this checkpoint holds a reference on, each once, in no particular order.
    pub fn references(&self) -> impl Iterator<Item = SegmentId> {
        self.loose.iter().chain(self.segments.iter())
    }

    /// Whether `DropReferences` has something to do here now or once a grace is over.
    pub(super) fn may_be_droppable(&self) -> bool {
        match self.state {
            CheckpointState::Open => false,
            CheckpointState::Committed => !self.loose.is_empty(),
            CheckpointState::Deleted => true,
        }
    }

    /// Cluster time up to which a deleted checkpoint keeps its references and can be undeleted, where
    /// the trash keeps what is deleted for `trash_ms`. `None` where it is in no trash: it was never
    /// committed, deleted with `now`, or deleted before there was a trash.
    pub fn trash_until_ms(&self, trash_ms: u64) -> Option<u64> {
        let skips =
            canary!("replaced_without_grace") && self.deleted_for == Some(DeletedFor::Replaced);
        let is_kept = self.state == CheckpointState::Deleted
            && self.commit.is_some()
            && !self.now
            && self.dropped.is_empty()
            && trash_ms > 0
            && !skips;
        self.deleted_at_ms.filter(|_| is_kept).map(|at_ms| at_ms.saturating_add(trash_ms))
    }

    pub fn is_in_trash(&self, clock_ms: u64, trash_ms: u64) -> bool {
        self.trash_until_ms(trash_ms).is_some_and(|until_ms| clock_ms < until_ms)
    }

    /// Whether `DropReferences` has something to do here at this cluster time.
    pub fn has_droppable(&self, clock_ms: u64, trash_ms: u64) -> bool {
        match self.state {
            CheckpointState::Open => false,
            CheckpointState::Committed => !self.loose.is_empty(),
            CheckpointState::Deleted
                if self.is_in_trash(clock_ms, trash_ms) && !canary!("trash_drops_references") =>
            {
                false
            }
            CheckpointState::Deleted => {
                let is_hastened = self.now && !self.dropped.is_empty();
                self.reference_count() > 0 || is_hastened || self.is_over(clock_ms)
            }
        }
    }

    /// Whether nobody can ask any more for the space of this deleted checkpoint before its grace
    /// is over.
    pub(super) fn is_spent(&self, clock_ms: u64) -> bool {
        self.now || self.dropped.is_empty() || clock_ms >= self.dropped_until_ms
    }

    /// Whether this deleted record is of no use any more: it is spent, and refuses no attempt that a
    /// rollback aborted.
    pub(super) fn is_over(&self, clock_ms: u64) -> bool {
        let refuses = self.deleted_for == Some(DeletedFor::RolledBack);
        self.is_spent(clock_ms) && (!refuses || clock_ms >= self.dropped_until_ms)
    }

    /// How many parts of an open upload are sealed.
    pub fn sealed_count(&self) -> u32 {
        self.open.as_ref().map_or(0, |upload| upload.sealed)
    }

    /// Sealed parts of an open upload, ascending.
    pub fn sealed_parts(&self) -> Vec<u32> {
        let parts = self.open.iter().flat_map(|upload| upload.parts.iter());
        parts.filter(|(_, part)| part.part.sealed.is_some()).map(|(number, _)| *number).collect()
    }

    /// Cluster time after which an open upload may be expired.
    pub fn expires_after_ms(&self, grace_ms: u64) -> Option<u64> {
        let grace_ms = if canary!("expire_without_grace") { 0 } else { grace_ms };
        self.open.as_ref().map(|upload| upload.lease_until_ms.saturating_add(grace_ms))
    }
}
