//! Raft calls by somebody who merely reaches the port, at real nodes: each of these ended a
//! cluster for good once.

use bytes::Bytes;
use cairn_client::NodeStatus;
use cairn_host::dial::TcpDialer;
use cairn_host::envelope::Reason;
use cairn_host::node_key::{Call, NodeKey, write_signature};
use cairn_host::seam::{Dialer, Transport};
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::wire::raft_client::RaftClient;
use cairn_proto::wire::raft_entry::Payload;
use cairn_proto::wire::raft_snapshot_piece::Piece;
use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use cairn_types::command::{self, Body, Command};
use cairn_types::convert::encode_command;
use cairn_types::ids::{Cookie, NodeId, Nonce, RequestId};
use tonic::{Request, Status};

use crate::{args, program};

/// Speaks to one node as if it were another.
struct Stranger {
    client: RaftClient<Transport>,
    caller: wire::RaftCaller,
    /// The node's last applied entry, roughly: right where nothing is written.
    last: wire::RaftLogId,
}

impl Stranger {
    /// Without the key of the node as which it speaks, it signs nothing.
    fn new(transport: Transport, status: &NodeStatus, key: Option<&NodeKey>) -> Self {
        let (cluster, node) = (status.cluster.expect("it has a cluster"), status.node.0);
        let call = Call {
            cluster,
            from: NodeId(node % 3 + 1),
            to: NodeId(node),
            nonce: Nonce(u128::from_be_bytes([9; 16])),
        };
        let caller = wire::RaftCaller {
            cluster: cluster.0.to_be_bytes().to_vec().into(),
            lineage: status.lineage,
            target: node,
            sender: node % 3 + 1,
            nonce: Bytes::from_static(&[9; 16]),
            promise: None,
            proof: key.map_or_else(Bytes::new, |key| key.sign_call(&call).to_vec().into()),
        };
        let last = wire::RaftLogId { term: status.term, index: status.applied_index };
        Self { client: RaftClient::new(transport), caller, last }
    }

    fn vote(&self, term: u64, committed: bool) -> Option<wire::RaftVote> {
        Some(wire::RaftVote { term, node: self.caller.sender, committed })
    }

    async fn last_term(&mut self) -> Result<(), Status> {
        let last = wire::RaftLogId { term: u64::MAX, index: 1 << 63 };
        let request = wire::RaftVoteRequest {
            caller: Some(self.caller.clone()),
            vote: self.vote(u64::MAX, false),
            last_log_id: Some(last),
            leadership_transfer: true,
            papers: None,
        };
        self.client.vote(request).await.map(drop)
    }

    async fn garbage_entry(&mut self) -> Result<(), Status> {
        let term = self.last.term + 10;
        let id = wire::RaftLogId { term, index: self.last.index + 1 };
        let payload = Some(Payload::Command(Bytes::from_static(b"garbage\xff")));
        let request = wire::RaftAppendRequest {
            caller: Some(self.caller.clone()),
            vote: self.vote(term, true),
            prev_log_id: Some(self.last),
            entries: vec![wire::RaftEntry { log_id: Some(id), payload }],
            leader_commit: Some(id),
        };
        self.client.append(request).await.map(drop)
    }

    async fn garbage_snapshot(&mut self) -> Result<(), Status> {
        let (term, body) = (self.last.term + 5, [7; 100]);
        let digest = Bytes::copy_from_slice(blake3::hash(&body).as_bytes());
        let id = self.caller.sender;
        let membership = wire::RaftMembership {
            configs: vec![wire::RaftVoters { ids: vec![id] }],
            nodes: vec![wire::RaftNode { id, address: "127.0.0.1:1".to_owned() }],
        };
        let head = Some(wire::RaftSnapshotHead {
            last_log_id: Some(wire::RaftLogId { term, index: self.last.index + 100 }),
            membership: Some(wire::RaftStoredMembership {
                log_id: Some(wire::RaftLogId { term: 1, index: 1 }),
                membership: Some(membership),
            }),
            len: body.len() as u64,
            digest: digest.clone(),
        });
        let (caller, vote) = (Some(self.caller.clone()), self.vote(term, true));
        let begin = wire::RaftSnapshotBegin { caller: caller.clone(), vote, head: head.clone() };
        self.client.begin_snapshot(begin).await?;
        let start = wire::RaftSnapshotStart { caller, vote, head, offset: 0 };
        let tail = wire::RaftSnapshotTail { len: body.len() as u64, digest };
        let body = Bytes::copy_from_slice(&body);
        let pieces = [Piece::Start(start), Piece::Data(body), Piece::Tail(tail)];
        let pieces = pieces.map(|piece| wire::RaftSnapshotPiece { piece: Some(piece) });
        self.client.send_snapshot(futures::stream::iter(pieces)).await.map(drop)
    }
}

/// The private key of a node, from its data directory.
fn key_of(cluster: &TestCluster, node: NodeId) -> NodeKey {
    let index = (0..3).find(|index| cluster.node_status(*index).node == node);
    let file = cluster.nodes()[index.expect("such a node")].data.join("node.key");
    NodeKey::from_file(&std::fs::read(file).expect("read a key")).expect("a key")
}

