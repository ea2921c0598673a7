//! One running openraft instance and the parts around it: [`Consensus`](super::Consensus) with
//! its type parameters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::seam::Env;
use cairn_types::canary;
use cairn_types::command::Reply;
use cairn_types::limits::COMMAND_BYTES_MAX;
use futures::future::BoxFuture;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::ClientWriteResponse;
use openraft::{AsyncRuntime, ChangeMembers, Instant as _, RaftMetrics, ReadPolicy};
use parking_lot::{Mutex, RwLock};
use tonic::service::{Routes, RoutesBuilder};

use super::applied::Applied;
use super::config::{
    ChangeError, ConsensusConfig, Hooks, OpenError, ProposeError, RaftStatus, ReadError,
};
use super::consensus::GroupApi;
use super::leadership::{Contact, Leadership, LeadershipBoard};
use super::log::store::{FlushedWatch, LogClosed, LogStore};
use super::machine::{CatalogueMachine, Check, StateMachine};
use super::peers::network::Network;
use super::peers::pace::Pace;
use super::peers::promises::{Promise, Promises};
use super::peers::refusals::{RefusalCounts, Refusals};
use super::peers::service::{Arrivals, RaftOf, RaftService};
use super::read_index::{ReadRounds, RoundResult};
use super::settings::settings;
use super::snapshot::receive::SnapshotReceiver;
use super::snapshot::store::SnapshotStore;
use super::ticker;
use super::types::{LogCommand, Node, TypeConfig};
use crate::disk::Disk;

const SNAPSHOT_DIR: &str = "snapshots";
/// First and longest pause between two attempts of a read.
const READ_RETRY: Duration = Duration::from_millis(20);
const READ_RETRY_MAX: Duration = Duration::from_millis(500);
/// A membership change that takes longer is reported as not acknowledged.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);

pub struct Group<Rt: AsyncRuntime, M: CatalogueMachine> {
    raft: RaftOf<Rt, M>,
    env: Env,
    config: ConsensusConfig,
    service: RaftService<Rt, M>,
    applied: Arc<Applied>,
    /// Rounds of this node as the leader, shared with followers that ask.
    own_rounds: Arc<ReadRounds>,
    /// Rounds of this node as a follower: calls to the leader.
    asked_rounds: Arc<ReadRounds>,
    log_closed: Mutex<Option<LogClosed>>,
    flushed: FlushedWatch,
    promises: Promises,
    refusals: Refusals,
    check: Check,
    pace: Pace,
}

