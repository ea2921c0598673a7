//! How a process stands that calls this node, by the catalogue as far as it is applied here: whether
//! it may speak for its node, or must not go on.
//!
//! A removed node serves Raft until its vote is not needed; `votes` says whether it is.

use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::{Reason, refuse};
use cairn_proto::wire::HelloRequest;
use cairn_types::ids::{Incarnation, NodeId, Nonce};
use cairn_types::model::Admin;
use tonic::Status;

/// What a leader makes of a heartbeat.
pub enum Standing {
    Current,
    /// This leader has not applied that registration yet.
    NotYet,
    /// The process must not go on.
    Void(String),
}

pub fn of_heartbeat(
    catalogue: &Catalogue,
    node: NodeId,
    incarnation: Incarnation,
    votes: bool,
) -> Standing {
    match catalogue.node(node) {
        None if catalogue.is_forgotten(node) => {
            Standing::Void(format!("node {node} was removed from the cluster"))
        }
        None => Standing::NotYet,
        // It serves Raft until its vote is not needed.
        Some(record) if record.admin == Admin::Removed && votes => Standing::NotYet,
        Some(record) if record.admin == Admin::Removed => {
            Standing::Void(format!("node {node} was removed from the cluster"))
        }
        Some(record) if record.incarnation > incarnation => Standing::Void(format!(
            "another process has registered as node {node} (incarnation {}, not {incarnation})",
            record.incarnation
        )),
        Some(record) if record.incarnation < incarnation => Standing::NotYet,
        Some(_) => Standing::Current,
    }
}

/// Why the directory that says hello must not come back, as far as this node has applied.
pub fn hello_refusal(
    catalogue: &Catalogue,
    request: &HelloRequest,
    fresh: bool,
    votes: bool,
) -> Option<String> {
    let node = NodeId(request.node);
    if catalogue.is_forgotten(node) {
        return Some(format!("node {node} was removed from the cluster"));
    }
    let record = catalogue.node(node)?;
    if record.admin == Admin::Removed && votes {
        return None;
    }
    if record.admin == Admin::Removed {
        return Some(format!("node {node} was removed from the cluster"));
    }
    if request.cookie != record.cookie.0.to_be_bytes().as_slice() {
        return Some(format!("node {node} is registered with another data directory"));
    }
    let nonce = record.nonce.0.to_be_bytes();
    let known = request.nonces.iter().any(|said| *said == nonce.as_slice());
    if fresh && record.incarnation != Incarnation(0) && !known {
        return Some(format!("the data directory of node {node} is older than its registration"));
    }
    None
}

/// Whether a Raft message from `sender` may be heeded. Not from a removed node, once its vote is
/// of no use any more, and not from a process whose registration another one has replaced: it runs on a copied or rolled back
/// directory. A nonce that is merely unknown proves nothing: this catalogue may be behind.
pub fn admit_raft(
    catalogue: &Catalogue,
    sender: NodeId,
    nonce: Nonce,
    votes: bool,
) -> Result<(), Status> {
    let record = catalogue.node(sender);
    let removed = record.is_some_and(|record| record.admin == Admin::Removed);
    if (removed && !votes) || catalogue.is_forgotten(sender) {
        let text = format!("node {sender} was removed from the cluster");
        return Err(refuse(Reason::StaleIdentity, text));
    }
    if catalogue.is_superseded(sender, nonce) {
        let text = format!("another process has registered as node {sender}");
        return Err(refuse(Reason::StaleIdentity, text));
    }
    Ok(())
}

/// Why the process of this node that registered as `incarnation` must not go on, if it must not.
pub fn why_stop(
    catalogue: &Catalogue,
    node: NodeId,
    incarnation: Incarnation,
    votes: bool,
) -> Option<String> {
    match catalogue.node(node) {
        // Until the members without it are committed, its vote may be needed for that.
        Some(record) if record.admin == Admin::Removed && votes => None,
        Some(record) if record.admin == Admin::Removed => {
            Some(format!("node {node} was removed from the cluster"))
        }
        Some(record) if record.incarnation > incarnation => {
            Some(format!("another process has registered as node {node}"))
        }
        _ => None,
    }
}
