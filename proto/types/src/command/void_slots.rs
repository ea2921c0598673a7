//! `VoidSlots`: slots that a removed node has left, some an entry.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::NodeId;
use crate::wire;

/// Voids slots of a removed node on the next `VOIDED_SEGMENTS_MAX` segments. Its replicas have not
/// counted since the removal; this takes them off the records, bit by bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoidSlots {
    pub node: NodeId,
}

impl OnWire for VoidSlots {
    type Message = wire::VoidSlots;

    fn to_wire(&self) -> Self::Message {
        let Self { node } = self;
        wire::VoidSlots { node: node.0 }
    }

    fn from_wire(void: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { node: NodeId(void.node) })
    }
}

#[cfg(test)]
impl Drawn for VoidSlots {
    fn drawn(draw: &mut Draw) -> Self {
        Self { node: NodeId(draw.u64()) }
    }
}
