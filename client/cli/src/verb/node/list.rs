//! `cairn node ls`, and how a node is shown elsewhere.

use cairn_client::{NodeDuty, NodeId, NodeInfo, NodeState};
use serde::Serialize;

use super::super::{clock, room};
use super::duty_line;
use crate::exit::{Exit, Outcome};
use crate::output::{bytes, table};
use crate::session::Session;

pub fn run(session: &Session, all: bool) -> Outcome {
    let status = session.with_client(async |client| client.full_status().await)?;
    let shown: Vec<NodeInfo> =
        status.nodes.into_iter().filter(|node| all || !node.removed).collect();
    session.output.result(&listing(&shown, status.leader), || {
        let duties: String = shown.iter().filter_map(duty_line).map(|line| line + "\n").collect();
        node_table(&shown, status.leader, status.limited) + &duties + &outside_lines(&shown)
    })?;
    clock::wrong(&shown).into_iter().for_each(|problem| session.output.say(problem));
    Ok(Exit::Ok)
}

/// One node, in `node ls`, `node wait` and `status`.
#[derive(Serialize)]
pub struct NodeRecord<'a> {
    id: u64,
    host: &'a str,
    rack: &'a str,
    address: &'a str,
    /// `up`, `starting`, `joining`, `down` or `removed`.
    state: &'static str,
    /// `leader`, `voter` or `learner`; `-` of a removed node.
    role: &'static str,
    /// The most bytes of segment files on it.
    capacity_bytes: u64,
    /// Bytes that it still accepts; null if the node that answered does not know.
    available_bytes: Option<u64>,
    replicas_durable: u64,
    /// Replicas that it still has to make.
    replicas_assigned: u64,
    bytes_durable: u64,
    /// The highest it understands: its build's, or that of `--feature-level`.
    feature_level: u32,
    /// How far its wall clock is ahead of the voters' median; null if the node that answered does
    /// not know.
    clock_ahead_ms: Option<i64>,
    /// Why it cannot join, or null.
    outside: Option<String>,
    /// `serving`, `draining` or `maintenance`.
    duty: &'static str,
    /// Of a draining node: segments in use that are still on it, or null.
    draining_segments: Option<u64>,
    draining_bytes: Option<u64>,
    /// Of a node in maintenance: how long still, or null.
    maintenance_left_ms: Option<u64>,
}

impl<'a> NodeRecord<'a> {
    pub fn new(node: &'a NodeInfo, leader: Option<NodeId>) -> Self {
        Self {
            id: node.id.0,
            host: &node.host,
            rack: &node.rack,
            address: &node.address,
            state: state(node),
            role: role(node, leader),
            capacity_bytes: node.capacity_bytes,
            available_bytes: node.available_bytes,
            replicas_durable: node.replicas_durable,
            replicas_assigned: node.replicas_assigned,
            bytes_durable: node.bytes_durable,
            feature_level: node.feature_level,
            clock_ahead_ms: node.clock_ahead_ms,
            outside: outside(node),
            duty: node.duty.word(),
            draining_segments: match node.duty {
                NodeDuty::Draining { segments, .. } => Some(segments),
                _ => None,
            },
            draining_bytes: match node.duty {
                NodeDuty::Draining { bytes, .. } => Some(bytes),
                _ => None,
            },
            maintenance_left_ms: match node.duty {
                NodeDuty::Maintenance { left_ms } => Some(left_ms),
                _ => None,
            },
        }
    }
}

/// `node ls`.
#[derive(Serialize)]
pub struct NodesDocument<'a> {
    nodes: Vec<NodeRecord<'a>>,
}

pub fn listing(nodes: &[NodeInfo], leader: Option<NodeId>) -> NodesDocument<'_> {
    NodesDocument { nodes: nodes.iter().map(|node| NodeRecord::new(node, leader)).collect() }
}

/// Why a node is not in the cluster, though it should be.
pub fn outside(node: &NodeInfo) -> Option<String> {
    match node.state() {
        NodeState::Removed => None,
        NodeState::Joining if node.outside.is_none() => Some("has not registered yet".to_owned()),
        _ => node.outside.clone(),
    }
}

/// `up`, `starting`, `joining`, `down` or `removed`.
pub fn state(node: &NodeInfo) -> &'static str {
    node.state().word()
}

fn role(node: &NodeInfo, leader: Option<NodeId>) -> &'static str {
    match node {
        NodeInfo { removed: true, voter: false, .. } => "-",
        _ if leader == Some(node.id) => "leader",
        NodeInfo { voter: true, .. } => "voter",
        _ => "learner",
    }
}

/// With `limited` the node that answered does not say how much is stored: the token may not know.
pub fn node_table(nodes: &[NodeInfo], leader: Option<NodeId>, limited: bool) -> String {
    let heads = ["NODE", "STATE", "ROLE", "RACK", "HOST", "ADDRESS", "REPLICAS", "DATA", "FREE"];
    let told = |text: String| if limited { "-".to_owned() } else { text };
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for node in nodes {
        let pending = match node.replicas_assigned {
            0 => String::new(),
            assigned => format!(" +{assigned}"),
        };
        rows.push(vec![
            node.id.to_string(),
            state(node).to_owned(),
            role(node, leader).to_owned(),
            node.rack.clone(),
            node.host.clone(),
            node.address.clone(),
            told(format!("{}{pending}", node.replicas_durable)),
            told(bytes(node.bytes_durable)),
            room::cell(node),
        ]);
    }
    table(&rows)
}

/// A line for each node that is not in yet.
fn outside_lines(nodes: &[NodeInfo]) -> String {
    let line = |node: &NodeInfo| {
        outside(node).map(|why| format!("node {} ({}) {why}\n", node.id, node.host))
    };
    nodes.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use cairn_client::Incarnation;

    use super::super::named;
    use super::*;

    #[test]
    fn a_node_that_is_not_in_yet_says_why() {
        let outside = Some("cannot be called back at h4:7400: no answer within 1s".to_owned());
        let mut node = named::member(4, "h4");
        node.outside = outside.clone();
        assert_eq!(state(&node), "joining");
        let text = outside_lines(std::slice::from_ref(&node));
        assert_eq!(text, "node 4 (h4) cannot be called back at h4:7400: no answer within 1s\n");
        let mut new = node.clone();
        new.outside = None;
        let record = NodeRecord::new(&new, None);
        assert_eq!(record.outside.as_deref(), Some("has not registered yet"));
        // It was a member and has moved.
        let mut moved = node.clone();
        moved.incarnation = Incarnation(1);
        assert_eq!((state(&moved), super::outside(&moved)), ("down", outside));
        node.removed = true;
        assert_eq!((state(&node), super::outside(&node)), ("removed", None));
    }
}
