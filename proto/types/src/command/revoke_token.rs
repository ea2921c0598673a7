//! `RevokeToken`: ends a token before it expires.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, at_most, id128_from_wire, id128_to_wire};
use crate::ids::TokenId;
use crate::limits::REASON_BYTES_MAX;
use crate::wire;

/// Refuses a token from now on, and all that were made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeToken {
    pub token: TokenId,
    /// Wall clock of its expiry, milliseconds since the Unix epoch: it is remembered at least until
    /// then.
    pub until_ms: u64,
    pub reason: String,
}

impl OnWire for RevokeToken {
    type Message = wire::RevokeToken;

    fn to_wire(&self) -> Self::Message {
        let Self { token, until_ms, reason } = self;
        let (token, reason) = (id128_to_wire(token.0), reason.clone());
        wire::RevokeToken { token, until_ms: *until_ms, reason }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        let wire::RevokeToken { token, until_ms, reason } = message;
        at_most("reason", reason.len(), REASON_BYTES_MAX)?;
        let token = TokenId(id128_from_wire("token id", &token)?);
        Ok(Self { token, until_ms, reason })
    }
}

#[cfg(test)]
impl Drawn for RevokeToken {
    fn drawn(draw: &mut Draw) -> Self {
        let (token, until_ms) = (TokenId(draw.u128()), draw.u64());
        Self { token, until_ms, reason: format!("reason {}", draw.u64()) }
    }
}
