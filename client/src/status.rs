//! The cluster and its nodes, as they describe themselves. These types belong to this crate: the
//! wire format may change without them.
//!
//! ```text
//! status, full_status -> ClusterStatus -> NodeInfo: a node as the cluster knows it
//! node_status, views  -> NodeStatus    -> Voter:    a node as it sees itself and its cluster
//! ```

use std::fmt;

use cairn_host::envelope;
use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::{ClusterId, Incarnation, NodeId};
use cairn_types::model::Settings;

use crate::catalogue::malformed;
use crate::error::ClientError;

/// The cluster, as applied by the node that answered. Counts are for the whole cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    pub cluster: Option<ClusterId>,
    /// The number of recoveries from a lost majority.
    pub lineage: u32,
    /// Cluster time, milliseconds. Decisions use only this clock. It runs while the cluster does.
    pub clock_ms: u64,
    /// The last applied log entry.
    pub applied_index: u64,
    /// The term of Raft.
    pub term: u64,
    /// `None` while no leader is known, for example during an election.
    pub leader: Option<NodeId>,
    /// Its `host:port`.
    pub leader_address: Option<String>,
    /// By id. Includes removed nodes.
    pub nodes: Vec<NodeInfo>,
    pub checkpoints_committed: u64,
    pub checkpoints_open: u64,
    /// Segments that a checkpoint or an upload refers to, and their bytes, each counted once.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Segments of committed checkpoints with fewer counting replicas than their policy wants.
    pub segments_below: u64,
    pub bytes_below: u64,
    /// Segments of committed checkpoints without any replica that counts.
    pub segments_unavailable: u64,
    /// Those of the unavailable ones without a replica on any node, up or down. They are damaged or
    /// lost, unless good copies are left in a quarantine.
    pub segments_lost: u64,
    /// Segments of committed checkpoints in fewer racks than their policy requires.
    pub segments_short_of_racks: u64,
    /// Segments without a reference. Their space is freed after the grace.
    pub segments_unreferenced: u64,
    pub bytes_unreferenced: u64,
    /// The number of nodes, and of racks, of which any may be lost such that each committed segment
    /// still has a replica. This does not include the majority of voters.
    pub nodes_can_be_lost: u32,
    pub racks_can_be_lost: u32,
    /// The features in use are limited to this level, the level of the oldest build in service.
    pub feature_level: u32,
    /// Nodes with a vote.
    pub voters: u32,
    /// Namespaces whose newest commit has a label later than the voters' clocks: their number, and
    /// the first of them. Only the leader knows this.
    pub namespaces_ahead: u64,
    pub first_ahead: Vec<NamespaceAhead>,
    /// Namespaces whose retention waits for a confirmation: their number, and the first of them.
    /// Only the leader knows this.
    pub namespaces_waiting: u64,
    pub first_waiting: Vec<RetentionWaiting>,
    /// The times that were set when the cluster was founded.
    pub settings: Settings,
    /// This client's token may not read every namespace: counts and bytes are left out, and what is
    /// below its policy too.
    pub limited: bool,
}

/// A namespace whose retention would delete so much that it needs a confirmation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionWaiting {
    pub namespace: String,
    pub checkpoints: u64,
}

/// A namespace whose next commits get the label of its newest one, until the clocks have reached
/// that label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceAhead {
    pub namespace: String,
    pub ahead_ms: u64,
}

