//! `ExpireUploads`: uploads whose lease ended more than a grace ago: dropped for good.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::CheckpointId;
use crate::limits::BATCH_SEGMENTS_MAX;
use crate::wire;

/// Uploads whose lease ended more than a grace ago: dropped for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireUploads {
    pub checkpoints: Vec<CheckpointId>,
}

impl OnWire for ExpireUploads {
    type Message = wire::Checkpoints;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoints } = self;
        wire::Checkpoints {
            checkpoints: checkpoints.iter().map(|checkpoint| checkpoint.0).collect(),
        }
    }

    fn from_wire(list: Self::Message) -> Result<Self, ConvertError> {
        at_most("checkpoints", list.checkpoints.len(), BATCH_SEGMENTS_MAX)?;
        let checkpoints = list.checkpoints.into_iter().map(CheckpointId).collect();
        Ok(Self { checkpoints })
    }
}

#[cfg(test)]
impl Drawn for ExpireUploads {
    fn drawn(draw: &mut Draw) -> Self {
        Self { checkpoints: draw.list(|draw| CheckpointId(draw.u64())) }
    }
}
