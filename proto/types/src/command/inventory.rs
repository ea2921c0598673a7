//! `Inventory`: live slots whose file is missing or unsound; `last` makes the node inventoried.

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OnWire, epochs_from_wire, epochs_to_wire};
use crate::convert::ConvertError;
use crate::ids::{Epoch, Incarnation, NodeId, SegmentId};
use crate::wire;

/// Live slots whose file is missing or unsound; `last` makes the node inventoried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub missing: Vec<(SegmentId, Epoch)>,
    pub last: bool,
}

impl OnWire for Inventory {
    type Message = wire::Inventory;

    fn to_wire(&self) -> Self::Message {
        let Self { node, incarnation, missing, last } = self;
        wire::Inventory {
            node: node.0,
            incarnation: incarnation.0,
            missing: epochs_to_wire(missing),
            last: *last,
        }
    }

    fn from_wire(inventory: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            node: NodeId(inventory.node),
            incarnation: Incarnation(inventory.incarnation),
            missing: epochs_from_wire("missing", &inventory.missing)?,
            last: inventory.last,
        })
    }
}

#[cfg(test)]
impl Drawn for Inventory {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        let incarnation = Incarnation(draw.u64());
        Self { node, incarnation, missing: draw.pairs(), last: draw.bool() }
    }
}
