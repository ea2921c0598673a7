//! `SetIssuer`: whose tokens are taken.

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, fixed};
use crate::rights::check_subject;
use crate::wire;
use bytes::Bytes;

/// Takes tokens that are signed with a key, under a name for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetIssuer {
    pub name: String,
    /// Ed25519; `None` takes the issuer back, and with it all its tokens.
    pub key: Option<[u8; 32]>,
}

impl OnWire for SetIssuer {
    type Message = wire::SetIssuer;

    fn to_wire(&self) -> Self::Message {
        let Self { name, key } = self;
        let key = key.map_or(Bytes::new(), |key| Bytes::copy_from_slice(&key));
        wire::SetIssuer { name: name.clone(), key }
    }

    fn from_wire(message: Self::Message) -> Result<Self, ConvertError> {
        check_subject(&message.name)?;
        let key = match message.key.is_empty() {
            true => None,
            false => Some(fixed("issuer key", &message.key)?),
        };
        Ok(Self { name: message.name, key })
    }
}

#[cfg(test)]
impl Drawn for SetIssuer {
    fn drawn(draw: &mut Draw) -> Self {
        Self { name: format!("issuer{}", draw.u64()), key: draw.option(|draw| draw.digest().0) }
    }
}
