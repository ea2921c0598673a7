//! What apply answers.

use crate::command::{Begun, Reply, StagedSegment};
use crate::form::Form as StoredForm;
use crate::ids::{Attempt, CheckpointId, Incarnation, NodeId, SegmentId};
use crate::model::Durability;

use super::{
    ConvertError, policy_from_wire, policy_to_wire, refusal_from_wire, refusal_to_wire, required,
    slot_from_wire, slot_to_wire,
};
use crate::wire::{self, reply::Reply as Form};

pub fn durability_to_wire(durability: &Durability) -> wire::Durability {
    wire::Durability {
        replicas_wanted: durability.replicas_wanted,
        replicas_min: durability.replicas_min,
        racks_min: durability.racks_min,
        segments_below: durability.segments_below,
        bytes_below: durability.bytes_below,
        segments_unavailable: durability.segments_unavailable,
    }
}

pub fn durability_from_wire(durability: &wire::Durability) -> Durability {
    Durability {
        replicas_wanted: durability.replicas_wanted,
        replicas_min: durability.replicas_min,
        racks_min: durability.racks_min,
        segments_below: durability.segments_below,
        bytes_below: durability.bytes_below,
        segments_unavailable: durability.segments_unavailable,
    }
}

pub fn reply_to_wire(reply: &Reply) -> wire::Reply {
    let form = match reply {
        Reply::Done => Form::Done(wire::Done {}),
        Reply::NodeAllocated { node } => Form::NodeAllocated(node.0),
        Reply::Registered { incarnation } => Form::Registered(incarnation.0),
        Reply::Begun(begun) => Form::Begun(wire::Begun {
            checkpoint: begun.checkpoint.0,
            attempt: begun.attempt.0,
            policy: Some(policy_to_wire(&begun.policy)),
            parts: begun.parts,
            sealed: begun.sealed.clone(),
            committed: begun.committed,
            first_part: begun.first_part,
        }),
        Reply::Staged { segments } => {
            Form::Staged(wire::Staged { segments: segments.iter().map(staged_to_wire).collect() })
        }
        Reply::Reported { accepted, refused } => {
            Form::Reported(wire::Reported { accepted: *accepted, refused: *refused })
        }
        Reply::Sealed { parts_sealed, parts } => {
            Form::Sealed(wire::Sealed { parts_sealed: *parts_sealed, parts: *parts })
        }
        Reply::Committed { checkpoint, durability } => Form::Committed(wire::Committed {
            checkpoint: checkpoint.0,
            durability: Some(durability_to_wire(durability)),
        }),
        Reply::Lacking { segments, total } => Form::Lacking(wire::Lacking {
            segments: segments.iter().map(|segment| segment.0).collect(),
            total: *total,
        }),
        Reply::Dropped { left } => Form::DroppedLeft(*left),
        Reply::TimeRepaired { changed, next } => {
            Form::TimeRepaired(wire::TimeRepaired { changed: *changed, next: *next })
        }
        Reply::RolledBack { quarantined, aborted } => {
            Form::RolledBack(wire::RolledBack { quarantined: *quarantined, aborted: *aborted })
        }
        Reply::Refused(refusal) => Form::Refused(refusal_to_wire(refusal)),
    };
    wire::Reply { reply: Some(form) }
}

pub fn reply_from_wire(reply: wire::Reply) -> Result<Reply, ConvertError> {
    let reply = match required("reply", reply.reply)? {
        Form::Done(wire::Done {}) => Reply::Done,
        Form::NodeAllocated(node) => Reply::NodeAllocated { node: NodeId(node) },
        Form::Registered(number) => Reply::Registered { incarnation: Incarnation(number) },
        Form::Begun(begun) => Reply::Begun(Begun {
            checkpoint: CheckpointId(begun.checkpoint),
            attempt: Attempt(begun.attempt),
            policy: policy_from_wire(&required("policy", begun.policy)?)?,
            parts: begun.parts,
            sealed: begun.sealed,
            committed: begun.committed,
            first_part: begun.first_part,
        }),
        Form::Staged(staged) => Reply::Staged {
            segments: staged.segments.iter().map(staged_from_wire).collect::<Result<_, _>>()?,
        },
        Form::Reported(wire::Reported { accepted, refused }) => {
            Reply::Reported { accepted, refused }
        }
        Form::Sealed(wire::Sealed { parts_sealed, parts }) => Reply::Sealed { parts_sealed, parts },
        Form::Committed(committed) => Reply::Committed {
            checkpoint: CheckpointId(committed.checkpoint),
            durability: durability_from_wire(&required("durability", committed.durability)?),
        },
        Form::Lacking(lacking) => Reply::Lacking {
            segments: lacking.segments.into_iter().map(SegmentId).collect(),
            total: lacking.total,
        },
        Form::DroppedLeft(left) => Reply::Dropped { left },
        Form::TimeRepaired(wire::TimeRepaired { changed, next }) => {
            Reply::TimeRepaired { changed, next }
        }
        Form::RolledBack(wire::RolledBack { quarantined, aborted }) => {
            Reply::RolledBack { quarantined, aborted }
        }
        Form::Refused(refusal) => Reply::Refused(refusal_from_wire(refusal)?),
    };
    Ok(reply)
}

fn staged_to_wire(staged: &StagedSegment) -> wire::StagedSegment {
    wire::StagedSegment {
        segment: staged.segment.0,
        kept: staged.kept,
        slots: staged.slots.iter().map(slot_to_wire).collect(),
        form: staged.form.map(|form| wire::StoredForm {
            codec: form.codec().number(),
            raw_len: form.raw_len(),
            stored_len: form.stored_len(),
        }),
    }
}

fn staged_from_wire(staged: &wire::StagedSegment) -> Result<StagedSegment, ConvertError> {
    Ok(StagedSegment {
        segment: SegmentId(staged.segment),
        kept: staged.kept,
        slots: staged.slots.iter().map(slot_from_wire).collect::<Result<_, _>>()?,
        form: match staged.form {
            None => None,
            Some(wire::StoredForm { codec, raw_len, stored_len }) => {
                // A client may lack the codec: it then sends raw.
                Some(StoredForm::told(codec, raw_len, stored_len)?)
            }
        },
    })
}
