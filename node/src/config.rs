//! The settings of a node at its start, as plain data.

use cairn_types::ids::{ClusterId, NodeId};
use cairn_types::model::Settings;

use crate::audit::AuditConfig;

/// How an empty data directory becomes a member. A directory that already has an identity ignores
/// this and starts with its identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Makes a new cluster and is its first node, unless a cluster answers at one of the peers.
    Bootstrap(Settings),
    /// Asks one of these addresses for an id.
    Join(Vec<String>),
    /// Refuses to start on an empty directory.
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `host:port` under which clients and other nodes reach this node.
    pub address: String,
    /// The machine this process runs on. Two replicas never share one.
    pub host: String,
    pub rack: String,
    /// Most bytes of segment files on this node.
    pub capacity_bytes: u64,
    pub origin: Origin,
    /// The only cluster this node may belong to, if it is known. The node creates this one, joins
    /// no other, and does not start on a directory of another.
    pub cluster: Option<ClusterId>,
    /// A cluster that is known to exist. This node then does not create one.
    pub exists: Option<ClusterId>,
    /// With [`Origin::Join`]: the member with this host and address that this node replaces.
    pub replaces: Option<NodeId>,
    /// Further addresses to say hello to at start, in addition to the remembered ones.
    pub peers: Vec<String>,
    /// The highest feature level this node understands. It is the build's level, or a lower one
    /// that an operator has set so that a return to an older build stays possible.
    pub feature_level: u32,
    /// How much audit is kept.
    pub audit: AuditConfig,
    pub timings: Timings,
}

/// Periods and deadlines of one node, milliseconds. Unlike [`Settings`] they may differ between
/// nodes: no decision of apply depends on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    pub raft_heartbeat_ms: u64,
    /// A leader counts as alive for this long after each answer of a majority; see
    /// `decisions/0008`.
    pub raft_lease_ms: u64,
    /// Node heartbeat to the leader.
    pub heartbeat_ms: u64,
    /// Period of the steward's rounds and of the node's own work if no event wakes them earlier.
    pub upkeep_ms: u64,
    /// Reports are collected for this long before they are sent.
    pub report_batch_ms: u64,
    /// Deadline of one call between nodes that carries no segment bytes.
    pub call_ms: u64,
    /// A segment stream without a byte for this long is stopped.
    pub stall_ms: u64,
    /// A write to the log that has not ended after this long makes the node unfit: it gives up
    /// leadership and gets no new slots. Longer than a busy disk takes for a sync.
    pub log_late_ms: u64,
    /// The same for an operation on a segment file, which moves up to 32 MiB.
    pub segments_late_ms: u64,
    /// The same for a listener that cannot accept.
    pub accept_late_ms: u64,
    /// The process ends when an operation of one of the first two kinds has not ended after this
    /// long.
    pub disk_end_ms: u64,
    /// Entries between snapshots, and entries kept behind the newest one.
    pub snapshot_entries: u64,
    pub log_kept_entries: u64,
    /// Bytes of a snapshot in one message.
    pub snapshot_piece_bytes: u64,
    /// Each replica is read again within this time. Zero: never.
    pub scrub_ms: u64,
}

/// Most latent errors of disks are found by a scrub of two weeks.
pub const SCRUB_MS: u64 = 14 * 86_400_000;

impl Default for Timings {
    fn default() -> Self {
        Self {
            raft_heartbeat_ms: 150,
            raft_lease_ms: 1_500,
            heartbeat_ms: 500,
            upkeep_ms: 1_000,
            report_batch_ms: 2,
            call_ms: 2_000,
            stall_ms: 10_000,
            log_late_ms: 5_000,
            segments_late_ms: 15_000,
            accept_late_ms: 5_000,
            disk_end_ms: 60_000,
            snapshot_entries: 20_000,
            log_kept_entries: 10_000,
            snapshot_piece_bytes: 256 << 10,
            scrub_ms: SCRUB_MS,
        }
    }
}
