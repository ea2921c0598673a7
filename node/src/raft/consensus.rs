//! The one thing the rest of the node sees of Raft.

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
    fn successor(&self) -> Option<u64>;
    fn trigger_snapshot(&self) -> BoxFuture<'_, ()>;
    /// As `status` has it, for much less.
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
    /// The last term in which this node handed leadership over; zero if it never did.
    resigned: Arc<AtomicU64>,
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
        Ok(Self { group: opened.await?, applied, board, resigned: Arc::default() })
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

    /// Asks a voter to take over. Returns at once; [`Self::leadership`] tells. From now on this
    /// node neither proposes nor sends heartbeats in this term: if `to` does not win, the voters
    /// elect another leader once their election timeout is over.
    pub async fn transfer_leader(&self, to: u64) {
        let leadership = self.group.leadership();
        if leadership.is_self {
            self.resigned.store(leadership.term, Ordering::SeqCst);
        }
        self.group.transfer_leader(to).await;
    }

    /// Hands leadership to the voter that has the most of the log, and waits until this node does
    /// not lead any more, but not longer than `patience`. Does nothing on a node that does not
    /// lead, or that is the only voter that answers.
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

    /// The term in which this node has handed leadership over although openraft still calls it the
    /// leader: nobody has replaced it. Its lease does not count, which ends soon after.
    pub fn resigned_term(&self) -> Option<u64> {
        let term = self.term();
        (self.has_resigned(term) && self.contact().leads).then_some(term)
    }

    fn has_resigned(&self, term: u64) -> bool {
        self.resigned.load(Ordering::SeqCst) == term
    }

    /// A leader that has resigned does not call itself the leader, and knows of no other.
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

    /// Whether the group may still need this node's vote: it is a voter, or the membership that
    /// excludes it is not known here to be committed.
    pub fn may_vote(&self, node: u64) -> bool {
        self.group.may_vote(node)
    }

    /// The most that member has told this process it holds durable.
    pub fn promise_of(&self, node: u64) -> Option<Promise> {
        self.group.promise_of(node)
    }

    /// Messages that could not be true, since the start.
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

    /// Who leads and where. `None` also where only its number is known: the entry that brings its
    /// address is still on the way to this node.
    pub fn leader(&self) -> Option<(u64, String)> {
        self.leadership_now().leader.filter(|(_, address)| !address.is_empty())
    }

    pub fn is_leader(&self) -> bool {
        self.leadership_now().is_self
    }

    pub fn term(&self) -> u64 {
        self.group.leadership().term
    }

    /// How long this node has been without a leader or, if it is one, without a majority.
    pub fn contact(&self) -> Contact {
        self.group.contact()
    }

    /// How far the wall clocks of the other voters are ahead of this node's, where they answered
    /// this node lately. On a leader these are all voters that are up, from its election on.
    pub fn clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.group.clocks_ahead_ms()
    }

    /// The same, of members that do not vote too.
    pub fn member_clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.group.member_clocks_ahead_ms()
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
