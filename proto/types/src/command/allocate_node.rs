//! `AllocateNode`: mints a node id. Idempotent by cookie; until the node registers, a repeated one
//! changes its place and address.

use super::OnWire;
use crate::convert::{ConvertError, new_node_from_wire, new_node_to_wire};
pub use crate::model::NewNode as AllocateNode;
use crate::wire;

impl OnWire for AllocateNode {
    type Message = wire::NewNode;

    fn to_wire(&self) -> Self::Message {
        new_node_to_wire(self)
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
