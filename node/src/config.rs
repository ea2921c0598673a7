//! What a node is told at its start, as plain data.

use cairn_core::model::Settings;

/// How an empty data directory becomes a member. A directory that has an identity already
/// ignores this and comes back as who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Makes a new cluster and is its first node.
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
    /// The machine this process runs on; two replicas never share one.
    pub host: String,
    pub rack: String,
    /// Bytes of segment files this node takes at most.
    pub capacity_bytes: u64,
    pub origin: Origin,
    /// Further addresses to say hello to at start, beside the remembered ones.
    pub peers: Vec<String>,
    pub timings: Timings,
}

/// Periods and deadlines of one node, milliseconds. Unlike [`Settings`] they may differ between
/// nodes: nothing that apply decides depends on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    pub raft_heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// Node heartbeat to the leader.
    pub heartbeat_ms: u64,
    /// Rounds of the steward and of a node's own work when nothing wakes them.
    pub upkeep_ms: u64,
    /// Reports are gathered this long before they are sent.
    pub report_batch_ms: u64,
    /// Deadline of one call between nodes that carries no segment bytes.
    pub call_ms: u64,
    /// A segment stream without a byte for this long is broken off.
    pub stall_ms: u64,
    /// Entries between snapshots, and entries kept behind the newest one.
    pub snapshot_entries: u64,
    pub log_kept_entries: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            raft_heartbeat_ms: 150,
            election_min_ms: 600,
            election_max_ms: 1_200,
            heartbeat_ms: 500,
            upkeep_ms: 1_000,
            report_batch_ms: 2,
            call_ms: 2_000,
            stall_ms: 10_000,
            snapshot_entries: 20_000,
            log_kept_entries: 10_000,
        }
    }
}
