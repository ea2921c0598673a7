//! The standing of a process that calls this node, by this node's applied catalogue: whether it may
//! act for its node, or must stop.
//!
//! A removed node serves Raft until its vote is no longer needed. `votes` says whether it still is.

use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::{Reason, refuse};
use cairn_proto::wire::HelloRequest;
use cairn_types::ids::{Incarnation, NodeId, Nonce};
use cairn_types::model::Admin;
use tonic::Status;

/// The leader's judgement of a heartbeat.
pub enum Standing {
    Current,
    /// This leader has not applied that registration yet.
    NotYet,
    /// The process must stop.
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
        // It serves Raft until its vote is no longer needed.
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

/// Why the directory that says hello must not come back, as far as this node has applied the log.
///
/// A view that may be behind cannot judge an unknown nonce; a `fresh` view can. There is one
/// exception, which holds in every view: a directory is older than the registration if it knows
/// only an earlier one and does not have the registered nonce (decision 0018).
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
    let said = Incarnation(request.incarnation);
    let is_earlier = said != Incarnation(0) && said < record.incarnation;
    if (fresh || is_earlier) && record.incarnation != Incarnation(0) && !known {
        return Some(format!("the data directory of node {node} is older than its registration"));
    }
    None
}

/// Whether a Raft message from `sender` may be accepted. It is refused from a removed node whose
/// vote is no longer needed. It is also refused from a process whose registration another one has
/// replaced, because that process runs on a copied or rolled back directory. An unknown nonce alone
/// is no reason to refuse: this catalogue may be behind.
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

/// Why the process of this node that registered as `incarnation` must stop. `None` if it may
/// continue.
pub fn why_stop(
    catalogue: &Catalogue,
    node: NodeId,
    incarnation: Incarnation,
    votes: bool,
) -> Option<String> {
    match catalogue.node(node) {
        // Its vote may be needed to commit the membership without it.
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

#[cfg(test)]
mod tests {
    use cairn_types::command::{self, Body, Command, FEATURE_LEVEL, Reply};
    use cairn_types::ids::{ClusterId, Cookie, RequestId};
    use cairn_types::model::{NewNode, Settings};

    use super::*;

    fn new_node() -> NewNode {
        NewNode {
            cookie: Cookie(5),
            host: "host1".into(),
            rack: "rack1".into(),
            address: "host1:7000".into(),
            capacity_bytes: 1 << 40,
            feature_level: FEATURE_LEVEL,
            replaces: None,
            key: None,
        }
    }

    fn register(previous: &[u128], nonce: u128) -> Body {
        let NewNode { cookie, host, rack, address, capacity_bytes, feature_level, .. } = new_node();
        let previous = previous.iter().copied().map(Nonce).collect();
        let (node, nonce) = (NodeId(1), Nonce(nonce));
        Body::Register(command::Register {
            node,
            cookie,
            previous,
            nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
            key: None,
        })
    }

    /// Node 1 registered as process 10, then as process 11.
    fn catalogue() -> (Catalogue, Incarnation) {
        let mut catalogue = Catalogue::default();
        let settings = Settings::default();
        let init = command::InitCluster { cluster: ClusterId(7), settings, node: new_node() };
        let bodies = [Body::InitCluster(init), register(&[], 10), register(&[10], 11)];
        let mut reply = Reply::Done;
        for (index, body) in (1..).zip(bodies) {
            let request = RequestId(u128::from(index));
            let command =
                Command { request, clock_ms: index, wall_ms: 0, subject: Default::default(), body };
            reply = catalogue.apply(index, &command);
        }
        let Reply::Registered { incarnation } = reply else { panic!("{reply:?}") };
        (catalogue, incarnation)
    }

    fn is_refused(nonces: &[u128], incarnation: Incarnation, fresh: bool) -> bool {
        let papers = HelloRequest {
            node: 1,
            cookie: Cookie(5).0.to_be_bytes().to_vec().into(),
            nonces: nonces.iter().map(|nonce| nonce.to_be_bytes().to_vec().into()).collect(),
            incarnation: incarnation.0,
            ..HelloRequest::default()
        };
        hello_refusal(&catalogue().0, &papers, fresh, true).is_some()
    }

    #[test]
    fn a_directory_older_than_its_registration_is_refused_by_any_view() {
        let (_, last) = catalogue();
        let earlier = Incarnation(last.0 - 1);
        for fresh in [false, true] {
            assert!(is_refused(&[10, 12], earlier, fresh), "fresh: {fresh}");
            assert!(!is_refused(&[10, 11, 12], earlier, fresh), "its answer was lost");
            assert!(!is_refused(&[11, 12], last, fresh));
        }
    }

    #[test]
    fn only_a_fresh_view_refuses_what_may_be_later_than_what_it_knows() {
        let (_, last) = catalogue();
        for said in [Incarnation(0), Incarnation(last.0 + 1)] {
            assert!(!is_refused(&[12, 13], said, false));
            assert!(is_refused(&[12, 13], said, true));
        }
    }
}
