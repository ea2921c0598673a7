//! The receiving half: tonic's view of this node's Raft group.
//!
//! Every handler runs as a task of its own: a caller that gives up does not stop what openraft
//! has begun here. Callers that speak to another cluster, lineage or node are refused first.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{ClusterId, Lineage, Nonce};
use cairn_core::limits::MESSAGE_BYTES_MAX;
use cairn_proto::wire::{self, raft_server};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{AsyncRuntime, Raft};
use tonic::{Request, Response, Status, Streaming};

use super::codec::{self, Malformed};
use super::log_store::FlushedWatch;
use super::machine::{CatalogueMachine, StateMachine};
use super::promises::Promises;
use super::read_index::ReadRounds;
use super::snapshot_receive::{Key, SnapshotReceiver};
use super::types::{Snapshot, SnapshotMeta, TypeConfig, Vote};

/// Who this process is to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub node: u64,
    pub nonce: Nonce,
}

/// Says whether a sender (node id, nonce of its process) may speak here.
pub type Admit = Arc<dyn Fn(u64, Nonce) -> Result<(), Status> + Send + Sync>;

pub(super) type RaftOf<Rt, M> = Raft<TypeConfig<Rt>, StateMachine<M>>;

pub struct RaftService<Rt: AsyncRuntime, M: CatalogueMachine>(Arc<Inner<Rt, M>>);

impl<Rt: AsyncRuntime, M: CatalogueMachine> Clone for RaftService<Rt, M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<Rt: AsyncRuntime, M: CatalogueMachine> {
    raft: RaftOf<Rt, M>,
    identity: Identity,
    admit: Admit,
    flushed: FlushedWatch,
    promises: Promises,
    receiver: SnapshotReceiver,
    reads: Arc<ReadRounds>,
    /// A snapshot stream that brings nothing for this long is over.
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
    pub(super) fn new(
        raft: RaftOf<Rt, M>,
        identity: Identity,
        admit: Admit,
        (flushed, promises): (FlushedWatch, Promises),
        receiver: SnapshotReceiver,
        reads: Arc<ReadRounds>,
        idle: Duration,
    ) -> Self {
        let inner = Inner { raft, identity, admit, flushed, promises, receiver, reads, idle };
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
    fn check(&self, caller: Option<&wire::RaftCaller>) -> Result<(), Status> {
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
        (self.admit)(caller.sender, Nonce(sixteen(&caller.nonce, "nonce")?))?;
        self.promises.heard(caller.sender, caller.promise);
        Ok(())
    }

    fn promise(&self) -> Option<wire::RaftPromise> {
        self.flushed.get().promise().map(|promise| promise.to_wire())
    }

    async fn append(
        &self,
        request: wire::RaftAppendRequest,
    ) -> Result<wire::RaftAppendReply, Status> {
        use wire::raft_append_reply::Result as Outcome;
        let entries: Result<Vec<_>, _> =
            request.entries.into_iter().map(codec::entry_from_wire).collect();
        let request = AppendEntriesRequest {
            vote: codec::required_vote(request.vote).map_err(malformed)?,
            prev_log_id: request.prev_log_id.map(codec::log_id_from_wire),
            entries: entries.map_err(malformed)?,
            leader_commit: request.leader_commit.map(codec::log_id_from_wire),
        };
        let outcome = match self.raft.append_entries(request).await.map_err(stopped)? {
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
        Ok(wire::RaftAppendReply { result: Some(outcome), promise: self.promise() })
    }

    async fn vote(
        &self,
        request: wire::RaftVoteRequest,
        pre: bool,
    ) -> Result<wire::RaftVoteReply, Status> {
        let vote = codec::required_vote(request.vote).map_err(malformed)?;
        let last_log_id = request.last_log_id.map(codec::log_id_from_wire);
        let mut ask = VoteRequest::<TypeConfig<Rt>>::new(vote, last_log_id);
        ask.leadership_transfer = request.leadership_transfer;
        let answer = if pre { self.raft.pre_vote(ask).await } else { self.raft.vote(ask).await };
        let VoteResponse { vote, vote_granted, last_log_id } = answer.map_err(stopped)?;
        Ok(wire::RaftVoteReply {
            vote: Some(codec::vote_to_wire(&vote)),
            granted: vote_granted,
            last_log_id: codec::opt_log_id_to_wire(last_log_id.as_ref()),
            promise: self.promise(),
        })
    }

    /// This node's vote and the index up to which it has applied the log.
    fn standing(&self) -> (Vote, Option<u64>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.last_applied.map(|id| id.index))
    }

    async fn begin_snapshot(
        &self,
        begin: wire::RaftSnapshotBegin,
    ) -> Result<wire::RaftSnapshotProgress, Status> {
        use wire::raft_snapshot_progress::State;
        let (key, meta) = open_head(begin.head).map_err(malformed)?;
        let (vote, applied) = self.standing();
        let (state, offset) = if applied >= Some(key.last_log_id.index) {
            (State::Installed, 0)
        } else {
            match self.receiver.begin(key, meta).await? {
                Some(offset) => (State::Receive, offset),
                None => (State::Installing, key.len),
            }
        };
        let vote = Some(codec::vote_to_wire(&vote));
        Ok(wire::RaftSnapshotProgress { state: state.into(), offset, vote })
    }

    async fn receive_snapshot(
        &self,
        mut pieces: Streaming<wire::RaftSnapshotPiece>,
    ) -> Result<wire::RaftSnapshotReply, Status> {
        use wire::raft_snapshot_piece::Piece;
        let Some(Piece::Start(start)) = self.next_piece(&mut pieces).await? else {
            return Err(Status::invalid_argument("a snapshot stream begins with its head"));
        };
        self.check(start.caller.as_ref())?;
        let vote = codec::required_vote(start.vote).map_err(malformed)?;
        let (key, meta) = open_head(start.head).map_err(malformed)?;
        let mut offset = start.offset;
        loop {
            match self.next_piece(&mut pieces).await? {
                Some(Piece::Data(bytes)) => {
                    offset = self.receiver.write(key, offset, bytes).await?;
                }
                Some(Piece::Tail(tail)) => {
                    if tail.len != key.len || tail.digest != key.digest.as_slice() {
                        return Err(Status::data_loss("the snapshot's tail is not its head's"));
                    }
                    break;
                }
                Some(Piece::Start(_)) => {
                    return Err(Status::invalid_argument("a second head in a snapshot stream"));
                }
                None => return Err(Status::aborted("the snapshot stream ended without its tail")),
            }
        }
        let snapshot = Snapshot { meta, snapshot: self.receiver.finish(key).await? };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        self.receiver.end(key).await;
        let vote = installed.map_err(stopped)?.vote;
        Ok(wire::RaftSnapshotReply { vote: Some(codec::vote_to_wire(&vote)) })
    }

    async fn next_piece(
        &self,
        pieces: &mut Streaming<wire::RaftSnapshotPiece>,
    ) -> Result<Option<wire::raft_snapshot_piece::Piece>, Status> {
        match tokio::time::timeout(self.idle, pieces.message()).await {
            Ok(Ok(Some(piece))) => match piece.piece {
                Some(piece) => Ok(Some(piece)),
                None => Err(Status::invalid_argument("an empty piece of a snapshot")),
            },
            Ok(Ok(None)) => Ok(None),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::deadline_exceeded("the snapshot stream stands still")),
        }
    }

