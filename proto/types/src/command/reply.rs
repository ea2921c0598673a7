//! What apply answers.

use super::Refusal;
use crate::form::Form;
use crate::ids::{Attempt, CheckpointId, Incarnation, NodeId, SegmentId};
use crate::model::{Durability, Policy, Slot};

/// What Stage answers for one segment, in request order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedSegment {
    pub segment: SegmentId,
    /// W replicas count already: the client sends nothing.
    pub kept: bool,
    /// The segment's live slots.
    pub slots: Vec<Slot>,
    /// The form of the segment's record, fixed by its first Stage; `None` for raw. The client sends
    /// this one or, where it cannot make it, raw (decision 0016).
    pub form: Option<Form>,
}

/// What apply answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    NodeAllocated {
        node: NodeId,
    },
    Registered {
        incarnation: Incarnation,
    },
    Begun(Begun),
    Staged {
        segments: Vec<StagedSegment>,
    },
    /// How many reports were current and how many were void (stale epoch or incarnation).
    Reported {
        accepted: u32,
        refused: u32,
    },
    /// A part is sealed, others are missing still. `parts` is 0 while their number is open.
    Sealed {
        parts_sealed: u32,
        parts: u32,
    },
    Committed {
        checkpoint: CheckpointId,
        durability: Durability,
    },
    /// Nothing was sealed: these lack W replicas that count, on the racks required; at most
    /// `BATCH_SEGMENTS_MAX` are named.
    Lacking {
        segments: Vec<SegmentId>,
        total: u64,
    },
    /// References of a checkpoint still to be dropped.
    Dropped {
        left: u64,
    },
    /// So many labels were taken back. Commits behind the one at log index `next` are still to be
    /// looked at; without it nothing is left to do.
    TimeRepaired {
        changed: u32,
        next: Option<u64>,
    },
    /// Commits of later steps that were put into quarantine, and uploads that were aborted.
    RolledBack {
        quarantined: u64,
        aborted: u64,
    },
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    /// The rules this checkpoint is held to.
    pub policy: Policy,
    /// 0 while their number is open.
    pub parts: u32,
    /// The first of the part numbers that this Begin may use in an open-ended upload. There are
    /// `OPEN_PARTS_OF_BEGIN` of them, and no other Begin gets them.
    pub first_part: u32,
    /// Parts sealed already in this attempt.
    pub sealed: Vec<u32>,
    /// The same attempt has committed already.
    pub committed: bool,
}

impl Reply {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
