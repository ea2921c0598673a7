//! `SetDuty`: a node is drained, is in maintenance, or serves again.

use std::time::Duration;

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::NodeId;
use crate::wire;

/// The longest maintenance.
pub const MAINTENANCE_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Refused for a node that is not in service. A drain is also refused where too few hosts would be
/// left for the replicas that checkpoints want, because it could not end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetDuty {
    pub node: NodeId,
    pub duty: NewDuty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewDuty {
    Serve,
    Drain,
    /// For this long from the entry's cluster time on, 1 ms to [`MAINTENANCE_MAX`].
    Maintain {
        for_ms: u64,
    },
}

impl OnWire for SetDuty {
    type Message = wire::SetDuty;

    fn to_wire(&self) -> Self::Message {
        let (duty, for_ms) = match self.duty {
            NewDuty::Serve => (wire::Duty::Serving, 0),
            NewDuty::Drain => (wire::Duty::Draining, 0),
            NewDuty::Maintain { for_ms } => (wire::Duty::Maintenance, for_ms),
        };
        wire::SetDuty { node: self.node.0, duty: duty.into(), for_ms }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        let longest = MAINTENANCE_MAX.as_millis() as u64;
        let duty = match (message.duty(), message.for_ms) {
            (wire::Duty::Serving, 0) => NewDuty::Serve,
            (wire::Duty::Draining, 0) => NewDuty::Drain,
            (wire::Duty::Maintenance, for_ms) if (1..=longest).contains(&for_ms) => {
                NewDuty::Maintain { for_ms }
            }
            (wire::Duty::Maintenance, _) => {
                return Err(ConvertError::Value { field: "for_ms", got: message.for_ms });
            }
            (wire::Duty::Unspecified, _) => return Err(ConvertError::Missing { field: "duty" }),
            (_, for_ms) => return Err(ConvertError::Value { field: "for_ms", got: for_ms }),
        };
        Ok(Self { node: NodeId(message.node), duty })
    }
}

#[cfg(test)]
impl Drawn for SetDuty {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        let duty = match (draw.bool(), draw.bool()) {
            (true, true) => NewDuty::Serve,
            (true, false) => NewDuty::Drain,
            (false, _) => {
                NewDuty::Maintain { for_ms: 1 + draw.u64() % MAINTENANCE_MAX.as_millis() as u64 }
            }
        };
        Self { node, duty }
    }
}
