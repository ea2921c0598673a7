use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::wire::{self, raft_client::RaftClient};
use cairn_types::command::Reply;
use cairn_types::ids::{ClusterId, Lineage, Nonce};
use openraft_rt_tokio::TokioRuntime;
use parking_lot::RwLock;

use crate::disk::Disk;
use crate::disk::memory::MemoryDisk;
use crate::raft::testing::{TestNetwork, Told, ToyMachine, flip_last_byte};
use crate::raft::{
    ChangeError, Consensus, ConsensusConfig, Engine, Hooks, Identity, NodeAddresses, ProposeError,
    ReadError,
};

pub const DEADLINE: Duration = Duration::from_secs(5);

pub struct Node {
    pub id: u64,
    pub disk: Arc<MemoryDisk>,
    pub toy: Arc<RwLock<ToyMachine>>,
    pub told: Told,
    pub consensus: Consensus,
}

pub fn address(node: u64) -> String {
    format!("node-{node}:1")
}

impl Node {
    pub async fn start(network: &TestNetwork, id: u64, disk: Arc<MemoryDisk>) -> Self {
        Self::start_at(network, &address(id), id, disk).await
    }

    /// Its commands change after they are checked.
    pub async fn start_flipping(network: &TestNetwork, id: u64, disk: Arc<MemoryDisk>) -> Self {
        let toy = ToyMachine { checks_nothing: true, ..ToyMachine::default() };
        Self::start_as(network, &address(id), id, disk, toy).await
    }

    async fn start_at(
        network: &TestNetwork,
        address: &str,
        id: u64,
        disk: Arc<MemoryDisk>,
    ) -> Self {
        Self::start_as(network, address, id, disk, ToyMachine::default()).await
    }

    async fn start_as(
        network: &TestNetwork,
        address: &str,
        id: u64,
        disk: Arc<MemoryDisk>,
        toy: ToyMachine,
    ) -> Self {
        let identity = Identity {
            cluster: ClusterId(77),
            lineage: Lineage(1),
            node: id,
            nonce: Nonce(u128::from(id)),
        };
        let mut config = ConsensusConfig::new(identity);
        config.snapshot_entries = 1_000_000;
        config.keep_entries = 0;
        let (toy, told) = (Arc::new(RwLock::new(toy)), Told::default());
        let mut hooks = Hooks::new(told.hook());
        let announced = network.clone();
        hooks.resolve = Arc::new(move |node| NodeAddresses {
            registered: None,
            announced: announced.announced(node),
        });
        let consensus = Consensus::open(
            Engine::over::<TokioRuntime>(),
            network.env(),
            disk.clone() as Arc<dyn Disk>,
            config,
            toy.clone(),
            hooks,
        )
        .await
        .unwrap();
        network.serve(address, consensus.routes());
        Self { id, disk, toy, told, consensus }
    }

    /// Stops in order and starts again on the same disk.
    pub async fn restart(self, network: &TestNetwork) -> Self {
        network.cut(&address(self.id));
        self.consensus.shutdown().await;
        Self::start(network, self.id, self.disk).await
    }

    pub async fn propose(&self, command: &str) -> Result<Arc<Reply>, ProposeError> {
        self.consensus.propose(Bytes::copy_from_slice(command.as_bytes()), DEADLINE).await
    }
}

/// Waits on virtual time until `condition` holds.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came about: {what}");
}

/// Three voters led by node 1.
pub async fn three(network: &TestNetwork) -> Vec<Node> {
    let first = Node::start(network, 1, Arc::default()).await;
    two_more(network, first).await
}

/// Three voters led by `first`.
pub async fn two_more(network: &TestNetwork, first: Node) -> Vec<Node> {
    let mut nodes = vec![first];
    for id in 2..=3 {
        nodes.push(Node::start(network, id, Arc::default()).await);
    }
    let first = nodes[0].consensus.clone();
    assert!(!first.is_initialized().await);
    first.initialize(&address(1)).await.unwrap();
    until("node 1 leads itself", || first.is_leader()).await;
    for id in 2..=3 {
        first.add_learner(id, &address(id)).await.unwrap();
        until("the learner has the log", || {
            first.learners().get(&id).is_some_and(|l| l.1.is_some())
        })
        .await;
        first.change_voters((1..=id).collect()).await.unwrap();
    }
    nodes
}

fn leader(nodes: &[Node]) -> Option<&Node> {
    nodes.iter().find(|node| node.consensus.is_leader())
}

