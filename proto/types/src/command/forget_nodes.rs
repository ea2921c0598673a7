//! `ForgetNodes`: drops records of nodes that never registered, and of removed ones that are no
//! Raft members any more, once they are old.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::NodeId;
use crate::limits::NODES_MAX;
use crate::wire;

/// Drops records of nodes that never registered, and of removed ones that are no Raft members
/// any more, once they are old. Their ids never return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetNodes {
    pub nodes: Vec<NodeId>,
}

impl OnWire for ForgetNodes {
    type Message = wire::ForgetNodes;

    fn to_wire(&self) -> Self::Message {
        let Self { nodes } = self;
        wire::ForgetNodes { nodes: nodes.iter().map(|node| node.0).collect() }
    }

    fn from_wire(list: Self::Message) -> Result<Self, ConvertError> {
        at_most("nodes", list.nodes.len(), NODES_MAX)?;
        Ok(Self { nodes: list.nodes.into_iter().map(NodeId).collect() })
    }
}

#[cfg(test)]
impl Drawn for ForgetNodes {
    fn drawn(draw: &mut Draw) -> Self {
        Self { nodes: draw.list(|draw| NodeId(draw.u64())) }
    }
}
