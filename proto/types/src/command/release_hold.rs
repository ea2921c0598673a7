//! `ReleaseHold`: ends what [`super::AddHold`] began.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::LABEL_BYTES_MAX;
use crate::wire;

/// Ends the hold of one owner on a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseHold {
    pub checkpoint: CheckpointId,
    pub owner: String,
}

impl OnWire for ReleaseHold {
    type Message = wire::ReleaseHold;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, owner } = self;
        wire::ReleaseHold { checkpoint: checkpoint.0, owner: owner.clone() }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("owner of a hold", message.owner.len(), LABEL_BYTES_MAX)?;
        Ok(Self { checkpoint: CheckpointId(message.checkpoint), owner: message.owner })
    }
}

#[cfg(test)]
impl Drawn for ReleaseHold {
    fn drawn(draw: &mut Draw) -> Self {
        Self { checkpoint: CheckpointId(draw.u64()), owner: format!("o{}", draw.u64()) }
    }
}
