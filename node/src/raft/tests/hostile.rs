//! Messages of a stranger, a liar or a broken member are refused, and all nodes keep running.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::envelope::Reason;
use cairn_host::seam::Transport;
use cairn_proto::wire::raft_entry::Payload;
use cairn_proto::wire::raft_snapshot_piece::Piece;
use cairn_proto::wire::{self, raft_client::RaftClient, raft_server};
use futures::stream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use super::group::{DEADLINE, Node, address, three, two_more, until};
use crate::disk::Disk;
use crate::raft::testing::TestNetwork;

/// Sends to `node` as if it were node `of`.
struct Stranger {
    client: RaftClient<Transport>,
    node: u64,
    of: u64,
}

impl Stranger {
    fn new(network: &TestNetwork, node: u64, of: u64) -> Self {
        let transport = network.env().dialer.dial(&address(node));
        Self { client: RaftClient::new(transport), node, of }
    }

    fn caller(&self) -> Option<wire::RaftCaller> {
        Some(wire::RaftCaller {
            cluster: Bytes::copy_from_slice(&77u128.to_be_bytes()),
            lineage: 1,
            target: self.node,
            sender: self.of,
            nonce: Bytes::from_static(&[9; 16]),
            promise: None,
            proof: Bytes::new(),
        })
    }

    fn leads(&self, term: u64) -> Option<wire::RaftVote> {
        Some(wire::RaftVote { term, node: self.of, committed: true })
    }

    async fn vote(&mut self, term: u64, last: Option<wire::RaftLogId>) -> Result<(), Status> {
        let request = wire::RaftVoteRequest {
            caller: self.caller(),
            vote: Some(wire::RaftVote { term, node: self.of, committed: false }),
            last_log_id: last,
            leadership_transfer: true,
            papers: None,
        };
        self.client.vote(request).await.map(drop)
    }

    async fn append(
        &mut self,
        term: u64,
        before: wire::RaftLogId,
        entries: Vec<(wire::RaftLogId, Payload)>,
    ) -> Result<(), Status> {
        let entries = entries.into_iter();
        let entries: Vec<_> = entries
            .map(|(id, payload)| wire::RaftEntry { log_id: Some(id), payload: Some(payload) })
            .collect();
        let request = wire::RaftAppendRequest {
            caller: self.caller(),
            vote: self.leads(term),
            prev_log_id: Some(before),
            leader_commit: entries.last().and_then(|last| last.log_id),
            entries,
        };
        self.client.append(request).await.map(drop)
    }

    fn head(&self, last: wire::RaftLogId, body: &[u8]) -> Option<wire::RaftSnapshotHead> {
        let node = wire::RaftNode { id: self.of, address: address(self.of) };
        let voters = wire::RaftVoters { ids: vec![self.of] };
        let membership = wire::RaftMembership { configs: vec![voters], nodes: vec![node] };
        let digest = Bytes::copy_from_slice(blake3::hash(body).as_bytes());
        Some(wire::RaftSnapshotHead {
            last_log_id: Some(last),
            membership: Some(wire::RaftStoredMembership {
                log_id: Some(wire::RaftLogId { term: 1, index: 1 }),
                membership: Some(membership),
            }),
            len: body.len() as u64,
            digest,
        })
    }

    async fn begin(&mut self, term: u64, last: wire::RaftLogId, body: &[u8]) -> Result<(), Status> {
        let (caller, vote, head) = (self.caller(), self.leads(term), self.head(last, body));
        let begin = wire::RaftSnapshotBegin { caller, vote, head };
        self.client.begin_snapshot(begin).await.map(drop)
    }

    async fn snapshot(
        &mut self,
        term: u64,
        last: wire::RaftLogId,
        body: &'static [u8],
    ) -> Result<(), Status> {
        self.begin(term, last, body).await?;
        let head = self.head(last, body);
        let digest = Bytes::copy_from_slice(blake3::hash(body).as_bytes());
        let start = wire::RaftSnapshotStart {
            caller: self.caller(),
            vote: self.leads(term),
            head,
            offset: 0,
        };
        let tail = wire::RaftSnapshotTail { len: body.len() as u64, digest };
        let pieces =
            [Piece::Start(start), Piece::Data(Bytes::from_static(body)), Piece::Tail(tail)];
        let pieces = pieces.map(|piece| wire::RaftSnapshotPiece { piece: Some(piece) });
        self.client.send_snapshot(stream::iter(pieces)).await.map(drop)
    }
}

fn id(term: u64, index: u64) -> wire::RaftLogId {
    wire::RaftLogId { term, index }
}

fn command(bytes: &'static [u8]) -> Payload {
    Payload::Command(Bytes::from_static(bytes))
}

