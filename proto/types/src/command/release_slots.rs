//! `ReleaseSlots`: gives up excess replicas: needs R others that count.

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OnWire, slots_from_wire, slots_to_wire};
use crate::convert::ConvertError;
use crate::ids::{NodeId, SegmentId};
use crate::wire;

/// Gives up excess replicas: needs R others that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseSlots {
    pub slots: Vec<(SegmentId, NodeId)>,
}

impl OnWire for ReleaseSlots {
    type Message = wire::SlotTargets;

    fn to_wire(&self) -> Self::Message {
        let Self { slots } = self;
        slots_to_wire(slots)
    }

    fn from_wire(list: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { slots: slots_from_wire(&list)? })
    }
}

#[cfg(test)]
impl Drawn for ReleaseSlots {
    fn drawn(draw: &mut Draw) -> Self {
        Self { slots: draw.list(|draw| (SegmentId(draw.u64()), NodeId(draw.u64()))) }
    }
}
