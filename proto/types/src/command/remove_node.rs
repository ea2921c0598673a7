//! `RemoveNode`: final.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::NodeId;
use crate::wire;

/// Final. Refused while the node holds the only living replica of a referenced segment, for
/// the last node in service, and where too few hosts would be left. The leader moves the
/// node's vote before it proposes this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveNode {
    pub node: NodeId,
    /// Refusals that the operator overrides.
    pub accept: Accept,
}

/// What an operator accepts of a removal that is refused otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accept {
    /// Segments without another living replica.
    pub data_loss: bool,
    /// Fewer hosts than replicas are wanted.
    pub fewer_hosts: bool,
}

impl OnWire for RemoveNode {
    type Message = wire::RemoveNode;

    fn to_wire(&self) -> Self::Message {
        let Self { node, accept } = self;
        wire::RemoveNode {
            node: node.0,
            accept_data_loss: accept.data_loss,
            accept_fewer_hosts: accept.fewer_hosts,
        }
    }

    fn from_wire(remove: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            node: NodeId(remove.node),
            accept: Accept {
                data_loss: remove.accept_data_loss,
                fewer_hosts: remove.accept_fewer_hosts,
            },
        })
    }
}

#[cfg(test)]
impl Drawn for RemoveNode {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        Self { node, accept: Accept { data_loss: draw.bool(), fewer_hosts: draw.bool() } }
    }
}
