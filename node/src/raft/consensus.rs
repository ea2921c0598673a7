//! The only interface of Raft to the rest of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_host::seam::Env;
use cairn_types::command::Reply;
use futures::future::BoxFuture;
use openraft::AsyncRuntime;
use parking_lot::RwLock;
use tonic::service::{Routes, RoutesBuilder};

use super::applied::Applied;
use super::config::{
    ChangeError, ConsensusConfig, Hooks, OpenError, ProposeError, RaftStatus, ReadError,
};
use super::group::Group;
use super::leadership::{Contact, Leadership, LeadershipBoard, LeadershipWatch};
use super::machine::CatalogueMachine;
use super::peers::promises::Promise;
use super::peers::refusals::RefusalCounts;
use crate::disk::Disk;

/// The functions of [`Group`], without its type parameters.
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
    fn successor(&self) -> Option<u64>;
    fn trigger_snapshot(&self) -> BoxFuture<'_, ()>;
    /// Cheaper than the same field of `status`.
    fn leadership(&self) -> Leadership;
    fn contact(&self) -> Contact;
    fn clocks_ahead_ms(&self) -> BTreeMap<u64, i64>;
    fn member_clocks_ahead_ms(&self) -> BTreeMap<u64, i64>;
    fn status(&self) -> RaftStatus;
    fn may_vote(&self, node: u64) -> bool;
    fn promise_of(&self, node: u64) -> Option<Promise>;
    fn refusals(&self) -> RefusalCounts;
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

/// openraft on one of its runtimes, as a value. Code that uses it is not generic over the runtime
/// and is compiled only once.
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
    /// The last term in which this node handed leadership over; zero if it never did.
    resigned: Arc<AtomicU64>,
}

