//! The catalogue's own record of a checkpoint.
//!
//! References: a checkpoint holds at most one on a segment, taken at Stage. They are kept in two
//! disjoint sets: `segments` (the segments that the commit names) and `loose` (the others).
//!
//! ```text
//!   Open       segments = {}            loose = everything staged by any run or attempt
//!   Committed  segments = the content   loose = leftovers, dropped by DropReferences
//!   Deleted    in the trash: unchanged, until the grace is over or a deletion with `now`
//!              then segments, loose = the references that DropReferences has not dropped yet
//! ```
//!
//! An upload that was aborted or expired does not go to the trash. Its references are dropped at
//! once, and its segments wait for the end of the grace. Until then its record lists them in
//! `dropped`, so that `rm --deleted` can free their space early. `dropped` is no reference and
//! keeps nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::persistent::Map;
use crate::segment_set::{SegmentCounts, SegmentSet};
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
    /// The rules for this checkpoint. `keep_last` here decides nothing: it is the namespace's value
    /// after the commit.
    pub policy: Policy,
    /// When its attempt began. Retention uses this in addition to the commit.
    pub began: Began,
    /// Number of parts of the upload; 0 in an open-ended one, until its commit.
    pub parts_wanted: u32,
    /// Its upload left the number of parts open ([`super::open_ended`]).
    pub open_ended: bool,
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    /// Set if the checkpoint must not be used.
    pub quarantine: Option<Quarantine>,
    /// Present while the state is Open.
    pub open: Option<Upload>,
    /// In part order. Empty until the commit. Copies of the record share it, because there may be
    /// many parts.
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
    /// Once each of its segments had all R replicas, counted on nodes that were up.
    pub full: bool,
    /// Cluster time of the deletion.
    pub deleted_at_ms: Option<u64>,
    pub deleted_for: Option<DeletedFor>,
    /// The client that requested the deletion, and the wall clock at that time.
    pub deleted_by: String,
    pub deleted_wall_ms: u64,
    /// Deleted without a grace: a segment that loses its last reference may be reaped at once.
    pub now: bool,
    /// On a deleted checkpoint: the segments that it gave back under a grace.
    pub dropped: SegmentSet,
    /// Cluster time at which the last of these graces ends, or the grace of an upload that a
    /// rollback aborted. Zero if there is none.
    pub dropped_until_ms: u64,
}

/// The state of an upload in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upload {
    /// Cluster time from which the upload is stale.
    pub lease_until_ms: u64,
    /// Cluster time of the attempt's begin, or of its last Stage or SealPart.
    pub idle_since_ms: u64,
    /// The commit may replace a committed checkpoint of this step.
    pub replace: bool,
    /// The `keep_last` that the commit sets for the namespace. `Some(0)` keeps all.
    pub keep_last: Option<u32>,
    /// The parts staged or sealed in this attempt.
    pub parts: Map<u32, UploadPart>,
    /// The number of sealed ones. Derived.
    pub sealed: u32,
    /// Of an open-ended upload: ranges of part numbers that were handed out.
    pub begins: u32,
    /// Sealed parts that were voided or dropped.
    pub removed: u32,
    /// Segments of removed parts, whose references are to be dropped unless another part holds them.
    pub voided: SegmentSet,
    /// The number of parts that hold each segment. Derived.
    pub held: SegmentCounts,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadPart {
    pub part: OpenPart,
    /// The segments staged by the current run. Fixed once the part is sealed.
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

    /// Whether `DropReferences` has work here now, or will have once a grace is over.
    pub(super) fn may_be_droppable(&self) -> bool {
        match self.state {
            CheckpointState::Open => self.has_voided(),
            CheckpointState::Committed => !self.loose.is_empty(),
            CheckpointState::Deleted => true,
        }
    }

    /// Cluster time until which a deleted checkpoint keeps its references and can be undeleted, if
    /// the trash keeps checkpoints for `trash_ms`. `None` if it is not in the trash: it was never
    /// committed, was deleted with `now`, or was deleted before the trash existed.
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

    /// Whether `DropReferences` has work here at this cluster time.
    pub fn has_droppable(&self, clock_ms: u64, trash_ms: u64) -> bool {
        match self.state {
            CheckpointState::Open => self.has_voided(),
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

    /// Whether the space of this deleted checkpoint can no longer be freed before its grace is
    /// over.
    pub(super) fn is_spent(&self, clock_ms: u64) -> bool {
        self.now || self.dropped.is_empty() || clock_ms >= self.dropped_until_ms
    }

    /// Whether this deleted record is no longer needed: it is spent, and it does not have to refuse
    /// an attempt that a rollback aborted.
    pub(super) fn is_over(&self, clock_ms: u64) -> bool {
        let refuses = self.deleted_for == Some(DeletedFor::RolledBack);
        self.is_spent(clock_ms) && (!refuses || clock_ms >= self.dropped_until_ms)
    }

    fn has_voided(&self) -> bool {
        self.open.as_ref().is_some_and(|upload| !upload.voided.is_empty())
    }

    /// Number of sealed parts of an open upload.
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
