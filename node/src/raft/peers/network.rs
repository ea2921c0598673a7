//! The calling half: one `Link` per peer and purpose, over the generated client.
//!
//! Deadlines are set here with tokio's clock, because no layer reads `grpc-timeout` in process. A
//! call that fails at the transport is `Unreachable`, so that openraft backs off. Heartbeats and
//! snapshots have their own connections, so that neither waits behind a log batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::Reason;
use cairn_host::seam::{Env, Transport};
use cairn_proto::wire::{self, raft_client::RaftClient};
use cairn_types::limits::MESSAGE_BYTES_MAX;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RaftNetworkFactory, v2::RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, OptionalSend, RPCTypes};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use crate::fatal::FatalHook;
use crate::raft::codec::{self, Malformed};
use crate::raft::config::Hooks;
use crate::raft::log::store::FlushedWatch;
use crate::raft::peers::call_error::{CallError, is_implausible};
use crate::raft::peers::pace::Pace;
use crate::raft::peers::papers::Papers;
use crate::raft::peers::plausible::{self, Implausible};
use crate::raft::peers::promises::{Matched, Promise, Promises};
use crate::raft::peers::refusals::Refusals;
use crate::raft::peers::service::{Identity, Prove};
use crate::raft::snapshot::files::SnapshotFile;
use crate::raft::snapshot::store::SnapshotStore;
use crate::raft::types::{LogId, Node, Snapshot, TypeConfig, Vote};

/// A node's addresses, if they are known from a source newer than the membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// By its last registration.
    pub registered: Option<String>,
    /// The address that the node announces itself. It could not register it because no leader is
    /// known, perhaps because no node can reach it.
    pub announced: Option<String>,
}

/// Returns a node's addresses.
pub type Resolve = Arc<dyn Fn(u64) -> NodeAddresses + Send + Sync>;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Log,
    Heartbeat,
    Snapshot,
}

/// Connections by peer and purpose. Bounded by the number of nodes.
type Pool = BTreeMap<(u64, Purpose), Pooled>;

struct Pooled {
    /// The address that was dialled.
    address: String,
    /// None once it can no longer be used.
    transport: Option<Transport>,
    /// A call over it has failed since it was last taken.
    failed: bool,
}

/// Makes links; shared by every task of openraft.
#[derive(Clone)]
pub struct Network {
    pub(in crate::raft) env: Env,
    pub(in crate::raft) snapshots: Arc<SnapshotStore>,
    identity: Identity,
    resolve: Resolve,
    told_to_stop: FatalHook,
    prove: Prove,
    papers: Papers,
    flushed: FlushedWatch,
    promises: Promises,
    pub(in crate::raft) refusals: Refusals,
    matched: Matched,
    pace: Pace,
    /// A snapshot transfer without progress for this long is stopped.
    pub(in crate::raft) snapshot_idle: Duration,
    /// Time limit from the last byte of a snapshot until it is installed.
    pub(in crate::raft) snapshot_install: Duration,
    pub(in crate::raft) snapshot_piece_bytes: u64,
    pool: Arc<Mutex<Pool>>,
}

/// Calls one peer.
pub struct Link {
    pub(in crate::raft) network: Network,
    pub(in crate::raft) target: u64,
    address: String,
    purpose: Purpose,
}

impl Network {
    pub fn new(
        env: Env,
        snapshots: Arc<SnapshotStore>,
        identity: Identity,
        hooks: &Hooks,
        (flushed, promises, refusals): (FlushedWatch, Promises, Refusals),
        pace: Pace,
    ) -> Self {
        let timings = pace.timings();
        Self {
            env,
            snapshots,
            identity,
            resolve: hooks.resolve.clone(),
            told_to_stop: hooks.told_to_stop.clone(),
            prove: hooks.prove.clone(),
            papers: hooks.papers.clone(),
            flushed,
            promises,
            refusals,
            matched: Matched::default(),
            snapshot_idle: timings.snapshot_idle,
            snapshot_install: timings.snapshot_install,
            snapshot_piece_bytes: timings.snapshot_piece_bytes,
            pace,
            pool: Arc::default(),
        }
    }

    fn link(&self, target: u64, node: &Node, purpose: Purpose) -> Link {
        Link { network: self.clone(), target, address: node.addr.clone(), purpose }
    }

