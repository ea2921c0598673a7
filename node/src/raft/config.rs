//! What the group is told at its start, what it asks of the shell, and what can go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_types::limits::COMMAND_BYTES_MAX;

use super::log::file::LogError;
use super::peers::network::{NodeAddresses, Resolve};
use super::peers::papers::Papers;
use super::peers::promises::Promise;
use super::peers::service::{Admit, Identity};
use super::snapshot::files::SnapshotError;
use crate::fatal::FatalHook;

/// Clocks of the group. All nodes of a cluster use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTimings {
    pub heartbeat: Duration,
    /// A leader is believed for so long after each message that a majority answered. The price of
    /// a longer one is paid at each loss of a leader.
    pub lease: Duration,
    /// A heartbeat has this long for its answer, so a longer round trip between members is not
    /// supported. Of two round trips and a heartbeat, `lease` is the larger.
    pub answer: Duration,
    /// A vote has this long for its answer, the voter's disk included.
    pub vote: Duration,
    /// Elections after a lease are spread over this time, and over more, but no more than
    /// `spread_max`, where members are far from each other.
    pub spread: Duration,
    pub spread_max: Duration,
    /// A replication message with entries, including the receiver's disk, where the network
    /// takes no time.
    pub append_timeout: Duration,
    /// A snapshot transfer that does not move for this long is broken off and continued.
    pub snapshot_idle: Duration,
    /// From a snapshot's last byte until it is installed.
    pub snapshot_install: Duration,
    /// A snapshot travels in messages of so many bytes: few beside a slow link's idle time, many
    /// beside an envelope.
    pub snapshot_piece_bytes: u64,
}

impl Default for RaftTimings {
    /// For members up to 600 ms of round trip apart; see `decisions/0008`.
    fn default() -> Self {
        Self::with(Duration::from_millis(150), Duration::from_millis(1_500))
    }
}

impl RaftTimings {
    /// All others follow from the heartbeat and the lease.
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
    /// Entries kept though a snapshot covers them: more than are written during a snapshot
    /// transfer, or a follower that just received one needs the next at once.
    pub keep_entries: u64,
    /// This node has taken part before, so its log holds at least a vote. One that holds nothing
    /// was lost or emptied: opening fails with [`LogError::Lost`] rather than let the node vote
    /// twice in one term, or begin a second cluster.
    pub expect_log: bool,
    /// What other members have heard from this node. A log that holds less was set back: opening
    /// fails with [`LogError::SetBack`].
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

/// What the group asks of the shell.
#[derive(Clone)]
pub struct Hooks {
    pub fatal: FatalHook,
    /// A member says that this process must not go on: its node was removed, or another process
    /// has registered as it.
    pub told_to_stop: FatalHook,
    pub admit: Admit,
    pub resolve: Resolve,
    pub papers: Papers,
}

impl Hooks {
    /// Admits everybody and knows no addresses beyond the membership's.
    pub fn new(fatal: FatalHook) -> Self {
        let told_to_stop = Arc::clone(&fatal);
        Self {
            fatal,
            told_to_stop,
            admit: Arc::new(|_, _, _| Ok(())),
            resolve: Arc::new(|_| NodeAddresses::default()),
            papers: Papers::none(),
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
    /// Whether the directory is no good any more, however often it is tried: what the node has
    /// promised, or the only record of it, is not there.
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
    /// Nothing was written. Ask the leader; without one, wait a little and ask again.
    #[error("this node does not lead, {}", name_leader(leader))]
    NotLeader { leader: Option<(u64, String)> },
    /// It may or may not be applied some time. Retry under the same request id.
    #[error("not acknowledged: {0}")]
    Unavailable(String),
    #[error("command of {0} bytes, {COMMAND_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// This build cannot read it back: it would end every node that applies it.
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
    /// Another change is under way, a node is no learner yet, or the like.
    #[error("membership change refused: {0}")]
    Refused(String),
    #[error("membership change not acknowledged: {0}")]
    Unavailable(String),
    #[error("this node is stopping: {0}")]
    Fatal(String),
}

/// A picture of the group as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RaftStatus {
    pub node: u64,
    pub term: u64,
    pub leader: Option<(u64, String)>,
    pub is_leader: bool,
    /// Durable here or not.
    pub last_log: Option<u64>,
    /// Durable here, and so perhaps acknowledged: the term voted in, and the last entry's index.
    pub flushed_vote_term: Option<u64>,
    pub flushed_log: Option<u64>,
    pub promise: Option<Promise>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    /// Node and address. While a change is under way, voters of either configuration.
    pub voters: BTreeMap<u64, String>,
    pub learners: BTreeMap<u64, String>,
    /// The voters a change that is under way leads to: two configurations are in force.
    pub going_to: Option<BTreeSet<u64>>,
    /// On the leader: the last index each other node is known to hold.
    pub matched: BTreeMap<u64, Option<u64>>,
}
