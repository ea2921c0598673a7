//! `LeaderStarted`: a leader's first entry: every open lease gets a full term.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::wire;

/// A leader's first entry: every open lease gets a full term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderStarted;

impl OnWire for LeaderStarted {
    type Message = wire::LeaderStarted;

    fn to_wire(&self) -> Self::Message {
        wire::LeaderStarted {}
    }

    fn from_wire(_: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self)
    }
}

#[cfg(test)]
impl Drawn for LeaderStarted {
    fn drawn(_: &mut Draw) -> Self {
        Self
    }
}