/// The last entry of a node's log.
fn last(node: &Node) -> wire::RaftLogId {
    let status = node.consensus.status();
    id(status.term, status.last_log.unwrap())
}

/// The sender gets a refusal, the refusal is counted, and the group continues, also after a restart
/// of the receiver.
async fn is_harmless(
    network: &TestNetwork,
    mut nodes: Vec<Node>,
    place: usize,
    refused: Vec<Result<(), Status>>,
) {
    for refused in &refused {
        let status = refused.as_ref().expect_err("taken");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(Reason::of(status), Some(Reason::Implausible), "{status:?}");
    }
    let hit = nodes.remove(place);
    assert_eq!(hit.consensus.refusals().calls, refused.len() as u64);
    assert!(hit.told.all().is_empty(), "{:?}", hit.told.all());
    let hit = hit.restart(network).await;
    hit.consensus.read_index(DEADLINE).await.unwrap();
    nodes.push(hit);
    let leads = || nodes.iter().find(|node| node.consensus.is_leader());
    until("one leads", || leads().is_some()).await;
    leads().unwrap().propose("after").await.unwrap();
    for node in &nodes {
        node.consensus.read_index(DEADLINE).await.unwrap();
        assert_eq!(node.toy.read().commands.last().unwrap(), b"after", "node {}", node.id);
        assert!(node.told.all().is_empty());
        assert!(node.consensus.term() < 100, "a term of the stranger's: {}", node.consensus.term());
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_of_the_last_term_ends_no_cluster() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    let mut stranger = Stranger::new(&network, 1, 2);
    let refused = vec![
        stranger.vote(u64::MAX, Some(id(u64::MAX, 1 << 63))).await,
        stranger.vote(1 << 40, None).await,
        stranger.vote(9, Some(id(9, u64::MAX))).await,
        stranger.vote(9, Some(id(10, 5))).await,
    ];
    is_harmless(&network, nodes, 0, refused).await;
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_cannot_be_applied_never_comes_into_a_log() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    nodes[0].propose("before").await.unwrap();
    nodes[2].consensus.read_index(DEADLINE).await.unwrap();
    let (mut stranger, end) = (Stranger::new(&network, 3, 2), last(&nodes[2]));
    let term = end.term + 10;
    let next = id(term, end.index + 1);
    let empty = Payload::Membership(wire::RaftMembership::default());
    let refused = vec![
        stranger.append(term, end, vec![(next, command(b"undecodable"))]).await,
        stranger.append(term, end, vec![(next, empty)]).await,
        stranger.append(term, end, vec![(id(term, end.index + 100), command(b"gap"))]).await,
        stranger.append(term, end, vec![(id(term, u64::MAX), command(b"last"))]).await,
        stranger.append(term, id(term, u64::MAX), Vec::new()).await,
        stranger.append(term, end, vec![(id(term + 1, end.index + 1), command(b"above"))]).await,
        stranger.append(u64::MAX, end, vec![(next, command(b"fine"))]).await,
    ];
    is_harmless(&network, nodes, 2, refused).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_cannot_be_restored_is_never_kept() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    let (mut stranger, end) = (Stranger::new(&network, 3, 2), last(&nodes[2]));
    let term = end.term + 5;
    let garbage = stranger.snapshot(term, id(term, end.index + 100), &[7; 100]).await;
    assert_eq!(nodes[2].disk.list("snapshots").unwrap().len(), 0);
    // The same snapshot again is refused before any byte of it is accepted.
    let again = stranger.begin(term, id(term, end.index + 100), &[7; 100]).await;
    assert_eq!(nodes[2].disk.list("snapshots").unwrap().len(), 0);
    let others = b"\x11\0\0\0another cluster's";
    let others = stranger.snapshot(term, id(term, end.index + 100), others).await;
    let refused = vec![
        garbage,
        again,
        others,
        // openraft would end the process for the next two.
        stranger.snapshot(term, id(term + 1, end.index + 100), b"").await,
        stranger.snapshot(term, id(term, u64::MAX), b"").await,
    ];
    is_harmless(&network, nodes, 2, refused).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_memory_flips_bits_takes_nobody_down() {
    let network = TestNetwork::default();
    let first = Node::start_flipping(&network, 1, Arc::default()).await;
    let nodes = two_more(&network, first).await;
    nodes[0].propose("before").await.unwrap();
    let began = tokio::time::Instant::now();
    let proposed = nodes[0].propose("undecodable").await;
    assert!(proposed.is_err(), "no majority has taken it: {proposed:?}");
    // It steps down, and the new leader then truncates the entry.
    let others = || nodes[1..].iter().find(|node| node.consensus.is_leader());
    until("another one leads", || others().is_some()).await;
    let seconds = began.elapsed().as_secs();
    others().unwrap().propose("after").await.unwrap();
    for node in &nodes {
        node.consensus.read_index(DEADLINE).await.unwrap();
        assert!(node.told.all().is_empty(), "node {} stops: {:?}", node.id, node.told.all());
        assert_eq!(node.toy.read().commands, [b"before".as_slice(), b"after"]);
    }
    // The retries are bounded: each of the two is tried about twice a second.
    let calls = nodes[1].consensus.refusals().calls;
    assert!(calls > 0 && calls < 4 * seconds, "{calls} calls in {seconds} s");
    assert!(nodes[0].consensus.refusals().by_members >= calls, "the leader knows");
}

type Lie = fn() -> (wire::raft_append_reply::Result, Option<wire::RaftPromise>);

/// Node 3, run by a liar.
struct Liar {
    answers: Lie,
}

fn unheard<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("a liar has no time for that"))
}