impl<Rt: AsyncRuntime, M: CatalogueMachine> Group<Rt, M> {
    /// See [`Consensus::open`](super::Consensus::open).
    pub fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        config: ConsensusConfig,
        machine: Arc<RwLock<M>>,
        hooks: Hooks,
        applied: Arc<Applied>,
        board: LeadershipBoard,
    ) -> BoxFuture<'static, Result<Arc<dyn GroupApi>, OpenError>> {
        Box::pin(async move {
            let settings = settings(&config)?;
            let (log, log_closed) = LogStore::open(
                env.clone(),
                disk.clone(),
                hooks.fatal.clone(),
                config.expect_log,
                &config.promised,
            )
            .await?;
            let store = SnapshotStore::open(env.clone(), disk, SNAPSHOT_DIR, log.purged()).await?;
            let (flushed, refusals) = (log.watch(), Refusals::default());
            let state_machine =
                StateMachine::new(machine, store.clone(), applied.clone(), hooks.fatal.clone())
                    .with_trail(hooks.trail.clone());
            let check = state_machine.checker();
            let arrivals = Arrivals {
                check: check.clone(),
                receiver: SnapshotReceiver::new(store.clone(), hooks.fatal.clone()),
                restorer: state_machine.restorer(),
            };
            let (identity, timings) = (config.identity, config.timings);
            let promises = Promises::default();
            let pace = Pace::new(env.clone(), timings);
            let network = Network::new(
                env.clone(),
                store.clone(),
                identity,
                &hooks,
                (flushed.clone(), promises.clone(), refusals.clone()),
                pace.clone(),
            );
            let raft =
                RaftOf::<Rt, M>::new(identity.node, settings, network.clone(), log, state_machine)
                    .await
                    .map_err(|error| OpenError::Start(error.to_string()))?;

            let own_rounds = ReadRounds::new(env.clone(), {
                let raft = raft.clone();
                move || Box::pin(own_round(raft.clone()))
            });
            let asked_rounds = ReadRounds::new(env.clone(), {
                let raft = raft.clone();
                let pace = pace.clone();
                move || Box::pin(asked_round(raft.clone(), network.clone(), pace.clone()))
            });
            let service = RaftService::new(
                raft.clone(),
                identity,
                (hooks.admit, hooks.papers),
                (flushed.clone(), promises.clone(), pace.clone()),
                (arrivals, refusals.clone()),
                own_rounds.clone(),
                timings.snapshot_idle,
            );
            let announced =
                ticker::announce(raft.clone(), pace.clone(), board.clone(), hooks.fatal);
            env.spawn("raft leadership", announced);
            env.spawn(
                "raft ticker",
                ticker::run(raft.clone(), pace.clone(), board, refusals.clone()),
            );
            let log_closed = Mutex::new(Some(log_closed));
            let group: Arc<dyn GroupApi> = Arc::new(Self {
                raft,
                env,
                config,
                service,
                applied,
                own_rounds,
                asked_rounds,
                log_closed,
                flushed,
                promises,
                refusals,
                check,
                pace,
            });
            Ok(group)
        })
    }

    fn metrics(&self) -> RaftMetrics<TypeConfig<Rt>> {
        self.raft.metrics().borrow_watched().clone()
    }

    async fn change(&self, change: ChangeMembers<u64, Node>) -> Result<(), ChangeError> {
        // A node that stops being a voter stays as a learner.
        let changed = self.raft.change_membership(change, true);
        finish_change(tokio::time::timeout(CHANGE_DEADLINE, changed).await)
    }

    async fn change_voters(&self, voters: BTreeSet<u64>) -> Result<(), ChangeError> {
        let metrics = self.metrics();
        let configs = metrics.membership_config.get_joint_config();
        // In a joint configuration the last one is the target of the change.
        let now = configs.last().cloned().unwrap_or_default();
        let (joins, leaves) = (voters.difference(&now).count(), now.difference(&voters).count());
        let is_there = joins == 0 && leaves == 0;
        if joins > 1 || leaves > 1 || (configs.len() > 1 && !is_there) {
            return Err(ChangeError::TooManyAtOnce { from: now, to: voters });
        }
        if configs.len() == 1 && is_there {
            return Ok(());
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    async fn read_index(&self, deadline: Duration) -> Result<u64, ReadError> {
        let mut last = "nobody is known to lead".to_owned();
        let tries = async {
            let mut pause = READ_RETRY;
            loop {
                if let Err(fatal) = self.metrics().running_state {
                    return Err(ReadError::Fatal(fatal.to_string()));
                }
                let rounds = match self.raft.is_leader() {
                    true => &self.own_rounds,
                    false => &self.asked_rounds,
                };
                match rounds.join().await {
                    Ok(Some(index)) => {
                        last = format!("entry {index} is not applied here yet");
                        if !canary!("read_before_applied") {
                            self.applied.wait(index).await;
                        }
                        return Ok(index);
                    }
                    Ok(None) => last = "nobody is known to lead".into(),
                    Err(why) => last = why,
                }
                tokio::time::sleep(self.env.jitter(pause)).await;
                pause = (pause * 2).min(READ_RETRY_MAX);
            }
        };
        match tokio::time::timeout(deadline, tries).await {
            Ok(result) => result,
            Err(_) => Err(ReadError::Unavailable(last)),
        }
    }

    async fn propose(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Arc<Reply>, ProposeError> {
        if command.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge(command.len()));
        }
        // No node could apply it, including this one.
        (self.check)(&command).map_err(ProposeError::Undecodable)?;
        let written = self.raft.client_write(LogCommand(command));
        match tokio::time::timeout(deadline, written).await {
            Ok(Ok(response)) => Ok(response.data.0),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                Err(ProposeError::NotLeader { leader: leader_of(forward) })
            }
            Ok(Err(RaftError::APIError(error))) => {
                Err(ProposeError::Unavailable(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Fatal(fatal.to_string())),
            Err(_) => Err(ProposeError::Unavailable("the deadline passed".into())),
        }
    }
}

fn leader_of<Rt: AsyncRuntime>(forward: ForwardToLeader<TypeConfig<Rt>>) -> Option<(u64, String)> {
    Some((forward.leader_id?, forward.leader_node?.addr))
}

type Written<Rt> = Result<
    ClientWriteResponse<TypeConfig<Rt>>,
    RaftError<TypeConfig<Rt>, ClientWriteError<TypeConfig<Rt>>>,
>;

fn finish_change<Rt: AsyncRuntime, E>(changed: Result<Written<Rt>, E>) -> Result<(), ChangeError> {
    match changed {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(ChangeError::NotLeader { leader: leader_of(forward) })
        }
        Ok(Err(RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)))) => {
            Err(ChangeError::Unavailable(error.to_string()))
        }
        Ok(Err(RaftError::APIError(error))) => Err(ChangeError::Refused(error.to_string())),
        Ok(Err(RaftError::Fatal(fatal))) => Err(ChangeError::Fatal(fatal.to_string())),
        Err(_) => Err(ChangeError::Unavailable("the deadline passed".into())),
    }
}

