//! `Lost`: a node gives replicas up as missing or bad: they are Assigned again under a new epoch.

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OnWire, epochs_from_wire, epochs_to_wire};
use crate::convert::ConvertError;
use crate::ids::{Epoch, Incarnation, NodeId, SegmentId};
use crate::wire;

/// A node gives replicas up as missing or bad: they are Assigned again under a new epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub replicas: Vec<(SegmentId, Epoch)>,
}

impl OnWire for Lost {
    type Message = wire::Replicas;

    fn to_wire(&self) -> Self::Message {
        let Self { node, incarnation, replicas } = self;
        wire::Replicas {
            node: node.0,
            incarnation: incarnation.0,
            replicas: epochs_to_wire(replicas),
        }
    }

    fn from_wire(report: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            node: NodeId(report.node),
            incarnation: Incarnation(report.incarnation),
            replicas: epochs_from_wire("replicas", &report.replicas)?,
        })
    }
}

#[cfg(test)]
impl Drawn for Lost {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        let incarnation = Incarnation(draw.u64());
        Self { node, incarnation, replicas: draw.pairs() }
    }
}