fn put(cluster: &TestCluster, address: &str) {
    let source = cluster.scratch(&address.replace(['/', '@'], "-"));
    files::checkpoint(&source, 1 << 20, 1);
    let put: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"put", &source, &address];
    cluster.cairn().run(args(&put)).ok();
}

#[test]
fn raft_calls_of_a_stranger_end_no_node() {
    let mut cluster = TestCluster::start(program());
    put(&cluster, "hostile/run@1");
    for node in 0..3 {
        let (address, status) = (cluster.nodes()[node].address, cluster.node_status(node));
        // With the key of another node, with none, and with that of the node: only the last
        // one is heard, and what it says cannot be.
        let other = key_of(&cluster, status.node);
        let own = key_of(&cluster, NodeId(status.node.0 % 3 + 1));
        cluster.run(async {
            let transport = TcpDialer::new(None).dial(&address.to_string());
            let wanted = [
                (Some(&other), Reason::Speaker),
                (None, Reason::Speaker),
                (Some(&own), Reason::Implausible),
            ];
            for (key, want) in wanted {
                let mut stranger = Stranger::new(transport.clone(), &status, key);
                let refused = [
                    stranger.last_term().await,
                    stranger.garbage_entry().await,
                    stranger.garbage_snapshot().await,
                ];
                for refused in refused {
                    let status = refused.expect_err("taken");
                    assert_eq!(Reason::of(&status), Some(want), "{status:?}");
                }
            }
        });
    }
    put(&cluster, "hostile/run@2");
    for node in 0..3 {
        assert!(cluster.node(node).is_running(), "{}", cluster.nodes()[node].log_tail());
        assert!(cluster.node_status(node).term < 100);
        let metrics = cairn_tests::http::get(cluster.nodes()[node].address, "/metrics");
        let counted = metrics.lines().find(|it| it.starts_with("cairn_raft_calls_refused_total{"));
        assert!(counted.is_some_and(|line| line.ends_with(" 3")), "{counted:?}");
    }
    for node in 0..3 {
        cluster.node(node).kill().expect("kill a node");
    }
    for node in 0..3 {
        cluster.node(node).start().expect("start a node");
    }
    cluster.wait_healthy();
    cluster.cairn().run(["get", "hostile/run@2", "--verify-only"]).ok();
}

/// Who has the cluster's key, or is on its machine, and not the key of a node.
#[test]
fn without_a_nodes_key_nobody_reports_registers_or_beats_for_it() {
    let cluster = TestCluster::start(program());
    put(&cluster, "hostile/run@1");
    let leader = cluster.leader();
    let (to, victim) = (cluster.node_status(leader), cluster.node_status((leader + 1) % 3));
    let own = key_of(&cluster, victim.node);
    let incarnation = victim.incarnation;
    let durable = command::Durable { node: victim.node, incarnation, replicas: Vec::new() };
    let lost = command::Lost { node: victim.node, incarnation, replicas: Vec::new() };
    let register = command::Register {
        node: victim.node,
        cookie: Cookie(1),
        previous: Vec::new(),
        nonce: Nonce(1),
        host: "elsewhere".to_owned(),
        rack: "r1".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        capacity_bytes: 1,
        feature_level: command::FEATURE_LEVEL,
        key: None,
    };
    let forged = NodeKey::from_seed([1; 32]).expect("a key");
    let renamed = command::Register { key: Some(forged.public()), ..register.clone() };
    let address = cluster.nodes()[leader].address.to_string();
    cluster.run(async {
        let mut client = AdminClient::new(TcpDialer::new(None).dial(&address));
        let cluster_id = to.cluster.expect("it has a cluster");
        let mut report = async |body: Body, key: Option<&NodeKey>| {
            let command = encode_command(&Command::new(RequestId(0), 0, 0, body));
            let message = wire::ExecuteRequest { command: command.clone(), ..Default::default() };
            let mut request = Request::new(message);
            if let Some(key) = key {
                let signature = key.sign_report(cluster_id, &command);
                write_signature(request.metadata_mut(), &signature);
            }
            client.report(request).await.map(drop)
        };
        let bodies = [Body::from(durable.clone()), lost.into(), register.into(), renamed.into()];
        for body in bodies {
            for key in [None, Some(&forged)] {
                let status = report(body.clone(), key).await.expect_err("taken");
                assert_eq!(Reason::of(&status), Some(Reason::Speaker), "{body:?}: {status:?}");
            }
        }
        // The control: only the signature is different.
        report(durable.into(), Some(&own)).await.expect("the node's own signature");
        let beat = wire::HeartbeatRequest {
            node: victim.node.0,
            incarnation: victim.incarnation.0,
            stops: true,
            ..Default::default()
        };
        let status = client.heartbeat(beat).await.expect_err("taken");
        assert_eq!(Reason::of(&status), Some(Reason::Speaker), "{status:?}");
    });
    put(&cluster, "hostile/run@2");
}