    /// Asks a leader for a read index; `None` if it does not lead.
    pub async fn read_index(
        &self,
        leader: u64,
        node: &Node,
        timeout: Duration,
    ) -> Result<Option<u64>, String> {
        use wire::raft_read_index_reply::Result as Outcome;
        let link = self.link(leader, node, Purpose::Heartbeat);
        let request = wire::RaftReadIndexRequest { caller: Some(link.caller()) };
        let reply =
            link.call(timeout, |mut client| async move { client.read_index(request).await }).await;
        match reply {
            Ok(reply) => match reply.result {
                Some(Outcome::Index(index)) => Ok(Some(index)),
                Some(Outcome::NotLeader(_)) => Ok(None),
                None => Err(format!("node {leader} answered nothing")),
            },
            Err(error) => Err(format!("leader {leader}: {error}")),
        }
    }
}

impl Link {
    pub(in crate::raft) fn caller(&self) -> wire::RaftCaller {
        let own = &self.network.identity;
        wire::RaftCaller {
            cluster: Bytes::copy_from_slice(&own.cluster.0.to_be_bytes()),
            lineage: u32::from(own.lineage.0),
            target: self.target,
            sender: own.node,
            nonce: Bytes::copy_from_slice(&own.nonce.0.to_be_bytes()),
            promise: self.network.flushed.get().promise().map(|promise| promise.to_wire()),
            proof: (self.network.prove)(self.target),
        }
    }

    /// A client over the pooled connection. Dials again when the peer has moved. If the peer does
    /// not answer at its registered address, its announced address and its registered one are tried
    /// in turn. Two nodes that have swapped their addresses find each other this way.
    pub(in crate::raft) fn client(&self) -> Result<RaftClient<Transport>, Status> {
        if self.target == self.network.identity.node {
            return Err(Status::unavailable("a node does not call itself"));
        }
        let NodeAddresses { registered, announced } = (self.network.resolve)(self.target);
        let registered = registered.unwrap_or_else(|| self.address.clone());
        let mut pool = self.network.pool.lock();
        let key = (self.target, self.purpose);
        let last = pool.remove(&key);
        let address = match (&last, announced) {
            (Some(last), Some(said)) if (last.address == said) != last.failed => said,
            _ => registered,
        };
        let pooled = last.filter(|last| last.address == address).and_then(|last| last.transport);
        let transport = pooled.unwrap_or_else(|| self.network.env.dialer.dial(&address));
        let kept = Some(transport.clone());
        pool.insert(key, Pooled { address, transport: kept, failed: false });
        Ok(RaftClient::new(transport)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Drops the connection if the error may come from the connection itself: after a healed
    /// partition HTTP/2 can be stuck in `ResourceExhausted`. openraft does not stop for a refusal
    /// and sends nothing to nodes outside the membership. So a removed node learns here that it was
    /// removed, even if it still regards itself as the leader.
    pub(in crate::raft) fn note(&self, status: &Status) {
        if Reason::of(status) == Some(Reason::StaleIdentity) {
            (self.network.told_to_stop)(status.message().to_owned());
        }
        if is_implausible(status) {
            self.network.refusals.by_member(self.target, status.message());
        }
        let broken =
            matches!(status.code(), Code::ResourceExhausted | Code::Internal | Code::Unknown);
        self.failed(broken);
    }

    /// The last call failed. The connection itself may be the cause.
    pub(in crate::raft) fn failed(&self, broken: bool) {
        if let Some(pooled) = self.network.pool.lock().get_mut(&(self.target, self.purpose)) {
            pooled.failed = true;
            if broken {
                pooled.transport = None;
            }
        }
    }

    pub(in crate::raft) async fn call<T, F>(
        &self,
        timeout: Duration,
        call: impl FnOnce(RaftClient<Transport>) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = self.client().map_err(CallError::Status)?;
        match tokio::time::timeout(timeout, call(client)).await {
            Ok(Ok(response)) => {
                self.network.pace.answered(self.target);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.network.pace.silent(self.target, status.message());
                self.note(&status);
                Err(CallError::Status(status))
            }
            Err(_) => {
                self.network.pace.silent(self.target, "the deadline passed");
                self.failed(false);
                Err(CallError::Timeout(timeout))
            }
        }
    }

    /// The term of this node's durable vote.
    fn own_term(&self) -> u64 {
        self.network.flushed.get().vote.map_or(0, |vote| vote.leader_id.term)
    }

    /// Returns an error if an answer's promise or vote cannot be true, because an accepted term is
    /// kept.
    pub(in crate::raft) fn believe(
        &self,
        promise: Option<wire::RaftPromise>,
        vote: Option<wire::RaftVote>,
    ) -> Result<(), Implausible> {
        let own = self.own_term();
        plausible::promise(own, Promise::from_wire(promise))?;
        vote.map_or(Ok(()), |vote| plausible::answer(own, &codec::vote_from_wire(vote)))
    }

    pub(in crate::raft) fn rpc_error<Rt: AsyncRuntime>(
        &self,
        error: CallError,
        action: RPCTypes,
    ) -> RPCError<TypeConfig<Rt>> {
        match error {
            CallError::Timeout(timeout) => RPCError::Timeout(Timeout {
                action,
                id: self.network.identity.node,
                target: self.target,
                timeout,
            }),
            // All errors except a garbled answer: the peer is away, stopping, or refuses this node.
            // Back off.
            CallError::Status(status) => RPCError::Unreachable(Unreachable::new(&status)),
            CallError::Malformed(error) => RPCError::Network(NetworkError::new(&error)),
            CallError::Behind(error) => {
                // The connection leads to the wrong process.
                self.failed(true);
                RPCError::Unreachable(Unreachable::new(&error))
            }
            // A repeated call at once would give the same answer.
            CallError::Implausible(error) => {
                self.network.refusals.answer(self.target, &error.to_string());
                RPCError::Unreachable(Unreachable::new(&error))
            }
        }
    }

    async fn ask_vote(
        &self,
        vote: &Vote,
        last_log_id: Option<&LogId>,
        leadership_transfer: bool,
        pre: bool,
        timeout: Duration,
    ) -> Result<(Vote, bool, Option<LogId>), CallError> {
        let request = wire::RaftVoteRequest {
            caller: Some(self.caller()),
            vote: Some(codec::vote_to_wire(vote)),
            last_log_id: codec::opt_log_id_to_wire(last_log_id),
            leadership_transfer,
            papers: Some(self.network.papers.own()),
        };
        let ask = |mut client: RaftClient<Transport>| async move {
            if pre { client.pre_vote(request).await } else { client.vote(request).await }
        };
        let before = self.network.promises.of(self.target);
        let asked = Instant::now();
        let reply = self.call(timeout, ask).await?;
        self.believe(reply.promise, reply.vote)?;
        self.network.promises.answered(self.target, before, reply.promise)?;
        // The member is a voter, because only voters are asked.
        self.network.papers.check(self.target, reply.papers, true)?;
        // A vote also waits for the disk, so its time tells little about the network. But a new
        // leader learns from it the clocks of its voters.
        self.network.pace.measured(self.target, asked.elapsed(), reply.wall_ms);
        let vote = codec::required_vote(reply.vote)?;
        let last = reply.last_log_id.map(codec::log_id_from_wire);
        plausible::bare_log_id("the voter's last entry", self.own_term(), last)?;
        Ok((vote, reply.granted, last))
    }
}

impl<Rt: AsyncRuntime> RaftNetworkFactory<TypeConfig<Rt>> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Purpose::Log)
    }
    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Purpose::Heartbeat)
    }
    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Link {
        self.link(target, node, Purpose::Snapshot)
    }
}

