//! `SetQuarantine`: says that a checkpoint must not be used, or that it may again.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::{LABEL_BYTES_MAX, REASON_BYTES_MAX};
use crate::wire;

/// Puts a committed checkpoint into quarantine, or takes it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetQuarantine {
    pub checkpoint: CheckpointId,
    /// Takes it out.
    pub lift: bool,
    pub reason: String,
    /// Who says so, for people.
    pub by: String,
}

impl OnWire for SetQuarantine {
    type Message = wire::SetQuarantine;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, lift, reason, by } = self;
        wire::SetQuarantine {
            checkpoint: checkpoint.0,
            lift: *lift,
            reason: reason.clone(),
            by: by.clone(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("reason", message.reason.len(), REASON_BYTES_MAX)?;
        at_most("client name", message.by.len(), LABEL_BYTES_MAX)?;
        Ok(Self {
            checkpoint: CheckpointId(message.checkpoint),
            lift: message.lift,
            reason: message.reason,
            by: message.by,
        })
    }
}

#[cfg(test)]
impl Drawn for SetQuarantine {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            checkpoint: CheckpointId(draw.u64()),
            lift: draw.bool(),
            reason: format!("r{}", draw.u64()),
            by: format!("c{}", draw.u64()),
        }
    }
}
