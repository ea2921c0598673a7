//! The group's settings at start, its requests to the shell, and its errors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_types::limits::COMMAND_BYTES_MAX;

use super::log::file::LogError;
use super::peers::network::{NodeAddresses, Resolve};
use super::peers::papers::Papers;
use super::peers::promises::Promise;
use super::peers::service::{Admit, Identity, Prove};
use super::snapshot::files::SnapshotError;
use crate::audit::Trail;
use crate::fatal::FatalHook;

/// Timings of the group. All nodes of a cluster use the same ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimings {
    pub heartbeat: Duration,
    /// A leader counts as alive for this long after each message that a majority answered. A longer
    /// lease makes each loss of a leader last longer.
    pub lease: Duration,
    /// Time limit for the answer to a heartbeat. A longer round trip between members is not
    /// supported. `lease` is larger than two round trips and a heartbeat.
    pub answer: Duration,
    /// Time limit for the answer to a vote request, including the voter's disk.
    pub vote: Duration,
    /// Elections after a lease are spread over this time. If members are far from each other, they
    /// are spread over a longer time, up to `spread_max`.
    pub spread: Duration,
    pub spread_max: Duration,
    /// Time limit for a replication message with entries, including the receiver's disk, on a
    /// network without delay.
    pub append_timeout: Duration,
    /// A snapshot transfer without progress for this long is stopped and continued.
    pub snapshot_idle: Duration,
    /// Time limit from a snapshot's last byte until it is installed.
    pub snapshot_install: Duration,
    /// Bytes of a snapshot in one message: small for a slow link's idle time, large compared with
    /// an envelope.
    pub snapshot_piece_bytes: u64,
}

impl Default for RaftTimings {
    /// For members up to 600 ms of round trip apart; see `decisions/0008`.
    fn default() -> Self {
        Self::with(Duration::from_millis(150), Duration::from_millis(1_500))
    }
}

impl RaftTimings {
    /// The other timings follow from the heartbeat and the lease.
    pub fn with(heartbeat: Duration, lease: Duration) -> Self {
        Self {
            heartbeat,
            lease,
            answer: lease * 2 / 5,
            vote: lease * 2 / 3,
            spread: lease * 2 / 5,
            spread_max: lease * 8 / 5,
            append_timeout: Duration::from_millis(1000),
            snapshot_idle: Duration::from_secs(2),
            snapshot_install: Duration::from_secs(300),
            snapshot_piece_bytes: 256 << 10,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    pub identity: Identity,
    pub timings: RaftTimings,
    /// A snapshot is made after this many entries.
    pub snapshot_entries: u64,
    /// Entries kept although a snapshot covers them. There are more of them than are written during
    /// a snapshot transfer. Otherwise a follower that just received a snapshot needs the next one
    /// at once.
    pub keep_entries: u64,
    /// This node has taken part before, so its log holds at least a vote. An empty log was lost or
    /// deleted. Opening then fails with [`LogError::Lost`], because the node could otherwise vote
    /// twice in one term or begin a second cluster.
    pub expect_log: bool,
    /// Promises that other members have heard from this node. A log that holds less was set back to
    /// an earlier state: opening fails with [`LogError::SetBack`].
    pub promised: Vec<Promise>,
}

impl ConsensusConfig {
    pub fn new(identity: Identity) -> Self {
        let timings = RaftTimings::default();
        Self {
            identity,
            timings,
            snapshot_entries: 20_000,
            keep_entries: 10_000,
            expect_log: false,
            promised: Vec::new(),
        }
    }
}

/// The group's requests to the shell.
#[derive(Clone)]
pub struct Hooks {
    pub fatal: FatalHook,
    /// A member says that this process must stop: its node was removed, or another process has
    /// registered as this node.
    pub told_to_stop: FatalHook,
    pub admit: Admit,
    /// Signs calls to a member.
    pub prove: Prove,
    pub resolve: Resolve,
    pub papers: Papers,
    /// Records of the audit go there.
    pub trail: Option<Arc<Trail>>,
}

impl Hooks {
    /// Admits every sender and knows no addresses other than the membership's.
    pub fn new(fatal: FatalHook) -> Self {
        let told_to_stop = Arc::clone(&fatal);
        Self {
            fatal,
            told_to_stop,
            admit: Arc::new(|_| Ok(())),
            prove: Arc::new(|_| Default::default()),
            resolve: Arc::new(|_| NodeAddresses::default()),
            papers: Papers::none(),
            trail: None,
        }
    }
}

/// Why the group cannot start. The node stops and says so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("raft settings: {0}")]
    Settings(String),
    #[error("raft start: {0}")]
    Start(String),
}

impl OpenError {
    /// Whether the directory can never be used again: the node's promises, or the only record of
    /// them, are lost.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Log(error) => match error {
                LogError::Damaged { .. } | LogError::Rotten(_) | LogError::Hole { .. } => true,
                LogError::Lost(_) | LogError::SetBack(_) => true,
                LogError::Disk { .. } | LogError::Store { .. } => false,
            },
            Self::Snapshot(error) => matches!(error, SnapshotError::NotCovered { .. }),
            Self::Settings(_) | Self::Start(_) => false,
        }
    }
}

/// Why a command was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written. Ask the leader. If there is none, wait briefly and ask again.
    #[error("this node does not lead, {}", name_leader(leader))]
    NotLeader { leader: Option<(u64, String)> },
    /// It may still be applied later. Retry with the same request id.
    #[error("not acknowledged: {0}")]
    Unavailable(String),
    #[error("command of {0} bytes, {COMMAND_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// This build cannot decode the command: it would stop every node that applies it.
    #[error("command cannot be applied: {0}")]
    Undecodable(String),
    #[error("this node is stopping: {0}")]
    Fatal(String),
}

fn name_leader(leader: &Option<(u64, String)>) -> String {
    match leader {
        Some((node, address)) => format!("node {node} at {address} does"),
        None => "nobody is known to".into(),
    }
}

/// Why a linearizable read has no index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deadline passed. Try elsewhere.
    #[error("no linearizable read within the deadline: {0}")]
    Unavailable(String),
    #[error("this node is stopping: {0}")]
    Fatal(String),
}

/// Why the membership did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead, {}", name_leader(leader))]
    NotLeader { leader: Option<(u64, String)> },
    #[error("voters change one at a time: {from:?} to {to:?}")]
    TooManyAtOnce { from: BTreeSet<u64>, to: BTreeSet<u64> },
    /// Another change is in progress, a node is not a learner yet, or a similar reason.
    #[error("membership change refused: {0}")]
    Refused(String),
    #[error("membership change not acknowledged: {0}")]
    Unavailable(String),
    #[error("this node is stopping: {0}")]
    Fatal(String),
}

/// The state of the group as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftStatus {
    pub node: u64,
    pub term: u64,
    pub leader: Option<(u64, String)>,
    pub is_leader: bool,
    /// May not be durable here yet.
    pub last_log: Option<u64>,
    /// Durable here, so possibly acknowledged: the term of the vote and the index of the last
    /// entry.
    pub flushed_vote_term: Option<u64>,
    pub flushed_log: Option<u64>,
    pub promise: Option<Promise>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    /// Node and address. During a change, the voters of both configurations.
    pub voters: BTreeMap<u64, String>,
    pub learners: BTreeMap<u64, String>,
    /// The voters after the change in progress: two configurations are in force until then.
    pub going_to: Option<BTreeSet<u64>>,
    /// On the leader: the last index each other node is known to hold.
    pub matched: BTreeMap<u64, Option<u64>>,
}
