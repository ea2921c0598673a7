//! Policies, cluster settings and new nodes.

use bytes::Bytes;

use crate::ids::{Cookie, NodeId, check_label};
use crate::model::{Isolation, NewNode, Policy, PolicyChange, Settings};

use super::{ConvertError, check_address, fixed, id128_from_wire, id128_to_wire};
use crate::wire;

fn isolation_to_wire(isolation: Isolation) -> wire::Isolation {
    match isolation {
        Isolation::Hard => wire::Isolation::Hard,
        Isolation::Soft => wire::Isolation::Soft,
    }
}

fn isolation_from_wire(number: i32) -> Result<Isolation, ConvertError> {
    match wire::Isolation::try_from(number) {
        Ok(wire::Isolation::Hard) => Ok(Isolation::Hard),
        Ok(wire::Isolation::Soft) => Ok(Isolation::Soft),
        Err(_) => Err(ConvertError::Value { field: "isolation", got: number as u32 as u64 }),
    }
}

pub fn policy_to_wire(policy: &Policy) -> wire::Policy {
    wire::Policy {
        replicas: policy.replicas,
        write_quorum: policy.write_quorum,
        min_racks: policy.min_racks,
        isolation: isolation_to_wire(policy.isolation).into(),
        keep_last: policy.keep_last,
    }
}

pub fn policy_from_wire(policy: &wire::Policy) -> Result<Policy, ConvertError> {
    Ok(Policy {
        replicas: policy.replicas,
        write_quorum: policy.write_quorum,
        min_racks: policy.min_racks,
        isolation: isolation_from_wire(policy.isolation)?,
        keep_last: policy.keep_last,
    })
}

pub fn policy_change_to_wire(change: &PolicyChange) -> wire::PolicyChange {
    wire::PolicyChange {
        replicas: change.replicas,
        write_quorum: change.write_quorum,
        min_racks: change.min_racks,
        isolation: change.isolation.map(|isolation| isolation_to_wire(isolation).into()),
        keep_last: change.keep_last,
    }
}

pub fn policy_change_from_wire(change: &wire::PolicyChange) -> Result<PolicyChange, ConvertError> {
    Ok(PolicyChange {
        replicas: change.replicas,
        write_quorum: change.write_quorum,
        min_racks: change.min_racks,
        isolation: change.isolation.map(isolation_from_wire).transpose()?,
        keep_last: change.keep_last,
    })
}

pub fn settings_to_wire(settings: &Settings) -> wire::Settings {
    wire::Settings {
        lease_ms: settings.lease_ms,
        grace_ms: settings.grace_ms,
        down_after_ms: settings.down_after_ms,
        replace_after_ms: settings.replace_after_ms,
    }
}

pub fn settings_from_wire(settings: &wire::Settings) -> Settings {
    Settings {
        lease_ms: settings.lease_ms,
        grace_ms: settings.grace_ms,
        down_after_ms: settings.down_after_ms,
        replace_after_ms: settings.replace_after_ms,
    }
}

pub fn new_node_to_wire(node: &NewNode) -> wire::NewNode {
    wire::NewNode {
        cookie: id128_to_wire(node.cookie.0),
        host: node.host.clone(),
        rack: node.rack.clone(),
        address: node.address.clone(),
        capacity_bytes: node.capacity_bytes,
        feature_level: node.feature_level,
        replaces: node.replaces.map_or(0, |node| node.0),
        key: node_key_to_wire(node.key),
    }
}

pub fn new_node_from_wire(node: wire::NewNode) -> Result<NewNode, ConvertError> {
    check_label(&node.host)?;
    check_label(&node.rack)?;
    check_address(&node.address)?;
    Ok(NewNode {
        cookie: Cookie(id128_from_wire("cookie", &node.cookie)?),
        host: node.host,
        rack: node.rack,
        address: node.address,
        capacity_bytes: node.capacity_bytes,
        feature_level: node.feature_level,
        replaces: (node.replaces != 0).then_some(NodeId(node.replaces)),
        key: node_key_from_wire(&node.key)?,
    })
}

/// A node's public key, or none.
pub(crate) fn node_key_to_wire(key: Option<[u8; 32]>) -> Bytes {
    key.map_or(Bytes::new(), |key| Bytes::copy_from_slice(&key))
}

pub(crate) fn node_key_from_wire(key: &Bytes) -> Result<Option<[u8; 32]>, ConvertError> {
    if key.is_empty() { Ok(None) } else { fixed("node key", key).map(Some) }
}
