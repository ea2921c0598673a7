//! `RequireTokens`: whether the cluster's key alone is enough for clients.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::ConvertError;
use crate::wire;

/// Whether callers without a token have no rights but those of nodes and of who manages tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequireTokens {
    pub required: bool,
}

impl OnWire for RequireTokens {
    type Message = wire::RequireTokens;

    fn to_wire(&self) -> Self::Message {
        wire::RequireTokens { required: self.required }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self { required: message.required })
    }
}

#[cfg(test)]
impl Drawn for RequireTokens {
    fn drawn(draw: &mut Draw) -> Self {
        Self { required: draw.bool() }
    }
}