    async fn transfer(
        &self,
        request: wire::RaftTransferRequest,
    ) -> Result<wire::RaftTransferReply, Status> {
        use wire::raft_transfer_reply::{LogNotFlushed, Result as Outcome, VoteChanged};
        let from = codec::required_vote(request.from_leader).map_err(malformed)?;
        let last = request.last_log_id.map(codec::log_id_from_wire);
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

fn open_head(head: Option<wire::RaftSnapshotHead>) -> Result<(Key, SnapshotMeta), Malformed> {
    let (meta, len, digest) = codec::head_from_wire(head)?;
    let last_log_id = meta.last_log_id.ok_or_else(|| Malformed("empty snapshot".into()))?;
    Ok((Key { last_log_id, len, digest }, meta))
}

#[tonic::async_trait]
impl<Rt: AsyncRuntime, M: CatalogueMachine> raft_server::Raft for RaftService<Rt, M> {
    async fn append(
        &self,
        request: Request<wire::RaftAppendRequest>,
    ) -> Result<Response<wire::RaftAppendReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.append(request).await }).await
    }

    async fn vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.vote(request, false).await }).await
    }

    async fn pre_vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.vote(request, true).await }).await
    }

    async fn begin_snapshot(
        &self,
        request: Request<wire::RaftSnapshotBegin>,
    ) -> Result<Response<wire::RaftSnapshotProgress>, Status> {
        let (inner, request) = (self.0.clone(), request.into_inner());
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.begin_snapshot(request).await }).await
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
        inner.check(request.caller.as_ref())?;
        detached::<Rt, _>(async move { inner.transfer(request).await }).await
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