/// Proves leadership to a quorum. openraft limits the time of this by the leader lease.
async fn own_round<Rt: AsyncRuntime, M: CatalogueMachine>(raft: RaftOf<Rt, M>) -> RoundResult {
    match raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
        Ok(linearizer) => Ok(Some(linearizer.read_log_id().index())),
        Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Asks the leader that this node knows.
async fn asked_round<Rt: AsyncRuntime, M: CatalogueMachine>(
    raft: RaftOf<Rt, M>,
    network: Network,
    pace: Pace,
) -> RoundResult {
    let metrics = raft.metrics().borrow_watched().clone();
    let known = ticker::leadership(&metrics, &pace).leader.map(|(leader, _)| leader);
    let Some(leader) = known.filter(|leader| *leader != metrics.id) else {
        return Ok(None);
    };
    // The leader can be known before its address: the membership entry has not arrived yet.
    let node = metrics.membership_config.get_node(&leader).cloned().unwrap_or_default();
    // The leader's own round may take a lease.
    network.read_index(leader, &node, pace.timings().lease).await
}

/// See [`Consensus::may_vote`](super::Consensus::may_vote).
pub(super) fn may_vote<Rt: AsyncRuntime>(metrics: &RaftMetrics<TypeConfig<Rt>>, node: u64) -> bool {
    if canary!("remove_before_the_vote") {
        return false;
    }
    let membership = &metrics.membership_config;
    let is_committed = match (membership.log_id(), &metrics.local_committed) {
        (None, _) => true,
        (Some(of), Some(committed)) => of.index <= committed.index,
        (Some(_), None) => false,
    };
    !is_committed || membership.membership().voter_ids().any(|voter| voter == node)
}

impl<Rt: AsyncRuntime, M: CatalogueMachine> GroupApi for Group<Rt, M> {
    fn initialize(&self, address: String) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let members = BTreeMap::from([(self.config.identity.node, Node::new(address))]);
            match self.raft.initialize(members).await {
                Ok(()) => Ok(()),
                Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                    Err(ChangeError::Refused("the cluster is initialised already".into()))
                }
                Err(RaftError::APIError(error)) => Err(ChangeError::Refused(error.to_string())),
                Err(RaftError::Fatal(fatal)) => Err(ChangeError::Fatal(fatal.to_string())),
            }
        })
    }

    fn is_initialized(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.raft.is_initialized().await.unwrap_or(false) })
    }

    fn propose(
        &self,
        command: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Arc<Reply>, ProposeError>> {
        Box::pin(Group::propose(self, command, deadline))
    }

    fn read_index(&self, deadline: Duration) -> BoxFuture<'_, Result<u64, ReadError>> {
        Box::pin(Group::read_index(self, deadline))
    }

    fn add_learner(&self, node: u64, address: String) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(async move {
            let added = self.raft.add_learner(node, Node::new(address), false);
            finish_change(tokio::time::timeout(CHANGE_DEADLINE, added).await)
        })
    }

    fn set_address(&self, node: u64, address: String) -> BoxFuture<'_, Result<(), ChangeError>> {
        let nodes = BTreeMap::from([(node, Node::new(address))]);
        Box::pin(self.change(ChangeMembers::SetNodes(nodes)))
    }

    fn change_voters(&self, voters: BTreeSet<u64>) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(Group::change_voters(self, voters))
    }

    fn remove_learners(&self, nodes: BTreeSet<u64>) -> BoxFuture<'_, Result<(), ChangeError>> {
        Box::pin(self.change(ChangeMembers::RemoveNodes(nodes)))
    }

    fn transfer_leader(&self, to: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.raft.trigger().transfer_leader(to).await {
                tracing::warn!(to, %error, "leadership was not handed over");
            }
        })
    }

    fn successor(&self) -> Option<u64> {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let answered = metrics.heartbeat.unwrap_or_default();
        let answers = |node: &u64| {
            let at = answered.get(node).and_then(|at| at.as_ref());
            at.is_some_and(|at| at.elapsed() < self.pace.timings().lease)
        };
        let matched = metrics.replication.unwrap_or_default();
        let matched = |node: &u64| matched.get(node).copied().flatten().map(|id| id.index);
        let others = membership.voter_ids().filter(|node| *node != metrics.id);
        others.filter(answers).max_by_key(matched)
    }

    fn trigger_snapshot(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.raft.trigger().snapshot().await {
                tracing::warn!(%error, "snapshot was not begun");
            }
        })
    }

    fn leadership(&self) -> Leadership {
        ticker::leadership(&self.raft.metrics().borrow_watched(), &self.pace)
    }

    fn contact(&self) -> Contact {
        ticker::contact(&self.raft.metrics().borrow_watched(), &self.pace)
    }

    fn clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.pace.clocks_ahead_ms()
    }

    fn member_clocks_ahead_ms(&self) -> BTreeMap<u64, i64> {
        self.pace.member_clocks_ahead_ms()
    }

    fn status(&self) -> RaftStatus {
        let metrics = self.metrics();
        let flushed = self.flushed.get();
        let membership = metrics.membership_config.membership();
        let voter_ids: BTreeSet<u64> = membership.voter_ids().collect();
        let addresses = membership.nodes().map(|(id, node)| (*id, node.addr.clone()));
        let (voters, learners) = addresses.partition(|(id, _)| voter_ids.contains(id));
        let index = |id: &Option<super::types::LogId>| id.map(|id| id.index);
        let Leadership { term, leader, is_self } = ticker::leadership(&metrics, &self.pace);
        RaftStatus {
            node: metrics.id,
            term,
            leader,
            is_leader: is_self,
            last_log: index(&self.flushed.last()),
            flushed_vote_term: flushed.vote.map(|vote| vote.leader_id.term),
            flushed_log: flushed.last,
            promise: flushed.promise(),
            committed: index(&metrics.local_committed),
            applied: index(&metrics.last_applied),
            snapshot: index(&metrics.snapshot),
            purged: index(&metrics.purged),
            voters,
            learners,
            going_to: match &membership.get_joint_config()[..] {
                [_, .., last] => Some(last.clone()),
                _ => None,
            },
            matched: metrics
                .replication
                .unwrap_or_default()
                .into_iter()
                .map(|(node, matched)| (node, index(&matched)))
                .collect(),
        }
    }

    fn may_vote(&self, node: u64) -> bool {
        may_vote(&self.raft.metrics().borrow_watched(), node)
    }

    fn promise_of(&self, node: u64) -> Option<Promise> {
        self.promises.of(node)
    }

    fn refusals(&self) -> RefusalCounts {
        self.refusals.counts()
    }

    fn routes(&self) -> Routes {
        Routes::new(self.service.clone().into_server())
    }

    fn add_routes(&self, builder: &mut RoutesBuilder) {
        builder.add_service(self.service.clone().into_server());
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.raft.shutdown().await {
                tracing::warn!(%error, "raft did not end cleanly");
            }
            let log_closed = self.log_closed.lock().take();
            if let Some(log_closed) = log_closed {
                log_closed.wait().await;
            }
        })
    }
}