impl Consensus {
    /// Opens log and snapshots, restores `machine`, and starts to take part.
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
        Ok(Self { group: opened.await?, applied, board, resigned: Arc::default() })
    }

    /// Makes this node the only voter of a new cluster. Call it once in a cluster's life, on one
    /// node. A second call is an error.
    pub async fn initialize(&self, address: &str) -> Result<(), ChangeError> {
        self.group.initialize(address.into()).await
    }

    /// This node has a membership or a log, its own or a leader's.
    pub async fn is_initialized(&self) -> bool {
        self.group.is_initialized().await
    }

    /// Orders a command and returns the result of applying it. Only the leader can do this.
    pub async fn propose(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Arc<Reply>, ProposeError> {
        self.group.propose(command, deadline).await
    }

    /// Works on any node. Waits until this node has applied every write that any node acknowledged
    /// before the call. Returns an index that this node has applied. Concurrent reads share rounds.
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

    /// Adds a node that receives the log and does not vote. Idempotent. It does not wait for the
    /// node to catch up. Leader only.
    pub async fn add_learner(&self, node: u64, address: &str) -> Result<(), ChangeError> {
        self.group.add_learner(node, address.into()).await
    }

    /// Records a member's new address. Leader only.
    pub async fn set_address(&self, node: u64, address: &str) -> Result<(), ChangeError> {
        self.group.set_address(node, address.into()).await
    }

    /// Makes `voters` the voters, in a joint change. At most one node joins and at most one leaves.
    /// All of them must be learners already. A node that leaves stays as a learner. A second call
    /// with the same set finishes a change that a crashed leader left half done. Leader only.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.group.change_voters(voters).await
    }

    /// Removes learners from the group. Leader only.
    pub async fn remove_learners(&self, nodes: BTreeSet<u64>) -> Result<(), ChangeError> {
        self.group.remove_learners(nodes).await
    }

    /// Asks a voter to take over. Returns at once; [`Self::leadership`] shows the result. From now
    /// on this node neither proposes nor sends heartbeats in this term. If `to` does not win, the
    /// voters elect another leader after their election timeout.
    pub async fn transfer_leader(&self, to: u64) {
        let leadership = self.group.leadership();
        if leadership.is_self {
            self.resigned.store(leadership.term, Ordering::SeqCst);
        }
        self.group.transfer_leader(to).await;
    }

    /// Hands leadership to the voter with the longest log and waits until this node no longer
    /// leads, at most for `patience`. Does nothing on a node that does not lead, or if no other
    /// voter answers.
    pub async fn hand_over(&self, patience: Duration) {
        let mut watch = self.watch_leadership();
        if !watch.changed().await.is_self {
            return;
        }
        let Some(to) = self.group.successor() else { return };
        self.transfer_leader(to).await;
        let handed = async { while watch.changed().await.is_self {} };
        match tokio::time::timeout(patience, handed).await {
            Ok(()) => tracing::info!(to, "leadership is handed over"),
            Err(_) => tracing::warn!(to, ?patience, "leadership was not taken over in time"),
        }
    }

    /// The term in which this node has handed leadership over while openraft still calls it the
    /// leader, because no other leader has replaced it. Its lease no longer counts and ends soon
    /// after.
    pub fn resigned_term(&self) -> Option<u64> {
        let term = self.term();
        (self.has_resigned(term) && self.contact().leads).then_some(term)
    }

    fn has_resigned(&self, term: u64) -> bool {
        self.resigned.load(Ordering::SeqCst) == term
    }

    /// A leader that has resigned reports that it does not lead and that it knows no leader.
    fn leadership_now(&self) -> Leadership {
        let leadership = self.group.leadership();
        match leadership.is_self && self.has_resigned(leadership.term) {
            true => Leadership { term: leadership.term, ..Leadership::default() },
            false => leadership,
        }
    }

    /// Begins a snapshot now.
    pub async fn trigger_snapshot(&self) {
        self.group.trigger_snapshot().await;
    }

    pub fn status(&self) -> RaftStatus {
        self.group.status()
    }

    /// Whether the group may still need this node's vote. This is so if it is a voter, or if this
    /// node does not know that the membership without it is committed.
    pub fn may_vote(&self, node: u64) -> bool {
        self.group.may_vote(node)
    }

    /// The highest promise that the member has sent to this process.
    pub fn promise_of(&self, node: u64) -> Option<Promise> {
        self.group.promise_of(node)
    }

    /// Implausible messages since the start.
    pub fn refusals(&self) -> RefusalCounts {
        self.group.refusals()
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

    /// Node and address of the leader. Also `None` if only the leader's number is known, because
    /// the entry with its address has not reached this node yet.
    pub fn leader(&self) -> Option<(u64, String)> {
        self.leadership_now().leader.filter(|(_, address)| !address.is_empty())
    }

    pub fn is_leader(&self) -> bool {
        self.leadership_now().is_self
    }

    pub fn term(&self) -> u64 {
        self.group.leadership().term
    }

    /// How long this node has had no leader or, if it leads, no majority.
    pub fn contact(&self) -> Contact {
        self.group.contact()
    }

    /// How far the wall clocks of the other voters are ahead of this node's clock, for voters that
    /// answered this node recently. On a leader these are all voters that are up, from its election
    /// on.
    pub fn clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.group.clocks_ahead_ms()
    }

    /// The same, including members that do not vote.
    pub fn member_clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.group.member_clocks_ahead_ms()
    }

    /// Leadership as last announced to watchers.
    pub fn leadership(&self) -> Leadership {
        self.board.now()
    }

    /// Returns a subscription to changes of leadership.
    pub fn watch_leadership(&self) -> LeadershipWatch {
        self.board.watch()
    }

    /// Only the Raft service.
    pub fn routes(&self) -> Routes {
        self.group.routes()
    }

    /// Adds the Raft service to the node's other services.
    pub fn add_routes(&self, builder: &mut RoutesBuilder) {
        self.group.add_routes(builder);
    }

    /// Stops the group's work, then flushes and closes the log.
    pub async fn shutdown(&self) {
        self.group.shutdown().await;
    }
}
