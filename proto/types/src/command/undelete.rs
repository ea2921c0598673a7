//! `Undelete`: brings a checkpoint back out of the trash.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::LABEL_BYTES_MAX;
use crate::wire;

/// Makes a deleted checkpoint committed again, as long as it is in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undelete {
    pub checkpoint: CheckpointId,
    /// The client that asks, as it names itself.
    pub by: String,
}

impl OnWire for Undelete {
    type Message = wire::Undelete;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, by } = self;
        wire::Undelete { checkpoint: checkpoint.0, by: by.clone() }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("client name", message.by.len(), LABEL_BYTES_MAX)?;
        Ok(Self { checkpoint: CheckpointId(message.checkpoint), by: message.by })
    }
}

#[cfg(test)]
impl Drawn for Undelete {
    fn drawn(draw: &mut Draw) -> Self {
        Self { checkpoint: CheckpointId(draw.u64()), by: format!("b{}", draw.u64()) }
    }
}
