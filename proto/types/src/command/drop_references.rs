//! `DropReferences`: drops up to `DROP_REFERENCES_MAX` references of a deleted checkpoint, or
//! leftovers of a committed one.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::CheckpointId;
use crate::wire;

/// Drops up to `DROP_REFERENCES_MAX` references of a deleted checkpoint, or leftovers of a
/// committed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropReferences {
    pub checkpoint: CheckpointId,
}

impl OnWire for DropReferences {
    type Message = wire::DropReferences;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint } = self;
        wire::DropReferences { checkpoint: checkpoint.0 }
    }

    fn from_wire(drop: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { checkpoint: CheckpointId(drop.checkpoint) })
    }
}

#[cfg(test)]
impl Drawn for DropReferences {
    fn drawn(draw: &mut Draw) -> Self {
        let checkpoint = CheckpointId(draw.u64());
        Self { checkpoint }
    }
}
