//! `Register`: a node process reports for duty.

use bytes::Bytes;

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{NODE_KEYS_LEVEL, OnWire};
use crate::convert::{
    ConvertError, at_most, check_address, id128_from_wire, id128_to_wire, node_key_from_wire,
    node_key_to_wire,
};
use crate::ids::{Cookie, NodeId, Nonce, check_label};
use crate::limits::NONCES_MAX;
use crate::wire;

/// A node process reports for duty. Refused as `StaleIdentity` unless the record's nonce is
/// among `previous` (or equals `nonce`, a retry).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    pub node: NodeId,
    pub cookie: Cookie,
    /// The nonces the data directory remembers, at most `NONCES_MAX`: the last one known to be
    /// registered and those whose registrations were never answered.
    pub previous: Vec<Nonce>,
    pub nonce: Nonce,
    pub host: String,
    pub rack: String,
    pub address: String,
    pub capacity_bytes: u64,
    pub feature_level: u32,
    /// The node's public key. It is recorded if the record has none, and must be that key otherwise.
    pub key: Option<[u8; 32]>,
}

impl OnWire for Register {
    type Message = wire::RegisterNode;

    fn to_wire(&self) -> Self::Message {
        let Self {
            node,
            cookie,
            previous,
            nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
            key,
        } = self;
        wire::RegisterNode {
            node: node.0,
            cookie: id128_to_wire(cookie.0),
            previous: previous.iter().map(|nonce| id128_to_wire(nonce.0)).collect(),
            nonce: id128_to_wire(nonce.0),
            host: host.clone(),
            rack: rack.clone(),
            address: address.clone(),
            capacity_bytes: *capacity_bytes,
            feature_level: *feature_level,
            key: node_key_to_wire(*key),
        }
    }

    fn feature_level(&self, in_table: u32) -> u32 {
        if self.key.is_some() { in_table.max(NODE_KEYS_LEVEL) } else { in_table }
    }

    fn from_wire(register: Self::Message) -> Result<Self, ConvertError> {
        check_label(&register.host)?;
        check_label(&register.rack)?;
        check_address(&register.address)?;
        at_most("previous nonces", register.previous.len(), NONCES_MAX)?;
        let nonce = |bytes: &Bytes| id128_from_wire("nonce", bytes).map(Nonce);
        Ok(Self {
            node: NodeId(register.node),
            cookie: Cookie(id128_from_wire("cookie", &register.cookie)?),
            previous: register.previous.iter().map(nonce).collect::<Result<_, _>>()?,
            nonce: nonce(&register.nonce)?,
            host: register.host,
            rack: register.rack,
            address: register.address,
            capacity_bytes: register.capacity_bytes,
            feature_level: register.feature_level,
            key: node_key_from_wire(&register.key)?,
        })
    }
}

#[cfg(test)]
impl Drawn for Register {
    fn drawn(draw: &mut Draw) -> Self {
        let node = NodeId(draw.u64());
        let new = draw.new_node();
        Self {
            node,
            cookie: new.cookie,
            previous: (0..draw.below(NONCES_MAX as u32 + 1)).map(|_| Nonce(draw.u128())).collect(),
            nonce: Nonce(draw.u128()),
            host: new.host,
            rack: new.rack,
            address: new.address,
            capacity_bytes: new.capacity_bytes,
            feature_level: new.feature_level,
            key: new.key,
        }
    }
}