#[tokio::test(start_paused = true)]
async fn acknowledged_writes_are_read_from_any_node() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    for count in 1..=20 {
        let reply = nodes[0].propose(&format!("write {count}")).await.unwrap();
        assert_eq!(*reply, Reply::Dropped { left: count });
        for node in &nodes {
            let index = node.consensus.read_index(DEADLINE).await.unwrap();
            assert!(node.consensus.applied() >= index);
            assert_eq!(node.toy.read().commands.len() as u64, count);
        }
    }
    let refused = nodes[1].propose("not here").await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: Some((1, address(1))) });
    let two = nodes[0].consensus.change_voters(BTreeSet::from([1])).await;
    assert!(matches!(two, Err(ChangeError::TooManyAtOnce { .. })));
    assert!(nodes.iter().all(|node| node.told.all().is_empty()));
}

/// The old majority and the new one suffice. So the change needs neither of the two nodes that it
/// replaces.
#[tokio::test(start_paused = true)]
async fn dead_voter_is_replaced_by_one_that_is_cut_off_just_then() {
    let network = TestNetwork::default();
    let mut nodes = three(&network).await;
    nodes.push(Node::start(&network, 4, Arc::default()).await);
    let first = nodes[0].consensus.clone();
    first.add_learner(4, &address(4)).await.unwrap();
    until("the learner has the log", || first.learners().get(&4).is_some_and(|l| l.1.is_some()))
        .await;
    let third = nodes.remove(2);
    network.cut(&address(3));
    third.consensus.shutdown().await;
    network.cut(&address(4));
    first.change_voters(BTreeSet::from([1, 2, 4])).await.unwrap();
    assert_eq!(first.voters().into_keys().collect::<Vec<_>>(), [1, 2, 4]);
    nodes[0].propose("with two of three").await.unwrap();
}

/// The leader crashes after the first half of a change reached its log.
#[tokio::test(start_paused = true)]
async fn change_that_was_left_half_done_says_where_it_goes_and_is_finished() {
    let network = TestNetwork::default();
    let mut nodes = three(&network).await;
    nodes.push(Node::start(&network, 4, Arc::default()).await);
    let first = nodes.remove(0);
    first.consensus.add_learner(4, &address(4)).await.unwrap();
    until("the learner has the log", || {
        first.consensus.learners().get(&4).is_some_and(|l| l.1.is_some())
    })
    .await;
    (2..=4).for_each(|id| network.cut(&address(id)));
    let wanted = BTreeSet::from([1, 2, 4]);
    assert!(first.consensus.change_voters(wanted.clone()).await.is_err());
    let first = first.restart(&network).await;
    // Node 2 is in both majorities, and has less in its log.
    network.serve(&address(2), nodes[0].consensus.routes());
    let consensus = &first.consensus;
    until("node 1 leads again, in two configurations", || {
        consensus.is_leader() && consensus.status().going_to == Some(wanted.clone())
    })
    .await;
    nodes.iter().for_each(|node| network.serve(&address(node.id), node.consensus.routes()));
    consensus.change_voters(wanted.clone()).await.unwrap();
    assert_eq!(consensus.voters().into_keys().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(consensus.status().going_to, None);
}

#[tokio::test(start_paused = true)]
async fn members_that_have_exchanged_addresses_are_found_where_they_say() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    nodes[0].propose("before").await.unwrap();
    for node in &nodes {
        network.cut(&address(node.id));
        node.consensus.shutdown().await;
    }
    let disks = nodes.into_iter().map(|node| node.disk);
    let mut nodes = Vec::new();
    for (disk, (id, place)) in disks.zip([(1, 2), (2, 3), (3, 1)]) {
        nodes.push(Node::start_at(&network, &address(place), id, disk).await);
    }
    for node in &nodes {
        let read = node.consensus.read_index(DEADLINE).await;
        assert!(read.is_err(), "whoever answers is another node: {read:?}");
    }
    for (id, place) in [(1, 2), (2, 3), (3, 1)] {
        network.announce(id, &address(place));
    }
    nodes[2].consensus.read_index(Duration::from_secs(30)).await.unwrap();
    // Nodes that returned to their old address are found there.
    nodes.iter().for_each(|node| network.serve(&address(node.id), node.consensus.routes()));
    nodes[2].consensus.read_index(Duration::from_secs(30)).await.unwrap();
    let all_have_it = || nodes.iter().all(|node| node.toy.read().commands.len() == 1);
    until("all have it", all_have_it).await;
}

