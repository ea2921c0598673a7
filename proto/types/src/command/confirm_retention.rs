//! `ConfirmRetention`: agrees to a large run of retention.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::Namespace;
use crate::wire;

/// Retention may let go so many checkpoints of a namespace, as long as its policy stays at the
/// version that was looked at. It is in the log, and so outlives the leader that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmRetention {
    pub namespace: Namespace,
    pub policy_version: u64,
    pub checkpoints: u64,
}

impl OnWire for ConfirmRetention {
    type Message = wire::ConfirmRetention;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, policy_version, checkpoints } = self;
        wire::ConfirmRetention {
            namespace: namespace.to_string(),
            policy_version: *policy_version,
            checkpoints: *checkpoints,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        let wire::ConfirmRetention { namespace, policy_version, checkpoints } = message;
        Ok(Self { namespace: namespace.parse()?, policy_version, checkpoints })
    }
}

#[cfg(test)]
impl Drawn for ConfirmRetention {
    fn drawn(draw: &mut Draw) -> Self {
        let (policy_version, checkpoints) = (draw.u64(), draw.u64());
        Self { namespace: draw.namespace(), policy_version, checkpoints }
    }
}