/// One node, as the cluster knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    pub id: NodeId,
    pub host: String,
    pub rack: String,
    /// `host:port`.
    pub address: String,
    /// Whether the leader has received a recent heartbeat.
    pub up: bool,
    /// Removed permanently: its id never returns.
    pub removed: bool,
    /// Whether its files have been compared with the catalogue since it started.
    pub inventoried: bool,
    /// The number of its registration; zero before the first one.
    pub incarnation: Incarnation,
    /// Whether it votes.
    pub voter: bool,
    /// The bytes configured for segments.
    pub capacity_bytes: u64,
    /// The smaller of the remaining part of that and of its file system. Only the leader knows
    /// this.
    pub available_bytes: Option<u64>,
    pub replicas_durable: u64,
    pub bytes_durable: u64,
    /// Replicas still to be made there.
    pub replicas_assigned: u64,
    /// Replicas still to be destroyed there.
    pub replicas_released: u64,
    /// Cluster time of its last change between up and down, milliseconds.
    pub liveness_since_ms: u64,
    /// The reason why it cannot work although it is up. Only the leader knows this.
    pub trouble: Option<NodeTrouble>,
    /// Whether its audit file is damaged. Only the leader knows this.
    pub audit_damaged: bool,
    /// The highest feature level that it understands.
    pub feature_level: u32,
    /// How far its wall clock is ahead of the voters' median. Only the leader knows this.
    pub clock_ahead_ms: Option<i64>,
    /// Why it cannot register, one line. Only the leader knows this. The text may come from a
    /// server that is not a node of this cluster.
    pub outside: Option<String>,
    pub duty: NodeDuty,
}

/// What an operator uses a node in service for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeDuty {
    #[default]
    Serving,
    /// It gets no new replicas, and others make those that it has: so many segments in use are
    /// still there. With none left it may be removed.
    Draining { segments: u64, bytes: u64 },
    /// It is expected to be away: for so many milliseconds more nobody makes its replicas.
    Maintenance { left_ms: u64 },
}

impl NodeDuty {
    /// `serving`, `draining` or `maintenance`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining { .. } => "draining",
            Self::Maintenance { .. } => "maintenance",
        }
    }
}

/// The state of a node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NodeState {
    /// It has an id but has not registered yet.
    Joining,
    /// Up, while its files are being compared with the catalogue.
    Starting,
    Up,
    Down,
    Removed,
}

impl NodeState {
    /// `joining`, `starting`, `up`, `down` or `removed`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl NodeInfo {
    pub fn state(&self) -> NodeState {
        match self {
            Self { removed: true, .. } => NodeState::Removed,
            Self { incarnation: Incarnation(0), .. } => NodeState::Joining,
            Self { up: false, .. } => NodeState::Down,
            Self { inventoried: false, .. } => NodeState::Starting,
            _ => NodeState::Up,
        }
    }
}

/// The reasons why a node that is up cannot work. A time is zero if there is no problem. Its text
/// form is one sentence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeTrouble {
    /// The oldest write to its log has not ended for this long.
    pub log_late_ms: u64,
    /// The oldest operation on its segment files has not ended for this long.
    pub segments_late_ms: u64,
    /// It has not been able to accept connections for this long.
    pub accept_late_ms: u64,
}

impl NodeTrouble {
    fn of(trouble: Option<wire::NodeTrouble>) -> Option<Self> {
        let trouble = trouble.filter(|trouble| !trouble.is_none())?;
        let wire::NodeTrouble { log_late_ms, segments_late_ms, accept_late_ms } = trouble;
        Some(Self { log_late_ms, segments_late_ms, accept_late_ms })
    }
}

impl fmt::Display for NodeTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_late_ms, segments_late_ms, accept_late_ms } = *self;
        let sent = wire::NodeTrouble { log_late_ms, segments_late_ms, accept_late_ms };
        f.write_str(&sent.text())
    }
}

/// One node's own view. Counters start with its process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStatus {
    pub node: NodeId,
    /// The number of its registration; zero before the first one of this process.
    pub incarnation: Incarnation,
    pub cluster: Option<ClusterId>,
    pub lineage: u32,
    /// The version of its build.
    pub version: String,
    pub feature_level: u32,
    pub applied_index: u64,
    pub term: u64,
    /// By this node's knowledge.
    pub leader: Option<NodeId>,
    pub leader_address: Option<String>,
    /// Segment files that it has now.
    pub segments_held: u64,
    pub bytes_held: u64,
    /// From clients.
    pub segments_received: u64,
    pub bytes_received: u64,
    /// To readers.
    pub bytes_served: u64,
    /// From other nodes.
    pub segments_fetched: u64,
    pub bytes_fetched: u64,
    /// The remaining bytes for segments, and the bytes configured for them.
    pub available_bytes: u64,
    pub total_bytes: u64,
    /// CPU time and peak resident memory of the process.
    pub cpu_ms: u64,
    pub rss_peak_bytes: u64,
    pub registered: bool,
    pub segments_quarantined: u64,
    pub fetches_pending: u64,
    pub trouble: Option<NodeTrouble>,
    /// The address that it states, `host:port`.
    pub address: String,
    /// Why it does not serve. `None` if it does.
    pub unfit: Option<String>,
    /// Time since a heartbeat of a leader. On a leader, time since a majority answered it.
    pub silence_ms: u64,
    /// By this node's knowledge.
    pub voters: Vec<Voter>,
}

