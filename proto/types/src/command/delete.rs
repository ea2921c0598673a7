//! `Delete`: deletes a checkpoint.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::LABEL_BYTES_MAX;
use crate::wire;

/// Deletes a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    pub checkpoint: CheckpointId,
    pub reason: DeleteReason,
    pub now: bool,
    /// Also where refs or holds keep it.
    pub force: bool,
    /// Of retention: the version of the policy that was evaluated. Older leaders, who knew of
    /// `keep_last` only, do not say it.
    pub policy_version: Option<u64>,
    /// The client that asks, as it names itself; may be empty.
    pub by: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// Somebody asked.
    Asked,
    /// The namespace's rules; refused if the policy has changed since, or if the checkpoint is one
    /// that retention never takes.
    Retention,
}

impl OnWire for Delete {
    type Message = wire::Delete;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, reason, now, force, policy_version, by } = self;
        wire::Delete {
            checkpoint: checkpoint.0,
            retention: *reason == DeleteReason::Retention,
            now: *now,
            force: *force,
            policy_version: *policy_version,
            by: by.clone(),
        }
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        let is_old = !self.force && self.policy_version.is_none() && self.by.is_empty();
        if is_old { in_table } else { in_table.max(2) }
    }

    fn from_wire(delete: Self::Message) -> Result<Self, ConvertError> {
        at_most("client name", delete.by.len(), LABEL_BYTES_MAX)?;
        Ok(Self {
            checkpoint: CheckpointId(delete.checkpoint),
            reason: if delete.retention { DeleteReason::Retention } else { DeleteReason::Asked },
            now: delete.now,
            force: delete.force,
            policy_version: delete.policy_version,
            by: delete.by,
        })
    }
}

#[cfg(test)]
impl Drawn for Delete {
    fn drawn(draw: &mut Draw) -> Self {
        let checkpoint = CheckpointId(draw.u64());
        Self {
            checkpoint,
            reason: if draw.bool() { DeleteReason::Asked } else { DeleteReason::Retention },
            now: draw.bool(),
            force: draw.bool(),
            policy_version: draw.option(Draw::u64),
            by: format!("b{}", draw.below(2)),
        }
    }
}
