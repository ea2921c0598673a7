//! `RaiseFeatureLevel`: all nodes in service understand the commands up to this level.

#[cfg(test)]
use super::FEATURE_LEVEL;
use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::wire;

/// All nodes in service understand the commands up to this level. Never lowered.
///
/// Every build understands this command itself: one that is refused at apply must not end a node.
/// A node that does not understand the new level stops once it has applied it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaiseFeatureLevel {
    pub level: u32,
}

impl OnWire for RaiseFeatureLevel {
    type Message = wire::RaiseFeatureLevel;

    fn to_wire(&self) -> Self::Message {
        let Self { level } = self;
        wire::RaiseFeatureLevel { level: *level }
    }

    fn from_wire(raise: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { level: raise.level })
    }
}

#[cfg(test)]
impl Drawn for RaiseFeatureLevel {
    fn drawn(draw: &mut Draw) -> Self {
        Self { level: 1 + draw.below(FEATURE_LEVEL) }
    }
}
