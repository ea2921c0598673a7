//! `SetPolicy`: changes the rules of a namespace.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, policy_change_from_wire, policy_change_to_wire};
use crate::ids::Namespace;
use crate::model::PolicyChange;
use crate::wire;

/// Changes the rules of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPolicy {
    pub namespace: Namespace,
    pub change: PolicyChange,
}

impl OnWire for SetPolicy {
    type Message = wire::SetPolicy;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, change } = self;
        wire::SetPolicy {
            namespace: namespace.to_string(),
            change: Some(policy_change_to_wire(change)),
        }
    }

    fn from_wire(set: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            namespace: set.namespace.parse()?,
            change: policy_change_from_wire(&set.change.unwrap_or_default())?,
        })
    }
}

#[cfg(test)]
impl Drawn for SetPolicy {
    fn drawn(draw: &mut Draw) -> Self {
        Self { namespace: draw.namespace(), change: draw.change() }
    }
}
