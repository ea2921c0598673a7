//! `SetPolicy`: changes the rules of a namespace.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{
    ConvertError, at_most, policy_change_from_wire, policy_change_to_wire,
    retention_change_from_wire, retention_change_to_wire,
};
use crate::ids::Namespace;
use crate::model::PolicyChange;
use crate::policy::PolicyField;
use crate::retention::RetentionChange;
use crate::wire;

/// Changes the rules of a namespace. First some are left to the namespaces above it, then others
/// are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPolicy {
    pub namespace: Namespace,
    pub change: PolicyChange,
    pub retention: RetentionChange,
    pub unset: Vec<PolicyField>,
}

impl SetPolicy {
    pub fn new(namespace: Namespace, change: PolicyChange) -> Self {
        Self { namespace, change, retention: RetentionChange::default(), unset: Vec::new() }
    }
}

impl OnWire for SetPolicy {
    type Message = wire::SetPolicy;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, change, retention, unset } = self;
        wire::SetPolicy {
            namespace: namespace.to_string(),
            change: Some(policy_change_to_wire(change)),
            retention: (!retention.is_empty()).then(|| retention_change_to_wire(retention)),
            unset: unset.iter().map(|field| *field as u32).collect(),
        }
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        let is_old = self.retention.is_empty() && self.unset.is_empty();
        if is_old { in_table } else { in_table.max(2) }
    }

    fn from_wire(set: Self::Message) -> Result<Self, ConvertError> {
        at_most("rules to unset", set.unset.len(), PolicyField::ALL.len())?;
        let field = |number: u32| {
            let unknown = ConvertError::Value { field: "rule to unset", got: number.into() };
            PolicyField::from_number(number).ok_or(unknown)
        };
        Ok(Self {
            namespace: set.namespace.parse()?,
            change: policy_change_from_wire(&set.change.unwrap_or_default())?,
            retention: retention_change_from_wire(set.retention.unwrap_or_default())?,
            unset: set.unset.into_iter().map(field).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
impl Drawn for SetPolicy {
    fn drawn(draw: &mut Draw) -> Self {
        let field =
            |draw: &mut Draw| PolicyField::ALL[draw.below(PolicyField::ALL.len() as u32) as usize];
        Self {
            namespace: draw.namespace(),
            change: draw.change(),
            retention: draw.retention(),
            unset: draw.list(field),
        }
    }
}