/// A node that votes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Voter {
    pub node: NodeId,
    pub address: String,
    /// Empty if it is not known.
    pub host: String,
    pub rack: String,
}

/// Sent messages use an empty field for a missing value.
pub(crate) fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn cluster(what: &str, bytes: &[u8]) -> Result<Option<ClusterId>, ClientError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = convert::id128_from_wire("cluster id", bytes);
    id.map(|id| Some(ClusterId(id))).map_err(|error| malformed(what, error.to_string()))
}

fn leader(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

impl ClusterStatus {
    pub(crate) fn received(reply: wire::StatusReply) -> Result<Self, ClientError> {
        let ahead = |sent: wire::NamespaceAhead| NamespaceAhead {
            namespace: sent.namespace,
            ahead_ms: sent.ahead_ms,
        };
        let waiting = |sent: wire::RetentionWaiting| RetentionWaiting {
            namespace: sent.namespace,
            checkpoints: sent.checkpoints,
        };
        Ok(Self {
            cluster: cluster("read status", &reply.cluster)?,
            lineage: reply.lineage,
            clock_ms: reply.clock_ms,
            applied_index: reply.applied_index,
            term: reply.term,
            leader: leader(reply.leader),
            leader_address: filled(reply.leader_address),
            nodes: reply.nodes.into_iter().map(NodeInfo::received).collect(),
            checkpoints_committed: reply.checkpoints_committed,
            checkpoints_open: reply.checkpoints_open,
            segments: reply.segments,
            segment_bytes: reply.segment_bytes,
            segments_below: reply.segments_below,
            bytes_below: reply.bytes_below,
            segments_unavailable: reply.segments_unavailable,
            segments_lost: reply.segments_lost,
            segments_short_of_racks: reply.segments_short_of_racks,
            segments_unreferenced: reply.segments_unreferenced,
            bytes_unreferenced: reply.bytes_unreferenced,
            nodes_can_be_lost: reply.nodes_can_be_lost,
            racks_can_be_lost: reply.racks_can_be_lost,
            feature_level: reply.feature_level,
            voters: reply.voters,
            namespaces_ahead: reply.namespaces_ahead,
            first_ahead: reply.first_ahead.into_iter().map(ahead).collect(),
            namespaces_waiting: reply.namespaces_waiting,
            first_waiting: reply.first_waiting.into_iter().map(waiting).collect(),
            limited: reply.limited,
            settings: reply.settings.as_ref().map(convert::settings_from_wire).unwrap_or_default(),
        })
    }
}

impl NodeInfo {
    pub(crate) fn received(sent: wire::NodeInfo) -> Self {
        let duty = match sent.duty() {
            wire::Duty::Draining => {
                NodeDuty::Draining { segments: sent.draining_segments, bytes: sent.draining_bytes }
            }
            wire::Duty::Maintenance => NodeDuty::Maintenance { left_ms: sent.maintenance_left_ms },
            wire::Duty::Serving | wire::Duty::Unspecified => NodeDuty::Serving,
        };
        Self {
            id: NodeId(sent.id),
            host: sent.host,
            rack: sent.rack,
            address: sent.address,
            up: sent.up,
            removed: sent.removed,
            inventoried: sent.inventoried,
            incarnation: Incarnation(sent.incarnation),
            voter: sent.voter,
            capacity_bytes: sent.capacity_bytes,
            available_bytes: sent.available_bytes,
            replicas_durable: sent.replicas_durable,
            bytes_durable: sent.bytes_durable,
            replicas_assigned: sent.replicas_assigned,
            replicas_released: sent.replicas_released,
            liveness_since_ms: sent.liveness_since_ms,
            trouble: NodeTrouble::of(sent.trouble),
            feature_level: sent.feature_level,
            clock_ahead_ms: sent.clock_ahead_ms,
            outside: filled(envelope::said(&sent.outside)),
            audit_damaged: sent.audit_damaged,
            duty,
        }
    }
}

impl NodeStatus {
    pub(crate) fn received(reply: wire::NodeStatusReply) -> Result<Self, ClientError> {
        let voter = |sent: wire::Voter| Voter {
            node: NodeId(sent.node),
            address: sent.address,
            host: sent.host,
            rack: sent.rack,
        };
        Ok(Self {
            node: NodeId(reply.node),
            incarnation: Incarnation(reply.incarnation),
            cluster: cluster("read the node's status", &reply.cluster)?,
            lineage: reply.lineage,
            version: reply.version,
            feature_level: reply.feature_level,
            applied_index: reply.applied_index,
            term: reply.term,
            leader: leader(reply.leader),
            leader_address: filled(reply.leader_address),
            segments_held: reply.segments_held,
            bytes_held: reply.bytes_held,
            segments_received: reply.segments_received,
            bytes_received: reply.bytes_received,
            bytes_served: reply.bytes_served,
            segments_fetched: reply.segments_fetched,
            bytes_fetched: reply.bytes_fetched,
            available_bytes: reply.available_bytes,
            total_bytes: reply.total_bytes,
            cpu_ms: reply.cpu_ms,
            rss_peak_bytes: reply.rss_peak_bytes,
            registered: reply.registered,
            segments_quarantined: reply.segments_quarantined,
            fetches_pending: reply.fetches_pending,
            trouble: NodeTrouble::of(reply.trouble),
            address: reply.address,
            unfit: filled(reply.unfit),
            silence_ms: reply.silence_ms,
            voters: reply.voters.into_iter().map(voter).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_none() {
        let status = ClusterStatus::received(wire::StatusReply::default()).unwrap();
        assert_eq!(status, ClusterStatus::default());
        let status = NodeStatus::received(wire::NodeStatusReply::default()).unwrap();
        assert_eq!(status, NodeStatus::default());
        let trouble = Some(wire::NodeTrouble::default());
        let node = NodeInfo::received(wire::NodeInfo { trouble, ..wire::NodeInfo::default() });
        assert_eq!(node, NodeInfo::default());
    }

    #[test]
    fn cluster_id_of_another_length_is_malformed() {
        let reply = wire::StatusReply { cluster: vec![1; 15].into(), ..Default::default() };
        let error = ClusterStatus::received(reply).unwrap_err();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
        let reply = wire::NodeStatusReply { cluster: vec![1; 16].into(), ..Default::default() };
        let id = ClusterId(u128::from_be_bytes([1; 16]));
        assert_eq!(NodeStatus::received(reply).unwrap().cluster, Some(id));
    }

    #[test]
    fn what_a_stranger_said_is_one_short_line() {
        let outside = format!("gone\nnode 1 is down\u{1b}[2J{}", "x".repeat(10_000));
        let node = NodeInfo::received(wire::NodeInfo { outside, ..Default::default() });
        let outside = node.outside.unwrap();
        assert!(outside.starts_with("gone node 1 is down [2Jx") && outside.len() <= 256);
        assert!(!outside.contains(char::is_control), "{outside}");
    }

    #[test]
    fn state_of_a_node_is_the_first_that_applies() {
        let mut node = NodeInfo { incarnation: Incarnation(0), ..NodeInfo::default() };
        let mut states = vec![node.state().word()];
        node.incarnation = Incarnation(1);
        states.push(node.state().word());
        node.up = true;
        states.push(node.state().word());
        node.inventoried = true;
        states.push(node.state().word());
        node.removed = true;
        states.push(node.state().word());
        assert_eq!(states, ["joining", "down", "starting", "up", "removed"]);
    }
}
