//! A node's record, also of a removed node.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::convert::{
    ConvertError, id128_from_wire, id128_to_wire, new_node_from_wire, new_node_to_wire, required,
};
use cairn_types::ids::{Incarnation, NodeId, Nonce};
use cairn_types::limits::{NODES_MAX, SUPERSEDED_MAX};
use cairn_types::model::{Admin, Duty, Liveness, NewNode, Node};
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError, is_minted};
use crate::catalogue::Catalogue;

pub(super) struct Nodes;

impl Stored for Nodes {
    type Message = wire::SnapshotNode;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.nodes().try_for_each(|node| put(to_wire(node)))
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        loader.node(from_wire(message)?)?;
        Ok(())
    }
}

impl Loader {
    pub fn node(&mut self, node: Node) -> Result<(), LoadError> {
        let id = node.id;
        let minted = is_minted(id.0, &self.catalogue.cluster, |cluster| cluster.next_node);
        let full = self.catalogue.nodes.len() >= NODES_MAX;
        let superseded = &node.superseded;
        if superseded.len() > SUPERSEDED_MAX || superseded.contains(&node.nonce) {
            return Err(LoadError::Node(id));
        }
        if !minted || full || Arc::make_mut(&mut self.catalogue.nodes).insert(id, node).is_some() {
            return Err(LoadError::Node(id));
        }
        Ok(())
    }
}

fn to_wire(node: &Node) -> wire::SnapshotNode {
    let new = NewNode {
        cookie: node.cookie,
        host: node.host.clone(),
        rack: node.rack.clone(),
        address: node.address.clone(),
        capacity_bytes: node.capacity_bytes,
        feature_level: node.feature_level,
        replaces: None,
        key: node.key,
    };
    wire::SnapshotNode {
        id: node.id.0,
        node: Some(new_node_to_wire(&new)),
        nonce: id128_to_wire(node.nonce.0),
        superseded: node.superseded.iter().map(|nonce| id128_to_wire(nonce.0)).collect(),
        incarnation: node.incarnation.0,
        inventoried: node.inventoried,
        removed: node.admin == Admin::Removed,
        up: node.liveness == Liveness::Up,
        liveness_since_ms: node.liveness_since_ms,
        draining: node.duty == Duty::Draining,
        maintenance_until_ms: match node.duty {
            Duty::Maintenance { until_ms } => until_ms,
            Duty::Serving | Duty::Draining => 0,
        },
    }
}

fn from_wire(record: wire::SnapshotNode) -> Result<Node, ConvertError> {
    let new = new_node_from_wire(required("node", record.node)?)?;
    let duty = match (record.draining, record.maintenance_until_ms) {
        (false, 0) => Duty::Serving,
        (true, 0) => Duty::Draining,
        (false, until_ms) => Duty::Maintenance { until_ms },
        (true, got) => return Err(ConvertError::Value { field: "maintenance_until_ms", got }),
    };
    let nonce = |bytes: &Bytes| id128_from_wire("nonce", bytes).map(Nonce);
    Ok(Node {
        id: NodeId(record.id),
        cookie: new.cookie,
        nonce: nonce(&record.nonce)?,
        superseded: record.superseded.iter().map(nonce).collect::<Result<_, _>>()?,
        host: new.host,
        rack: new.rack,
        address: new.address,
        incarnation: Incarnation(record.incarnation),
        inventoried: record.inventoried,
        admin: if record.removed { Admin::Removed } else { Admin::InService },
        duty,
        liveness: if record.up { Liveness::Up } else { Liveness::Down },
        liveness_since_ms: record.liveness_since_ms,
        capacity_bytes: new.capacity_bytes,
        feature_level: new.feature_level,
        key: new.key,
    })
}
