//! The receiving half: tonic's view of this node's Raft group.
//!
//! Every handler runs as a task of its own, so a caller that gives up does not stop work that
//! openraft has begun here. Two kinds of calls are refused first: calls meant for another cluster,
//! lineage or node, and then messages that no correct member can have sent (`plausible`). openraft
//! and the disk see only the rest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::{Reason, refuse};
use cairn_proto::wire::{self, raft_server};
use cairn_types::ids::{ClusterId, Lineage, Nonce};
use cairn_types::limits::MESSAGE_BYTES_MAX;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, Raft};
use tonic::{Request, Response, Status, Streaming};

use crate::raft::codec::{self, Malformed};
use crate::raft::group::may_vote;
use crate::raft::log::store::FlushedWatch;
use crate::raft::machine::{CatalogueMachine, Check, StateMachine};
use crate::raft::peers::pace::Pace;
use crate::raft::peers::papers::Papers;
use crate::raft::peers::plausible::{self, Implausible};
use crate::raft::peers::promises::{Promise, Promises};
use crate::raft::peers::refusals::Refusals;
use crate::raft::read_index::ReadRounds;
use crate::raft::snapshot::receive::SnapshotReceiver;
use crate::raft::snapshot::restore::Restorer;
use crate::raft::types::TypeConfig;

mod snapshot;

/// The identity of this process towards its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub node: u64,
    pub nonce: Nonce,
}

/// The sender of a call, as it says.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub node: u64,
    /// Of its process.
    pub nonce: Nonce,
    /// Whether it may still have a vote.
    pub votes: bool,
    /// Its signature.
    pub proof: &'a [u8],
}

/// Whether a sender may call this node.
pub type Admit = Arc<dyn Fn(Said<'_>) -> Result<(), Status> + Send + Sync>;

/// The signature of calls to a member.
pub type Prove = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

pub(in crate::raft) type RaftOf<Rt, M> = Raft<TypeConfig<Rt>, StateMachine<M>>;

pub struct RaftService<Rt: AsyncRuntime, M: CatalogueMachine>(Arc<Inner<Rt, M>>);

impl<Rt: AsyncRuntime, M: CatalogueMachine> Clone for RaftService<Rt, M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Checks entries and snapshots of others before they are accepted.
pub(in crate::raft) struct Arrivals<M> {
    pub check: Check,
    pub receiver: SnapshotReceiver,
    pub restorer: Restorer<M>,
}

/// The named sender of a call, and this node's term at that moment.
#[derive(Debug, Clone, Copy)]
struct Sender {
    node: u64,
    own_term: u64,
}

struct Inner<Rt: AsyncRuntime, M: CatalogueMachine> {
    raft: RaftOf<Rt, M>,
    identity: Identity,
    admit: Admit,
    papers: Papers,
    flushed: FlushedWatch,
    promises: Promises,
    pace: Pace,
    arrivals: Arrivals<M>,
    refusals: Refusals,
    reads: Arc<ReadRounds>,
    /// A snapshot stream without data for this long ends.
    idle: Duration,
}

/// Runs `work` as a task of this node and waits for it.
async fn detached<Rt: AsyncRuntime, T: Send + 'static>(
    work: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    match Rt::spawn(work).await {
        Ok(result) => result.map(Response::new),
        Err(error) => Err(Status::unavailable(format!("raft handler ended early: {error}"))),
    }
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft: {error}"))
}

impl<Rt: AsyncRuntime, M: CatalogueMachine> RaftService<Rt, M> {
    pub(in crate::raft) fn new(
        raft: RaftOf<Rt, M>,
        identity: Identity,
        (admit, papers): (Admit, Papers),
        (flushed, promises, pace): (FlushedWatch, Promises, Pace),
        (arrivals, refusals): (Arrivals<M>, Refusals),
        reads: Arc<ReadRounds>,
        idle: Duration,
    ) -> Self {
        let inner = Inner {
            raft,
            identity,
            admit,
            papers,
            flushed,
            promises,
            pace,
            arrivals,
            refusals,
            reads,
            idle,
        };
        Self(Arc::new(inner))
    }