#[tokio::test(start_paused = true)]
async fn group_survives_the_loss_of_its_leader() {
    let network = TestNetwork::default();
    let mut nodes = three(&network).await;
    for count in 0..10 {
        nodes[0].propose(&format!("before {count}")).await.unwrap();
    }
    let mut watch = nodes[1].consensus.watch_leadership();
    assert_eq!(watch.changed().await.leader.map(|(id, _)| id), Some(1));

    let first = nodes.remove(0);
    network.cut(&address(1));
    first.consensus.shutdown().await;
    until("another node leads", || leader(&nodes).is_some()).await;
    let next = leader(&nodes).unwrap().consensus.leader().unwrap().0;
    while watch.changed().await.leader.map(|(id, _)| id) != Some(next) {}
    until("the new leader takes writes", || leader(&nodes).is_some()).await;
    let mut reply = Err(ProposeError::NotLeader { leader: None });
    for _ in 0..50 {
        reply = leader(&nodes).unwrap().propose("after").await;
        if reply.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*reply.unwrap(), Reply::Dropped { left: 11 });

    // The old leader comes back on its disk and learns what it missed.
    let first = Node::start(&network, 1, first.disk).await;
    first.consensus.read_index(DEADLINE).await.unwrap();
    assert_eq!(first.toy.read().commands.last().unwrap(), b"after");
    assert_eq!(first.toy.read().commands.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn far_behind_node_is_given_a_snapshot() {
    let network = TestNetwork::default();
    let mut nodes = three(&network).await;
    let last = nodes.pop().unwrap();
    network.cut(&address(3));
    last.consensus.shutdown().await;
    let long = "x".repeat(100_000);
    for count in 0..40 {
        nodes[0].propose(&format!("{count} {long}")).await.unwrap();
    }
    for node in &nodes {
        node.consensus.trigger_snapshot().await;
        until("the log is purged", || node.consensus.status().purged > Some(30)).await;
    }
    let last = Node::start(&network, 3, last.disk).await;
    last.consensus.read_index(Duration::from_secs(20)).await.unwrap();
    assert_eq!(last.toy.read().commands, nodes[0].toy.read().commands);
    until("the snapshot is known", || last.consensus.status().snapshot > Some(30)).await;
    nodes[0].propose("one more").await.unwrap();

    // It starts from the installed snapshot, and a node with a purged log starts from its own.
    let last = last.restart(&network).await;
    let first = nodes.remove(0).restart(&network).await;
    for node in [&last, &first] {
        node.consensus.read_index(DEADLINE).await.unwrap();
        assert_eq!(node.toy.read().commands.len(), 41);
        assert!(node.told.all().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn snapshot_that_has_rotted_is_made_anew_for_who_needs_it() {
    let network = TestNetwork::default();
    let mut nodes = three(&network).await;
    let last = nodes.pop().unwrap();
    network.cut(&address(3));
    last.consensus.shutdown().await;
    for count in 0..40 {
        nodes[0].propose(&count.to_string()).await.unwrap();
    }
    for node in &nodes {
        node.consensus.trigger_snapshot().await;
        until("the log is purged", || node.consensus.status().purged > Some(30)).await;
    }
    let leads = leader(&nodes).unwrap();
    let name = leads.disk.list("snapshots").unwrap().remove(0).name;
    flip_last_byte(&leads.disk, &format!("snapshots/{name}"));
    let last = Node::start(&network, 3, last.disk).await;
    last.consensus.read_index(Duration::from_secs(60)).await.unwrap();
    assert_eq!(last.toy.read().commands, leads.toy.read().commands);

    // Its start snapshot is sound again.
    let place = nodes.iter().position(|node| node.consensus.is_leader()).unwrap();
    let restarted = nodes.remove(place).restart(&network).await;
    restarted.consensus.read_index(DEADLINE).await.unwrap();
    assert_eq!(restarted.toy.read().commands.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn read_without_a_quorum_ends_at_its_deadline() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    network.cut(&address(2));
    network.cut(&address(3));
    let began = tokio::time::Instant::now();
    let read = nodes[0].consensus.read_index(DEADLINE).await;
    assert!(matches!(read, Err(ReadError::Unavailable(_))), "{read:?}");
    assert_eq!(began.elapsed().as_secs(), DEADLINE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn callers_that_mean_somebody_else_are_refused() {
    let network = TestNetwork::default();
    let node = Node::start(&network, 1, Arc::default()).await;
    let transport = network.env().dialer.dial(&address(1));
    let caller = |cluster: u128, lineage: u32, target: u64| wire::RaftCaller {
        cluster: Bytes::copy_from_slice(&cluster.to_be_bytes()),
        lineage,
        target,
        sender: 2,
        nonce: Bytes::from_static(&[0; 16]),
        promise: None,
        proof: Bytes::new(),
    };
    for (caller, named) in
        [(caller(78, 1, 1), "cluster"), (caller(77, 2, 1), "lineage"), (caller(77, 1, 3), "node")]
    {
        let request = wire::RaftReadIndexRequest { caller: Some(caller) };
        let status = RaftClient::new(transport.clone()).read_index(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains(named), "{}", status.message());
    }
    let request = wire::RaftReadIndexRequest { caller: Some(caller(77, 1, 1)) };
    assert!(RaftClient::new(transport).read_index(request).await.is_ok());
    drop(node);
}

#[tokio::test(start_paused = true)]
async fn leader_that_lost_its_majority_says_so_after_a_lease() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    nodes[0].propose("with a majority").await.unwrap();
    let mut watch = nodes[0].consensus.watch_leadership();
    assert!(watch.changed().await.is_self);
    (1..=3).for_each(|id| network.cut(&address(id)));
    let began = tokio::time::Instant::now();
    while watch.changed().await.is_self {}
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    let first = &nodes[0].consensus;
    assert!(!first.is_leader());
    assert_eq!(first.leader(), None);
    tokio::time::sleep(Duration::from_secs(30)).await;
    for node in &nodes {
        assert_eq!(node.consensus.leader(), None, "node {} names a leader", node.id);
        assert!(node.consensus.contact().silence >= Duration::from_secs(30));
    }
    let refused = nodes[0].propose("without").await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: None });

    // With its majority back, one of them leads and all are in touch.
    nodes.iter().for_each(|node| network.serve(&address(node.id), node.consensus.routes()));
    until("all know who leads", || nodes.iter().all(|node| node.consensus.leader().is_some()))
        .await;
    for node in &nodes {
        assert!(node.consensus.contact().silence <= Duration::from_secs(2));
    }
}

#[tokio::test(start_paused = true)]
async fn sole_voter_needs_nobody() {
    let network = TestNetwork::default();
    let node = Node::start(&network, 1, Arc::default()).await;
    node.consensus.initialize(&address(1)).await.unwrap();
    until("it leads", || node.consensus.is_leader()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(node.consensus.is_leader());
    assert_eq!(node.consensus.contact().silence, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn leader_that_stops_hands_over_without_a_pause_in_writes() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    nodes[0].propose("before").await.unwrap();
    let began = tokio::time::Instant::now();
    nodes[0].consensus.hand_over(Duration::from_secs(1)).await;
    assert!(!nodes[0].consensus.is_leader());
    until("another node leads", || leader(&nodes).is_some()).await;
    leader(&nodes).unwrap().propose("after").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn leader_without_a_successor_stops_at_once() {
    let network = TestNetwork::default();
    let node = Node::start(&network, 1, Arc::default()).await;
    node.consensus.initialize(&address(1)).await.unwrap();
    until("it leads", || node.consensus.is_leader()).await;
    let began = tokio::time::Instant::now();
    node.consensus.hand_over(Duration::from_secs(1)).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn leader_that_resigned_and_is_not_replaced_knows_so() {
    let network = TestNetwork::default();
    let nodes = three(&network).await;
    nodes[0].propose("before").await.unwrap();
    let first = &nodes[0].consensus;
    assert_eq!(first.resigned_term(), None);
    let term = first.term();
    (1..=3).for_each(|id| network.cut(&address(id)));
    first.transfer_leader(2).await;
    assert!(!first.is_leader());
    // Much later than the lease no node has taken over, and the node that should end itself can
    // tell.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(first.resigned_term(), Some(term));

    (1..=3).for_each(|id| network.serve(&address(id), nodes[id as usize - 1].consensus.routes()));
    until("another node leads", || leader(&nodes).is_some_and(|it| it.id != 1)).await;
    until("the first one follows", || first.leader().is_some()).await;
    assert_eq!(first.resigned_term(), None, "it was replaced");
}
