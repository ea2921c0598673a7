//! The catalogue's own record of a checkpoint.
//!
//! References: a checkpoint holds at most one on a segment, taken at Stage. They are kept in two
//! disjoint sets, `segments` (what the commit names) and `loose` (the rest):
//!
//! ```text
//!   Open       segments = {}            loose = everything staged by any run or attempt
//!   Committed  segments = the content   loose = leftovers, dropped by DropReferences
//!   Deleted    segments, loose = what DropReferences has not yet dropped
//! ```

use std::collections::BTreeMap;

use crate::id_set::IdSet;
use crate::ids::{Attempt, CheckpointId, Namespace, SegmentId, Step};
use crate::model::{CheckpointState, Commit, OpenPart, Policy, SealedPart};
use crate::segment_set::SegmentSet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub id: CheckpointId,
    pub namespace: Namespace,
    pub step: Step,
    pub attempt: Attempt,
    pub state: CheckpointState,
    /// The rules this checkpoint is held to; `keep_last` here is what the namespace had at Begin
    /// and decides nothing.
    pub policy: Policy,
    /// Parts the upload has, or had.
    pub parts_wanted: u32,
    pub labels: BTreeMap<String, String>,
    /// Present while the state is Open.
    pub open: Option<Upload>,
    /// In part order; empty until the commit.
    pub parts: Vec<SealedPart>,
    pub segments: IdSet,
    pub loose: SegmentSet,
    pub commit: Option<Commit>,
    /// Bytes and number of the parts' files.
    pub bytes: u64,
    pub files: u64,
    /// Raw bytes of `segments` at the commit.
    pub segment_bytes: u64,
    /// Cluster time of the deletion.
    pub deleted_at_ms: Option<u64>,
    /// Deleted without a grace: what loses its last reference may be reaped at once.
    pub now: bool,
}

/// What an upload in progress has reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upload {
    /// Cluster time from which the upload is stale.
    pub lease_until_ms: u64,
    /// Commit may take the place of a committed checkpoint of this step.
    pub replace: bool,
    /// Parts that were staged or sealed in this attempt.
    pub parts: BTreeMap<u32, UploadPart>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadPart {
    pub part: OpenPart,
    /// What the current run staged; fixed once the part is sealed.
    pub staged: SegmentSet,
}

impl Checkpoint {
    /// References this checkpoint holds.
    pub fn reference_count(&self) -> u64 {
        self.segments.len() + self.loose.len()
    }

    /// Every segment this checkpoint holds a reference on, each once, in no particular order.
    pub fn references(&self) -> impl Iterator<Item = SegmentId> {
        self.loose.iter().chain(self.segments.iter())
    }

    /// Whether `DropReferences` has something to do here.
    pub fn has_droppable(&self) -> bool {
        match self.state {
            CheckpointState::Open => false,
            CheckpointState::Committed => !self.loose.is_empty(),
            CheckpointState::Deleted => true,
        }
    }

    /// Sealed parts of an open upload, ascending.
    pub fn sealed_parts(&self) -> Vec<u32> {
        let parts = self.open.iter().flat_map(|upload| &upload.parts);
        parts.filter(|(_, part)| part.part.sealed.is_some()).map(|(number, _)| *number).collect()
    }

    /// Cluster time after which an open upload may be expired.
    pub fn expires_after_ms(&self, grace_ms: u64) -> Option<u64> {
        self.open.as_ref().map(|upload| upload.lease_until_ms.saturating_add(grace_ms))
    }
}