    /// The service with this node's message limits.
    pub fn into_server(self) -> raft_server::RaftServer<Self> {
        raft_server::RaftServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl<Rt: AsyncRuntime, M: CatalogueMachine> Inner<Rt, M> {
    fn check(&self, caller: Option<&wire::RaftCaller>) -> Result<Sender, Status> {
        let caller = caller.ok_or_else(|| Status::invalid_argument("caller is missing"))?;
        let own = &self.identity;
        let sixteen = |bytes: &Bytes, field: &str| {
            let bytes: Result<[u8; 16], _> = bytes.as_ref().try_into();
            bytes
                .map(u128::from_be_bytes)
                .map_err(|_| Status::invalid_argument(format!("{field} is not 16 bytes")))
        };
        let cluster = ClusterId(sixteen(&caller.cluster, "cluster")?);
        let refuse = |what: &str, got: String, own: String| {
            Err(Status::failed_precondition(format!("this is {what} {own}, not {got}")))
        };
        if cluster != own.cluster {
            return refuse("cluster", cluster.to_string(), own.cluster.to_string());
        }
        if caller.lineage != u32::from(own.lineage.0) {
            return refuse("lineage", caller.lineage.to_string(), own.lineage.to_string());
        }
        if caller.target != own.node {
            return refuse("node", caller.target.to_string(), own.node.to_string());
        }
        if caller.sender == own.node {
            return Err(Status::failed_precondition(format!(
                "node {} is called by another process of its own id",
                own.node
            )));
        }
        let (votes, own_term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (may_vote(&metrics, caller.sender), metrics.vote.leader_id.term)
        };
        let nonce = Nonce(sixteen(&caller.nonce, "nonce")?);
        (self.admit)(Said { node: caller.sender, nonce, votes, proof: &caller.proof })?;
        let sender = Sender { node: caller.sender, own_term };
        let promise = plausible::promise(own_term, Promise::from_wire(caller.promise));
        self.believe(sender, "promise", promise)?;
        self.promises.heard(caller.sender, caller.promise);
        Ok(sender)
    }

    /// Refuses implausible messages and logs them.
    fn believe(
        &self,
        sender: Sender,
        call: &'static str,
        checked: Result<(), Implausible>,
    ) -> Result<(), Status> {
        checked.map_err(|error| self.refused(sender, call, &error.to_string()))
    }

    fn refused(&self, sender: Sender, call: &'static str, why: &str) -> Status {
        self.refusals.call(sender.node, call, why);
        refuse(Reason::Implausible, format!("{call} of node {}: {why}", sender.node))
    }

    fn promise(&self) -> Option<wire::RaftPromise> {
        self.flushed.get().promise().map(|promise| promise.to_wire())
    }

    async fn append(
        &self,
        sender: Sender,
        request: wire::RaftAppendRequest,
    ) -> Result<wire::RaftAppendReply, Status> {
        use wire::raft_append_reply::Result as Outcome;
        let request = self.opened(sender, request)?;
        let answer = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.pace.leader_spoke();
        }
        let outcome = match answer {
            AppendEntriesResponse::Success => Outcome::Success(wire::RaftBlank {}),
            AppendEntriesResponse::PartialSuccess(last) => {
                let last = codec::opt_log_id_to_wire(last.as_ref());
                Outcome::Partial(wire::RaftPartial { last })
            }
            AppendEntriesResponse::Conflict => Outcome::Conflict(wire::RaftBlank {}),
            AppendEntriesResponse::HigherVote(vote) => {
                Outcome::HigherVote(codec::vote_to_wire(&vote))
            }
        };
        let (promise, wall_ms) = (self.promise(), self.pace.wall_ms());
        Ok(wire::RaftAppendReply { result: Some(outcome), promise, wall_ms })
    }

    /// Checks that a leader's message can be true: an entry that is durable here is applied here.
    fn opened(
        &self,
        sender: Sender,
        request: wire::RaftAppendRequest,
    ) -> Result<AppendEntriesRequest<TypeConfig<Rt>>, Status> {
        let vote = codec::required_vote(request.vote).map_err(malformed)?;
        let entries: Result<Vec<_>, _> =
            request.entries.into_iter().map(codec::entry_from_wire).collect();
        let entries =
            entries.map_err(|error| self.refused(sender, "append", &error.to_string()))?;
        let before = request.prev_log_id.map(codec::log_id_from_wire);
        let committed = request.leader_commit.map(codec::log_id_from_wire);
        let append = plausible::Append { before, entries: &entries, committed };
        let checked = plausible::leader(sender.own_term, sender.node, &vote)
            .and_then(|()| plausible::append(&vote, &append, &self.arrivals.check));
        self.believe(sender, "append", checked)?;
        Ok(AppendEntriesRequest { vote, prev_log_id: before, entries, leader_commit: committed })
    }

    async fn vote(
        &self,
        sender: Sender,
        request: wire::RaftVoteRequest,
        pre: bool,
    ) -> Result<wire::RaftVoteReply, Status> {
        let vote = codec::required_vote(request.vote).map_err(malformed)?;
        let last_log_id = request.last_log_id.map(codec::log_id_from_wire);
        let checked = plausible::candidate(sender.own_term, sender.node, &vote, last_log_id);
        self.believe(sender, "vote", checked)?;
        let votes = may_vote(&self.raft.metrics().borrow_watched(), sender.node);
        let papers = self.papers.check(sender.node, request.papers, votes);
        papers.map_err(|error| refuse(Reason::StaleIdentity, error.to_string()))?;
        let mut ask = VoteRequest::<TypeConfig<Rt>>::new(vote, last_log_id);
        ask.leadership_transfer = request.leadership_transfer;
        let answer = if pre { self.raft.pre_vote(ask).await } else { self.raft.vote(ask).await };
        let VoteResponse { vote, vote_granted, last_log_id } = answer.map_err(stopped)?;
        if vote_granted && !pre {
            self.pace.voted();
        }
        Ok(wire::RaftVoteReply {
            vote: Some(codec::vote_to_wire(&vote)),
            granted: vote_granted,
            last_log_id: codec::opt_log_id_to_wire(last_log_id.as_ref()),
            promise: self.promise(),
            wall_ms: self.pace.wall_ms(),
            papers: Some(self.papers.own()),
        })
    }

    async fn transfer(
        &self,
        sender: Sender,
        request: wire::RaftTransferRequest,
    ) -> Result<wire::RaftTransferReply, Status> {
        use wire::raft_transfer_reply::{LogNotFlushed, Result as Outcome, VoteChanged};
        let from = codec::required_vote(request.from_leader).map_err(malformed)?;
        let last = request.last_log_id.map(codec::log_id_from_wire);
        let checked = plausible::leader(sender.own_term, sender.node, &from)
            .and_then(|()| plausible::last_entry(&from, last));
        self.believe(sender, "transfer", checked)?;
        let ask = TransferLeaderRequest::<TypeConfig<Rt>>::new(from, request.to, last);
        let outcome = match self.raft.handle_transfer_leader(ask).await.map_err(stopped)? {
            Ok(()) => Outcome::Accepted(wire::RaftBlank {}),
            Err(TransferLeaderError::VoteChanged { expected, actual }) => {
                Outcome::VoteChanged(VoteChanged {
                    expected: Some(codec::vote_to_wire(&expected)),
                    actual: Some(codec::vote_to_wire(&actual)),
                })
            }
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
                Outcome::LogNotFlushed(LogNotFlushed {
                    expected: codec::opt_log_id_to_wire(expected.as_ref()),
                    actual: codec::opt_log_id_to_wire(actual.as_ref()),
                })
            }
        };
        Ok(wire::RaftTransferReply { result: Some(outcome) })
    }

