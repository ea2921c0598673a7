//! `Rollback`: everything of later steps is bad.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::{LABEL_BYTES_MAX, REASON_BYTES_MAX};
use crate::wire;

/// Puts every committed checkpoint of a later step of the same namespace into quarantine, and
/// aborts open uploads of later steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// The good one to go back to.
    pub checkpoint: CheckpointId,
    pub reason: String,
    /// Who says so, for people.
    pub by: String,
}

impl OnWire for Rollback {
    type Message = wire::Rollback;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, reason, by } = self;
        wire::Rollback { checkpoint: checkpoint.0, reason: reason.clone(), by: by.clone() }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("reason", message.reason.len(), REASON_BYTES_MAX)?;
        at_most("client name", message.by.len(), LABEL_BYTES_MAX)?;
        Ok(Self {
            checkpoint: CheckpointId(message.checkpoint),
            reason: message.reason,
            by: message.by,
        })
    }
}

#[cfg(test)]
impl Drawn for Rollback {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            checkpoint: CheckpointId(draw.u64()),
            reason: format!("r{}", draw.u64()),
            by: format!("c{}", draw.u64()),
        }
    }
}
