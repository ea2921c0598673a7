//! `SetRef`: moves or removes a named pointer.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most};
use crate::ids::{CheckpointId, Namespace, RefName};
use crate::limits::LABEL_BYTES_MAX;
use crate::wire;

/// Points a ref at a committed checkpoint of its namespace, or removes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRef {
    pub namespace: Namespace,
    pub name: RefName,
    /// `None` removes the ref.
    pub checkpoint: Option<CheckpointId>,
    /// The generation it must have: 0 for a ref that is not there. `None` takes any.
    pub expect: Option<u64>,
    /// Who moves it, for people.
    pub by: String,
}

impl OnWire for SetRef {
    type Message = wire::SetRef;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, name, checkpoint, expect, by } = self;
        wire::SetRef {
            namespace: namespace.to_string(),
            name: name.to_string(),
            checkpoint: checkpoint.map(|id| id.0),
            expect: *expect,
            by: by.clone(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        at_most("client name", message.by.len(), LABEL_BYTES_MAX)?;
        Ok(Self {
            namespace: message.namespace.parse()?,
            name: message.name.parse()?,
            checkpoint: message.checkpoint.map(CheckpointId),
            expect: message.expect,
            by: message.by,
        })
    }
}

#[cfg(test)]
impl Drawn for SetRef {
    fn drawn(draw: &mut Draw) -> Self {
        Self {
            namespace: draw.namespace(),
            name: format!("r{}", draw.u64()).parse().unwrap(),
            checkpoint: draw.option(|draw| CheckpointId(draw.u64())),
            expect: draw.option(Draw::u64),
            by: format!("c{}", draw.u64()),
        }
    }
}
