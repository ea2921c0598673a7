//! `Close`: commits an open-ended upload as the parts that are sealed.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::{Attempt, CheckpointId};
use crate::wire;

/// Commits an open-ended upload. Sealed parts are its content; parts that are not sealed are
/// discarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
}

impl OnWire for Close {
    type Message = wire::Upload;

    fn to_wire(&self) -> Self::Message {
        wire::Upload { checkpoint: self.checkpoint.0, attempt: self.attempt.0 }
    }

    fn from_wire(close: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { checkpoint: CheckpointId(close.checkpoint), attempt: Attempt(close.attempt) })
    }
}

#[cfg(test)]
impl Drawn for Close {
    fn drawn(draw: &mut Draw) -> Self {
        Self { checkpoint: CheckpointId(draw.u64()), attempt: Attempt(draw.u64()) }
    }
}
