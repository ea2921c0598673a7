//! Wire messages to `cairn-core`'s types and back: the only place where bytes from the network
//! or the log become typed values, and so the place of all validation of shape.
//!
//! What is checked here: lengths of ids and digests, enum values, names, sizes of batches
//! against `limits`. What is checked at apply: everything that depends on the catalogue.
//! Conversions to the wire never fail; those from it end in a [`ConvertError`], never a panic.

mod command;
mod info;
mod policy;
mod refusal;
mod refused;
mod reply;
mod segment;

use bytes::Bytes;
use cairn_core::id_set::IdSetError;
use cairn_core::ids::{NameError, SegmentDigest};

pub use command::{command_from_wire, command_to_wire, decode_command, encode_command};
pub use info::{info_from_wire, info_to_wire};
pub(crate) use info::{state_from_wire, state_to_wire};

pub use policy::{
    new_node_from_wire, new_node_to_wire, policy_change_from_wire, policy_change_to_wire,
    policy_from_wire, policy_to_wire, settings_from_wire, settings_to_wire,
};
pub use refusal::{refusal_from_wire, refusal_to_wire};
pub use refused::{refusal_of, refusal_status};
pub use reply::{durability_from_wire, durability_to_wire, reply_from_wire, reply_to_wire};
pub use segment::{
    manifest_place_from_wire, manifest_place_to_wire, sealed_part_from_wire, sealed_part_to_wire,
    segment_len_from_wire, slot_from_wire, slot_to_wire,
};

/// Why a message is not a value of `cairn-core`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// This build must not skip it: it refuses to propose it and stops when the log holds it.
    #[error("command of feature level {feature_level} is not one this build understands")]
    FutureCommand { feature_level: u32 },
    #[error("undecodable message: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is {got} bytes long, not {want}")]
    Length { field: &'static str, got: usize, want: usize },
    #[error("{field} cannot be {got}")]
    Value { field: &'static str, got: u64 },
    #[error("{field} has {got} entries or bytes, {max} are the most")]
    TooMany { field: &'static str, got: usize, max: usize },
    #[error("malformed {field}: wants 1 to 255 printable ASCII characters without spaces")]
    Text { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    IdSet(#[from] IdSetError),
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::FutureCommand { .. } => Self::unimplemented(error.to_string()),
            _ => Self::invalid_argument(error.to_string()),
        }
    }
}

/// The wire form of a 128-bit id: 16 bytes, big-endian.
pub fn id128_to_wire(id: u128) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}

/// A 128-bit id; `field` names it in the error.
pub fn id128_from_wire(field: &'static str, bytes: &[u8]) -> Result<u128, ConvertError> {
    fixed(field, bytes).map(u128::from_be_bytes)
}

/// The wire form of a digest: its 32 bytes.
pub fn digest_to_wire(digest: &SegmentDigest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

/// A segment's digest; `field` names it in the error.
pub fn digest_from_wire(field: &'static str, bytes: &[u8]) -> Result<SegmentDigest, ConvertError> {
    fixed(field, bytes).map(SegmentDigest)
}

fn fixed<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::Length { field, got: bytes.len(), want: N })
}

fn at_most(field: &'static str, got: usize, max: usize) -> Result<(), ConvertError> {
    if got <= max { Ok(()) } else { Err(ConvertError::TooMany { field, got, max }) }
}

pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

/// An advertised address. Its form is for the dialer to judge; here it is only kept printable.
fn check_address(text: &str) -> Result<(), ConvertError> {
    let ok = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if ok { Ok(()) } else { Err(ConvertError::Text { field: "address" }) }
}

#[cfg(test)]
mod tests;
