//! `AddHold`: keeps a checkpoint from deletion.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::{LABEL_BYTES_MAX, REASON_BYTES_MAX};
use crate::wire;

/// Keeps a committed checkpoint from deletion, for a time or until it is released. A second one of
/// the same owner takes the place of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddHold {
    pub checkpoint: CheckpointId,
    pub owner: String,
    pub reason: String,
    /// Milliseconds from apply on; `None`: until it is released.
    pub for_ms: Option<u64>,
}

impl OnWire for AddHold {
    type Message = wire::AddHold;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, owner, reason, for_ms } = self;
        wire::AddHold {
            checkpoint: checkpoint.0,
            owner: owner.clone(),
            reason: reason.clone(),
            for_ms: *for_ms,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("owner of a hold", message.owner.len(), LABEL_BYTES_MAX)?;
        at_most("reason", message.reason.len(), REASON_BYTES_MAX)?;
        Ok(Self {
            checkpoint: CheckpointId(message.checkpoint),
            owner: message.owner,
            reason: message.reason,
            for_ms: message.for_ms,
        })
    }
}

#[cfg(test)]
impl Drawn for AddHold {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            checkpoint: CheckpointId(draw.u64()),
            owner: format!("o{}", draw.u64()),
            reason: format!("r{}", draw.u64()),
            for_ms: draw.option(Draw::u64),
        }
    }
}
