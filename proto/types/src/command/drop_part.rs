//! `DropPart`: removes a part of an open-ended upload.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::{Attempt, CheckpointId};
use crate::wire;

/// Removes a part of an open-ended upload, sealed or not. A part that is not there is no error, so
/// that a retry has no other result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropPart {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    pub part: u32,
}

impl OnWire for DropPart {
    type Message = wire::DropPart;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, attempt, part } = self;
        wire::DropPart { checkpoint: checkpoint.0, attempt: attempt.0, part: *part }
    }

    fn from_wire(drop: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            checkpoint: CheckpointId(drop.checkpoint),
            attempt: Attempt(drop.attempt),
            part: drop.part,
        })
    }
}

#[cfg(test)]
impl Drawn for DropPart {
    fn drawn(draw: &mut Draw) -> Self {
        let (checkpoint, attempt) = (CheckpointId(draw.u64()), Attempt(draw.u64()));
        Self { checkpoint, attempt, part: draw.u32() }
    }
}
