//! `AllocateNode`: mints a node id. Idempotent by cookie; until the node registers, a repeated one
//! changes its place and address.

use super::{NODE_KEYS_LEVEL, OnWire};
use crate::convert::{ConvertError, new_node_from_wire, new_node_to_wire};
pub use crate::model::NewNode as AllocateNode;
use crate::wire;

impl OnWire for AllocateNode {
    type Message = wire::NewNode;

    fn to_wire(&self) -> Self::Message {
        new_node_to_wire(self)
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        if self.key.is_some() { in_table.max(NODE_KEYS_LEVEL) } else { in_table }
    }

    fn from_wire(node: Self::Message) -> Result<Self, ConvertError> {
        new_node_from_wire(node)
    }
}

#[cfg(test)]
impl super::drawn::Drawn for AllocateNode {
    fn drawn(draw: &mut super::drawn::Draw) -> Self {
        draw.new_node()
    }
}
