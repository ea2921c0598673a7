//! `RepairTime`: takes time labels back that a wrong clock made: commits of the namespace that are
//! labelled later than `to_ms` get this label.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::ids::Namespace;
use crate::wire;

/// Takes time labels back that a wrong clock made: commits of the namespace that are labelled
/// later than `to_ms` get this label. One entry does a part of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairTime {
    pub namespace: Namespace,
    pub to_ms: u64,
    /// Goes on behind the commit at this log index; zero to begin with.
    pub after: u64,
}

impl OnWire for RepairTime {
    type Message = wire::RepairTime;

    fn to_wire(&self) -> Self::Message {
        let Self { namespace, to_ms, after } = self;
        wire::RepairTime { namespace: namespace.to_string(), to_ms: *to_ms, after: *after }
    }

    fn from_wire(repair: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { namespace: repair.namespace.parse()?, to_ms: repair.to_ms, after: repair.after })
    }
}

#[cfg(test)]
impl Drawn for RepairTime {
    fn drawn(draw: &mut Draw) -> Self {
        Self { namespace: draw.namespace(), to_ms: draw.u64(), after: draw.u64() }
    }
}
