//! `Renew`: renews the lease of open uploads.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::{Attempt, CheckpointId};
use crate::limits::BATCH_SEGMENTS_MAX;
use crate::wire;

/// Renews the lease of open uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renew {
    pub uploads: Vec<(CheckpointId, Attempt)>,
}

impl OnWire for Renew {
    type Message = wire::Renew;

    fn to_wire(&self) -> Self::Message {
        let Self { uploads } = self;
        let uploads = uploads.iter().map(|(checkpoint, attempt)| wire::Upload {
            checkpoint: checkpoint.0,
            attempt: attempt.0,
        });
        wire::Renew { uploads: uploads.collect() }
    }

    fn from_wire(renew: Self::Message) -> Result<Self, ConvertError> {
        at_most("uploads", renew.uploads.len(), BATCH_SEGMENTS_MAX)?;
        let pair =
            |upload: &wire::Upload| (CheckpointId(upload.checkpoint), Attempt(upload.attempt));
        Ok(Self { uploads: renew.uploads.iter().map(pair).collect() })
    }
}

#[cfg(test)]
impl Drawn for Renew {
    fn drawn(draw: &mut Draw) -> Self {
        Self { uploads: draw.list(|draw| (CheckpointId(draw.u64()), Attempt(draw.u64()))) }
    }
}
