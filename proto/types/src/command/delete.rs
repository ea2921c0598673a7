//! `Delete`: deletes a checkpoint.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::CheckpointId;
use crate::wire;

/// Deletes a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delete {
    pub checkpoint: CheckpointId,
    pub reason: DeleteReason,
    pub now: bool,
    /// Also where refs or holds keep it.
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// Somebody asked.
    Asked,
    /// The namespace's `keep_last`; refused if the checkpoint is among the newest by then.
    Retention,
}

impl OnWire for Delete {
    type Message = wire::Delete;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, reason, now, force } = self;
        wire::Delete {
            checkpoint: checkpoint.0,
            retention: *reason == DeleteReason::Retention,
            now: *now,
            force: *force,
        }
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        if self.force { in_table.max(2) } else { in_table }
    }

    fn from_wire(delete: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            checkpoint: CheckpointId(delete.checkpoint),
            reason: if delete.retention { DeleteReason::Retention } else { DeleteReason::Asked },
            now: delete.now,
            force: delete.force,
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
        }
    }
}