#[tonic::async_trait]
impl raft_server::Raft for Liar {
    async fn append(
        &self,
        _: Request<wire::RaftAppendRequest>,
    ) -> Result<Response<wire::RaftAppendReply>, Status> {
        let (result, promise) = (self.answers)();
        let reply = wire::RaftAppendReply { result: Some(result), promise, wall_ms: 0 };
        Ok(Response::new(reply))
    }
    async fn vote(
        &self,
        _: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        let vote = Some(wire::RaftVote { term: u64::MAX, node: 3, committed: false });
        let reply = wire::RaftVoteReply { vote, ..Default::default() };
        Ok(Response::new(reply))
    }
    async fn pre_vote(
        &self,
        request: Request<wire::RaftVoteRequest>,
    ) -> Result<Response<wire::RaftVoteReply>, Status> {
        self.vote(request).await
    }
    async fn begin_snapshot(
        &self,
        _: Request<wire::RaftSnapshotBegin>,
    ) -> Result<Response<wire::RaftSnapshotProgress>, Status> {
        unheard()
    }
    async fn send_snapshot(
        &self,
        _: Request<Streaming<wire::RaftSnapshotPiece>>,
    ) -> Result<Response<wire::RaftSnapshotReply>, Status> {
        unheard()
    }
    async fn transfer_leader(
        &self,
        _: Request<wire::RaftTransferRequest>,
    ) -> Result<Response<wire::RaftTransferReply>, Status> {
        unheard()
    }
    async fn read_index(
        &self,
        _: Request<wire::RaftReadIndexRequest>,
    ) -> Result<Response<wire::RaftReadIndexReply>, Status> {
        unheard()
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_cannot_be_true_are_not_believed() {
    use wire::raft_append_reply::Result as Answer;
    // Not behind an earlier promise of node 3.
    fn promise() -> Option<wire::RaftPromise> {
        let vote = wire::RaftVote { term: 1, node: 1, committed: true };
        Some(wire::RaftPromise { vote: Some(vote), log: Some(id(1, 1 << 40)) })
    }
    let lies: [Lie; 3] = [
        || {
            let vote = wire::RaftVote { term: u64::MAX, node: 3, committed: true };
            (Answer::HigherVote(vote), promise())
        },
        || (Answer::Partial(wire::RaftPartial { last: Some(id(1, 1 << 60)) }), promise()),
        || {
            let vote = wire::RaftVote { term: 1 << 62, node: 1, committed: true };
            let promise = wire::RaftPromise { vote: Some(vote), log: None };
            (Answer::Success(wire::RaftBlank {}), Some(promise))
        },
    ];
    for (lie, answers) in lies.into_iter().enumerate() {
        let network = TestNetwork::default();
        let nodes = three(&network).await;
        let liar = raft_server::RaftServer::new(Liar { answers });
        network.serve(&address(3), Routes::new(liar));
        for count in 0..20 {
            nodes[0].propose(&format!("{count}")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let consensus = &nodes[0].consensus;
        assert!(consensus.is_leader() && consensus.term() < 100, "lie {lie}");
        assert_eq!(consensus.promise_of(3).map(|it| it.vote().leader_id.term < 100), Some(true));
        // Elections also ask it.
        network.cut(&address(2));
        tokio::time::sleep(Duration::from_secs(20)).await;
        network.serve(&address(2), nodes[1].consensus.routes());
        let leads = || nodes[..2].iter().find(|node| node.consensus.is_leader());
        until("one of the two leads", || leads().is_some()).await;
        leads().unwrap().propose("after").await.unwrap();
        assert!(consensus.term() < 1000, "lie {lie}: term {}", consensus.term());
        assert!(nodes.iter().all(|node| node.told.all().is_empty()));
        assert!(consensus.refusals().answers > 0, "lie {lie}");
    }
}
