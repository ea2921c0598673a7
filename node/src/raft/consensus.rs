//! The one thing the rest of the node sees of Raft.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::command::Reply;
use cairn_core::limits::COMMAND_BYTES_MAX;
use cairn_proto::seam::Env;
use futures::future::BoxFuture;
use openraft::AsyncRuntime;
use parking_lot::RwLock;
use tonic::service::{Routes, RoutesBuilder};

use super::FatalHook;
use super::applied::Applied;
use super::group::Group;
use super::leadership::{Leadership, LeadershipBoard, LeadershipWatch};
use super::log_file::LogError;
use super::machine::CatalogueMachine;
use super::network::{Resolve, Whereabouts};
use super::promises::Promise;
use super::service::{Admit, Identity};
use super::snapshot_files::SnapshotError;
use crate::disk::Disk;

/// Clocks of the group. All nodes of a cluster use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat: Duration,
    /// A follower that hears nothing for a time between these two stands for election.
    pub election_min: Duration,
    pub election_max: Duration,
    /// A replication message with entries, including the receiver's disk.
    pub append_timeout: Duration,
    /// A snapshot transfer that does not move for this long is broken off and continued.
    pub snapshot_idle: Duration,
    /// From a snapshot's last byte until it is installed.
    pub snapshot_install: Duration,
}

impl Default for Timings {
    /// Election 500 to 1000 ms: openraft's defaults are shorter than one slow disk sync.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(125),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
            append_timeout: Duration::from_millis(1000),
            snapshot_idle: Duration::from_secs(2),
            snapshot_install: Duration::from_secs(300),
        }
    }
}

#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    pub identity: Identity,
    pub timings: Timings,
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
        let timings = Timings::default();
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
    pub banish: FatalHook,
    pub admit: Admit,
    pub resolve: Resolve,
}

