//! `SetLiveness`: transitions only.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::{Incarnation, NodeId};
use crate::limits::NODES_MAX;
use crate::model::Liveness;
use crate::wire;

/// Transitions only. Ignored for stale incarnations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetLiveness {
    pub changes: Vec<(NodeId, Incarnation, Liveness)>,
}

impl OnWire for SetLiveness {
    type Message = wire::SetLiveness;

    fn to_wire(&self) -> Self::Message {
        let Self { changes } = self;
        let changes = changes.iter().map(|(node, incarnation, liveness)| {
            let up = *liveness == Liveness::Up;
            wire::LivenessChange { node: node.0, incarnation: incarnation.0, up }
        });
        wire::SetLiveness { changes: changes.collect() }
    }

    fn from_wire(set: Self::Message) -> Result<Self, ConvertError> {
        at_most("liveness changes", set.changes.len(), NODES_MAX)?;
        let changes = set.changes.iter().map(|change| {
            let liveness = if change.up { Liveness::Up } else { Liveness::Down };
            (NodeId(change.node), Incarnation(change.incarnation), liveness)
        });
        Ok(Self { changes: changes.collect() })
    }
}

#[cfg(test)]
impl Drawn for SetLiveness {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            changes: draw.list(|draw| {
                let liveness = if draw.bool() { Liveness::Up } else { Liveness::Down };
                (NodeId(draw.u64()), Incarnation(draw.u64()), liveness)
            }),
        }
    }
}