    async fn read_index(&self) -> Result<wire::RaftReadIndexReply, Status> {
        use wire::raft_read_index_reply::Result as Outcome;
        let outcome = match self.raft.is_leader() {
            true => self.reads.join().await.map_err(stopped)?,
            false => None,
        };
        let outcome = match outcome {
            Some(index) => Outcome::Index(index),
            None => Outcome::NotLeader(wire::RaftBlank {}),
        };
        Ok(wire::RaftReadIndexReply { result: Some(outcome) })
    }
}

#[tonic::async_trait]
impl<Rt: AsyncRuntime, M: CatalogueMachine> raft_server::Raft for RaftService<Rt, M> {
    async fn append(
        &self,
        request: Request<wire::RaftAppendRequest>,
    ) -> Result<Response<wire::RaftAppendReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        let sender = inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.append(sender, request).await }).await
    }

    async fn vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        let sender = inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.vote(sender, request, false).await }).await
    }

    async fn pre_vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        let sender = inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.vote(sender, request, true).await }).await
    }

    async fn begin_snapshot(
        &self,
        request: Request<wire::RaftSnapshotBegin>,
    ) -> Result<Response<wire::RaftSnapshotProgress>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        let sender = inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.begin_snapshot(sender, request).await }).await
    }

    async fn send_snapshot(
        &self,
        request: Request<Streaming<wire::RaftSnapshotPiece>>,
    ) -> Result<Response<wire::RaftSnapshotReply>, Status> {
        let (inner, pieces) = (self.0.clone(), request.into_inner());
        detached::<Rt, _>(async move { inner.receive_snapshot(pieces).await }).await
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::RaftTransferRequest>,
    ) -> Result<Response<wire::RaftTransferReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        let sender = inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.transfer(sender, request).await }).await
    }

    async fn read_index(
        &self,
        request: Request<wire::RaftReadIndexRequest>,
    ) -> Result<Response<wire::RaftReadIndexReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.read_index().await }).await
    }
}