impl Hooks {
    /// Admits everybody and knows no addresses beyond the membership's.
    pub fn new(fatal: FatalHook) -> Self {
        let banish = Arc::clone(&fatal);
        Self {
            fatal,
            banish,
            admit: Arc::new(|_, _| Ok(())),
            resolve: Arc::new(|_| Whereabouts::default()),
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

/// What [`Group`] does, without its type parameters.
pub(super) trait GroupApi: Send + Sync {
    fn initialize(&self, address: String) -> BoxFuture<'_, Result<(), ChangeError>>;
    fn is_initialized(&self) -> BoxFuture<'_, bool>;
    fn propose(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Reply>, ProposeError>>;
    fn read_index(&self, deadline: Duration) -> BoxFuture<'_, Result<u64, ReadError>>;
    fn add_learner(&self, node: u64, address: String) -> BoxFuture<'_, Result<(), ChangeError>>;
    fn set_address(&self, node: u64, address: String) -> BoxFuture<'_, Result<(), ChangeError>>;
    fn change_voters(&self, voters: BTreeSet<u64>) -> BoxFuture<'_, Result<(), ChangeError>>;
    fn remove_learners(&self, nodes: BTreeSet<u64>) -> BoxFuture<'_, Result<(), ChangeError>>;
    fn transfer_leader(&self, to: u64) -> BoxFuture<'_, ()>;
    fn trigger_snapshot(&self) -> BoxFuture<'_, ()>;
    /// As `status` has it, for much less.
    fn leadership(&self) -> Leadership;
    fn status(&self) -> RaftStatus;
    fn promise_of(&self, node: u64) -> Option<Promise>;
    fn routes(&self) -> Routes;
    fn add_routes(&self, builder: &mut RoutesBuilder);
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

type OpenGroup<M> = fn(
    Env,
    Arc<dyn Disk>,
    ConsensusConfig,
    Arc<RwLock<M>>,
    Hooks,
    Arc<Applied>,
    LeadershipBoard,
) -> BoxFuture<'static, Result<Arc<dyn GroupApi>, OpenError>>;

/// openraft over one of its runtimes, as a value: nothing that uses it is generic over the
/// runtime, or compiled once for each.
pub struct Engine<M>(OpenGroup<M>);

impl<M: CatalogueMachine> Engine<M> {
    pub fn over<Rt: AsyncRuntime>() -> Self {
        Self(Group::<Rt, M>::open)
    }
}

/// This node's share of the Raft group. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    group: Arc<dyn GroupApi>,
    applied: Arc<Applied>,
    board: LeadershipBoard,
}

impl Consensus {
    /// Opens log and snapshots, restores `machine`, and starts taking part.
    pub async fn open<M: CatalogueMachine>(
        engine: Engine<M>,
        env: Env,
        disk: Arc<dyn Disk>,
        config: ConsensusConfig,
        machine: Arc<RwLock<M>>,
        hooks: Hooks,
    ) -> Result<Self, OpenError> {
        let applied = Arc::new(Applied::default());
        let board = LeadershipBoard::default();
        let opened = (engine.0)(env, disk, config, machine, hooks, applied.clone(), board.clone());
        Ok(Self { group: opened.await?, applied, board })
    }

    /// Makes this node the only voter of a new cluster. Once in a cluster's life, on one node;
    /// a second time is an error.
    pub async fn initialize(&self, address: &str) -> Result<(), ChangeError> {
        self.group.initialize(address.into()).await
    }

    /// This node has a membership or a log, its own or a leader's.
    pub async fn is_initialized(&self) -> bool {
        self.group.is_initialized().await
    }

    /// Orders a command and gives what applying it answered. Only the leader can.
    pub async fn propose(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Arc<Reply>, ProposeError> {
        self.group.propose(command, deadline).await
    }

    /// From any node: waits until this node has applied every write acknowledged anywhere before
    /// the call, and gives an index it has applied at least. Concurrent reads share rounds.
    pub async fn read_index(&self, deadline: Duration) -> Result<u64, ReadError> {
        self.group.read_index(deadline).await
    }

    /// Resolves once this node has applied the entry at `index`.
    pub async fn wait_for_applied(&self, index: u64) {
        self.applied.wait(index).await;
    }

    /// The last index this node has applied; zero if none.
    pub fn applied(&self) -> u64 {
        self.applied.index()
    }

    /// Adds a node that receives the log and does not vote. Idempotent; does not wait for it to
    /// catch up. Leader only.
    pub async fn add_learner(&self, node: u64, address: &str) -> Result<(), ChangeError> {
        self.group.add_learner(node, address.into()).await
    }

    /// Records a member's new address. Leader only.
    pub async fn set_address(&self, node: u64, address: &str) -> Result<(), ChangeError> {
        self.group.set_address(node, address.into()).await
    }

    /// Makes `voters` the voters: at most one comes and one goes, in a joint change; all of them
    /// are learners already; who leaves stays as a learner. Again with the same set finishes a change that a
    /// crashed leader left half done. Leader only.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.group.change_voters(voters).await
    }

    /// Removes learners from the group. Leader only.
    pub async fn remove_learners(&self, nodes: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.group.remove_learners(nodes).await
    }

    /// Asks a voter to take over. Returns at once; [`Self::leadership`] tells.
    pub async fn transfer_leader(&self, to: u64) {
        self.group.transfer_leader(to).await;
    }

    /// Begins a snapshot now.
    pub async fn trigger_snapshot(&self) {
        self.group.trigger_snapshot().await;
    }

    pub fn status(&self) -> RaftStatus {
        self.group.status()
    }

    /// The most that member has told this process it holds durable.
    pub fn promise_of(&self, node: u64) -> Option<Promise> {
        self.group.promise_of(node)
    }

    /// Node and address of every voter.
    pub fn voters(&self) -> BTreeMap<u64, String> {
        self.status().voters
    }

    /// Every learner's address and, on the leader, the last index it is known to hold.
    pub fn learners(&self) -> BTreeMap<u64, (String, Option<u64>)> {
        let status = self.status();
        let matched = |node: &u64| status.matched.get(node).copied().flatten();
        let learners = status.learners.iter();
        learners.map(|(node, address)| (*node, (address.clone(), matched(node)))).collect()
    }

    /// Who leads and where. `None` also where only its number is known: the entry that brings its
    /// address is still on the way to this node.
    pub fn leader(&self) -> Option<(u64, String)> {
        self.group.leadership().leader.filter(|(_, address)| !address.is_empty())
    }

    pub fn is_leader(&self) -> bool {
        self.group.leadership().is_self
    }

    pub fn term(&self) -> u64 {
        self.group.leadership().term
    }

    /// Leadership as last announced to watchers.
    pub fn leadership(&self) -> Leadership {
        self.board.now()
    }

    /// A way to be told when leadership changes.
    pub fn watch_leadership(&self) -> LeadershipWatch {
        self.board.watch()
    }

    /// The Raft service alone.
    pub fn routes(&self) -> Routes {
        self.group.routes()
    }

    /// Adds the Raft service to the node's other services.
    pub fn add_routes(&self, builder: &mut RoutesBuilder) {
        self.group.add_routes(builder);
    }

    /// Leaves the group's work, flushes and closes the log.
    pub async fn shutdown(&self) {
        self.group.shutdown().await;
    }
}
