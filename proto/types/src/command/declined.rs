//! `Declined`: a node cannot make these replicas now: others are to be made beside them.

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OnWire, epochs_from_wire, epochs_to_wire};
use crate::convert::{ConvertError, required};
use crate::ids::{Epoch, Incarnation, NodeId, SegmentId};
use crate::wire;

/// A node cannot make these replicas now: others are to be made beside them. The slots stay,
/// and the node goes on trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declined {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub reason: DeclineReason,
    pub replicas: Vec<(SegmentId, Epoch)>,
}

/// Why a node cannot make a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeclineReason {
    /// No space, or no inodes.
    Full,
    /// Its disk refuses to be written: EIO, read only.
    Disk,
    /// It reaches no node with good blocks, for long.
    NoSource,
}

impl DeclineReason {
    pub fn text(self) -> &'static str {
        match self {
            Self::Full => "no space",
            Self::Disk => "its disk cannot be written",
            Self::NoSource => "no source can be reached",
        }
    }
}

impl OnWire for Declined {
    type Message = wire::Declined;

    fn to_wire(&self) -> Self::Message {
        let Self { node, incarnation, reason, replicas } = self;
        let (node, incarnation) = (node.0, incarnation.0);
        let replicas = wire::Replicas { node, incarnation, replicas: epochs_to_wire(replicas) };
        wire::Declined { replicas: Some(replicas), reason: decline_to_wire(*reason).into() }
    }

    fn from_wire(declined: Self::Message) -> Result<Self, ConvertError> {
        let report = required("replicas", declined.replicas)?;
        Ok(Self {
            node: NodeId(report.node),
            incarnation: Incarnation(report.incarnation),
            reason: decline_from_wire(declined.reason)?,
            replicas: epochs_from_wire("replicas", &report.replicas)?,
        })
    }
}

fn decline_to_wire(reason: DeclineReason) -> wire::DeclineReason {
    match reason {
        DeclineReason::Full => wire::DeclineReason::Full,
        DeclineReason::Disk => wire::DeclineReason::Disk,
        DeclineReason::NoSource => wire::DeclineReason::NoSource,
    }
}

fn decline_from_wire(reason: i32) -> Result<DeclineReason, ConvertError> {
    match wire::DeclineReason::try_from(reason) {
        Ok(wire::DeclineReason::Full) => Ok(DeclineReason::Full),
        Ok(wire::DeclineReason::Disk) => Ok(DeclineReason::Disk),
        Ok(wire::DeclineReason::NoSource) => Ok(DeclineReason::NoSource),
        _ => Err(ConvertError::Value { field: "decline reason", got: u64::from(reason as u32) }),
    }
}

#[cfg(test)]
impl Drawn for Declined {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        let incarnation = Incarnation(draw.u64());
        let reasons = [DeclineReason::Full, DeclineReason::Disk, DeclineReason::NoSource];
        let reason = reasons[draw.below(3) as usize];
        Self { node, incarnation, reason, replicas: draw.pairs() }
    }
}
