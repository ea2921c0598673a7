//! `Reap`: releases all slots of segments without references whose grace is over.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::SegmentId;
use crate::limits::BATCH_SEGMENTS_MAX;
use crate::wire;

/// Releases all slots of segments without references whose grace is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reap {
    pub segments: Vec<SegmentId>,
}

impl OnWire for Reap {
    type Message = wire::Reap;

    fn to_wire(&self) -> Self::Message {
        let Self { segments } = self;
        wire::Reap { segments: segments.iter().map(|segment| segment.0).collect() }
    }

    fn from_wire(reap: Self::Message) -> Result<Self, ConvertError> {
        at_most("segments", reap.segments.len(), BATCH_SEGMENTS_MAX)?;
        Ok(Self { segments: reap.segments.into_iter().map(SegmentId).collect() })
    }
}

#[cfg(test)]
impl Drawn for Reap {
    fn drawn(draw: &mut Draw) -> Self {
        Self { segments: draw.list(|draw| SegmentId(draw.u64())) }
    }
}
