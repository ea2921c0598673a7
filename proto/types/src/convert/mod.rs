//! Messages to this crate's types and back, for what commands, replies and records share. A command's
//! own conversion is in its file, a stored record's beside its state in cairn-core. Here and there is
//! all validation of shape.
//!
//! What is checked here: lengths of ids and digests, enum values, names, sizes of batches
//! against `limits`. What is checked at apply: everything that depends on the catalogue.
//! Conversions to the wire never fail; those from it end in a [`ConvertError`], never a panic.

mod event;
mod info;
mod listing;
mod marks;
mod policy;
mod refusal;
mod reply;
mod retention;
mod segment;

use crate::form::FormError;
use crate::id_set::IdSetError;
use crate::ids::{NameError, SegmentDigest, check_host_port};
use bytes::Bytes;

pub use crate::command::{decode_command, encode_command};
pub use event::{
    cursor_from_wire, event_from_wire, event_to_wire, watched_from_wire, watched_ref_from_wire,
    watched_ref_to_wire, watched_to_wire,
};
pub use info::{info_from_wire, info_to_wire};
pub use info::{state_from_wire, state_to_wire};
pub use listing::{list_filter_from_wire, list_place_from_wire, list_request};
pub use marks::{
    hold_from_wire, hold_to_wire, quarantine_from_wire, quarantine_to_wire, ref_from_wire,
    ref_to_wire,
};

pub use policy::{
    new_node_from_wire, new_node_to_wire, policy_change_from_wire, policy_change_to_wire,
    policy_from_wire, policy_to_wire, settings_from_wire, settings_to_wire,
};
pub(crate) use policy::{node_key_from_wire, node_key_to_wire};
pub use refusal::{refusal_from_wire, refusal_to_wire};
pub use reply::{durability_from_wire, durability_to_wire, reply_from_wire, reply_to_wire};
pub use retention::{
    confirmed_from_wire, confirmed_to_wire, own_policy_from_wire, own_policy_to_wire,
    retention_change_from_wire, retention_change_to_wire,
};
pub use segment::{
    manifest_place_from_wire, manifest_place_to_wire, sealed_part_from_wire, sealed_part_to_wire,
    segment_len_from_wire, slot_from_wire, slot_to_wire,
};

/// Why a message is not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// This build must not skip it: it refuses to propose it and stops when the log holds it.
    #[error("this build does not know commands of feature level {feature_level}")]
    FutureCommand { feature_level: u32 },
    /// Dropping them would make nodes of different builds do different things.
    #[error("{what} has fields that this build does not know, or is not in canonical form")]
    UnknownFields { what: &'static str },
    #[error("undecodable message: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is {got} bytes long, not {want}")]
    Length { field: &'static str, got: usize, want: usize },
    #[error("{field} cannot be {got}")]
    Value { field: &'static str, got: u64 },
    #[error("{field} {got} is not a finite number")]
    NotFinite { field: &'static str, got: String },
    #[error("{field} is too long: {got}, limit {max}")]
    TooMany { field: &'static str, got: usize, max: usize },
    #[error("malformed {field}: expected 1 to 255 printable ASCII characters without spaces")]
    Text { field: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    IdSet(#[from] IdSetError),
}

/// Refuses a message of which decoding dropped something. Prost skips fields it does not know; what
/// it knows takes as many bytes again as it came in, if it came in prost's form: no defaults, also
/// not in the entries of maps, and repeated numbers packed.
pub fn all_known<M: prost::Message>(
    what: &'static str,
    message: &M,
    bytes: usize,
) -> Result<(), ConvertError> {
    if message.encoded_len() == bytes { Ok(()) } else { Err(ConvertError::UnknownFields { what }) }
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

pub(crate) fn fixed<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<[u8; N], ConvertError> {
    bytes.try_into().map_err(|_| ConvertError::Length { field, got: bytes.len(), want: N })
}

pub(crate) fn at_most(field: &'static str, got: usize, max: usize) -> Result<(), ConvertError> {
    if got <= max { Ok(()) } else { Err(ConvertError::TooMany { field, got, max }) }
}

pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

/// A node's advertised address.
pub(crate) fn check_address(text: &str) -> Result<(), ConvertError> {
    check_host_port(text).map_err(|_| ConvertError::Text { field: "address" })
}

#[cfg(test)]
mod tests;