impl<Rt: AsyncRuntime> RaftNetworkV2<TypeConfig<Rt>> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        use wire::raft_append_reply::Result as Outcome;
        // openraft gives a batch one heartbeat interval, which is less than one slow disk sync. It
        // does not enforce this on the replication stream, and a retry would only send the batch
        // twice.
        let timeout = match rpc.entries.is_empty() {
            true => option.hard_ttl(),
            false => option.hard_ttl().max(self.network.pace.append_timeout(self.target)),
        };
        let is_heartbeat = rpc.entries.is_empty();
        let request = wire::RaftAppendRequest {
            caller: Some(self.caller()),
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            prev_log_id: codec::opt_log_id_to_wire(rpc.prev_log_id.as_ref()),
            entries: rpc.entries.iter().map(codec::entry_to_wire).collect(),
            leader_commit: codec::opt_log_id_to_wire(rpc.leader_commit.as_ref()),
        };
        let send = |mut client: RaftClient<Transport>| async move { client.append(request).await };
        let before = self.network.promises.of(self.target);
        let asked = Instant::now();
        let reply = self.call(timeout, send).await;
        let outcome = reply.and_then(|reply| {
            let Network { promises, matched, pace, .. } = &self.network;
            let higher = match reply.result {
                Some(Outcome::HigherVote(vote)) => Some(vote),
                _ => None,
            };
            self.believe(reply.promise, higher)?;
            promises.answered(self.target, before, reply.promise)?;
            if is_heartbeat {
                pace.measured(self.target, asked.elapsed(), reply.wall_ms);
            }
            let acknowledged = |last| matched.acknowledged(self.target, &rpc.vote, last);
            match reply.result.ok_or_else(|| Malformed("append reply is empty".into()))? {
                Outcome::Success(_) => {
                    let last = rpc.entries.last().map(|entry| entry.log_id);
                    acknowledged(last.or(rpc.prev_log_id));
                    Ok(AppendEntriesResponse::Success)
                }
                Outcome::Partial(partial) => {
                    let last = partial.last.map(codec::log_id_from_wire);
                    plausible::taken(rpc.prev_log_id, &rpc.entries, last)?;
                    acknowledged(last);
                    Ok(AppendEntriesResponse::PartialSuccess(last))
                }
                Outcome::Conflict(_) if rpc.prev_log_id.is_none() => {
                    Err(Implausible::NotSent("an entry before the first").into())
                }
                Outcome::Conflict(_) => {
                    matched.denied(self.target, &rpc.vote, rpc.prev_log_id)?;
                    Ok(AppendEntriesResponse::Conflict)
                }
                Outcome::HigherVote(vote) => {
                    Ok(AppendEntriesResponse::HigherVote(codec::vote_from_wire(vote)))
                }
            }
        });
        if !is_heartbeat {
            let is_refused = outcome.as_ref().is_err_and(CallError::is_implausible);
            self.network.refusals.entries(self.target, is_refused);
        }
        outcome.map_err(|error| self.rpc_error(error, RPCTypes::AppendEntries))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        let (last, transfer) = (rpc.last_log_id.as_ref(), rpc.leadership_transfer);
        let reply = self.ask_vote(&rpc.vote, last, transfer, false, option.hard_ttl()).await;
        let (vote, granted, last) = reply.map_err(|error| self.rpc_error(error, RPCTypes::Vote))?;
        Ok(VoteResponse::new(vote, last, granted))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        let (last, transfer) = (rpc.last_log_id.as_ref(), rpc.leadership_transfer);
        let reply = self.ask_vote(&rpc.vote, last, transfer, true, option.hard_ttl()).await;
        let (vote, granted, last) = reply.map_err(|error| self.rpc_error(error, RPCTypes::Vote))?;
        Ok(VoteResponse::new(vote, last, granted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<Rt>>, StreamingError<TypeConfig<Rt>>> {
        let sending = Box::pin(self.send_snapshot(&vote, &snapshot.snapshot));
        match futures::future::select(Box::pin(cancel), sending).await {
            futures::future::Either::Left((closed, _)) => Err(closed.into()),
            futures::future::Either::Right((sent, _)) => match sent {
                Ok(answer) => {
                    if answer.leader_id == vote.leader_id {
                        let last = snapshot.meta.last_log_id;
                        self.network.matched.acknowledged(self.target, &vote, last);
                    }
                    Ok(SnapshotResponse::new(answer))
                }
                Err(error) => Err(self.rpc_error(error, RPCTypes::InstallSnapshot).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig<Rt>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig<Rt>>, RPCError<TypeConfig<Rt>>> {
        use wire::raft_transfer_reply::Result as Outcome;
        let message = wire::RaftTransferRequest {
            caller: Some(self.caller()),
            from_leader: Some(codec::vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last_log_id: codec::opt_log_id_to_wire(request.last_log_id()),
        };
        let send = |mut client: RaftClient<Transport>| async move {
            client.transfer_leader(message).await
        };
        let outcome = match self.call(option.hard_ttl(), send).await {
            Ok(reply) => match reply.result {
                Some(Outcome::Accepted(_)) => Ok(Ok(())),
                Some(Outcome::VoteChanged(changed)) => codec::required_vote(changed.expected)
                    .and_then(|expected| {
                        let actual = codec::required_vote(changed.actual)?;
                        Ok(Err(TransferLeaderError::VoteChanged { expected, actual }))
                    }),
                Some(Outcome::LogNotFlushed(behind)) => {
                    Ok(Err(TransferLeaderError::LogNotFlushed {
                        expected: behind.expected.map(codec::log_id_from_wire),
                        actual: behind.actual.map(codec::log_id_from_wire),
                    }))
                }
                None => Err(Malformed("transfer reply is empty".into())),
            }
            .map_err(CallError::from),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| self.rpc_error(error, RPCTypes::TransferLeader))
    }
}
