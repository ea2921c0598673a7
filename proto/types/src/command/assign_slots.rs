//! `AssignSlots`: new slots beside those a segment has (repair, slow target).

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OnWire, slots_from_wire, slots_to_wire};
use crate::convert::ConvertError;
use crate::ids::{NodeId, SegmentId};
use crate::wire;

/// New slots beside those a segment has (repair, slow target).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignSlots {
    pub slots: Vec<(SegmentId, NodeId)>,
}

impl OnWire for AssignSlots {
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
impl Drawn for AssignSlots {
    fn drawn(draw: &mut Draw) -> Self {
        Self { slots: draw.list(|draw| (SegmentId(draw.u64()), NodeId(draw.u64()))) }
    }
}
