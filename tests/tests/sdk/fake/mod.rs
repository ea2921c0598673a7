//! A small cluster in this process: the real catalogue behind the real services, segments in
//! memory, and a switch on each node for what goes wrong.

mod services;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::{Client, ClientOptions};
use cairn_core::catalogue::Catalogue;
use cairn_core::placement::Loads;
use cairn_host::envelope::Identity;
use cairn_host::seam::{Dialer, Env, Job, Lane, Runtime, Transport};
use cairn_proto::wire;
use cairn_proto::wire::catalogue_server::CatalogueServer;
use cairn_proto::wire::segments_server::SegmentsServer;
use cairn_types::command::{self, Body, Command, FEATURE_LEVEL, Reply};
use cairn_types::ids::{
    Address, ClusterId, Cookie, Incarnation, NodeId, Nonce, RequestId, SegmentDigest,
};
use cairn_types::model::{NewNode, Settings};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tower::Service;

/// What a node does to its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    /// Connections are refused.
    Down,
    /// Nothing is ever answered.
    Silent,
    /// The catalogue answers, segment streams hang.
    Stuck,
    Full,
    /// Gives readers of large segments a right block, then wrong ones.
    Lying,
    /// Gives nothing but wrong bytes to readers.
    Rotten,
    /// Stores, but its reports do not arrive.
    Mute,
    /// Refuses readers: it has too many.
    Busy,
    /// Gives a chunk of a segment every second or so.
    Slow,
    /// Sends segments in a codec that it was not asked for.
    Foreign,
}

pub struct FakeNode {
    pub id: NodeId,
    pub mood: Mutex<Mood>,
    pub files: Mutex<BTreeMap<SegmentDigest, Bytes>>,
    pub puts: AtomicU64,
    pub gets: AtomicU64,
    pub suspicions: AtomicU64,
    incarnation: Incarnation,
}

pub struct State {
    pub catalogue: Catalogue,
    pub index: u64,
    pub loads: Loads,
    /// Index into the nodes.
    pub leader: Option<usize>,
    /// Request ids seen by Execute, in order.
    pub requests: Vec<RequestId>,
    /// Executes that are applied but answered with silence.
    pub lose_answers: u32,
    /// Executes are refused until then: the leader is busy.
    pub busy_until: Option<Instant>,
    /// Executes of any kind.
    pub executes: u32,
    /// Pages of checkpoints that were asked for.
    pub lists: u32,
    /// Reads of the status.
    pub statuses: u32,
    /// Every question for a checkpoint is answered with this one.
    pub resolve_as: Option<Address>,
    /// What each watch is told, one after the other, and from where each went on.
    pub watches: VecDeque<Vec<Result<wire::WatchReply, Status>>>,
    pub watched_from: Vec<String>,
    /// A watch does not end after that.
    pub watches_stay_open: bool,
}

pub struct Fake {
    pub cluster: ClusterId,
    pub state: Mutex<State>,
    pub nodes: Vec<FakeNode>,
}

impl State {
    pub fn apply(&mut self, request: RequestId, body: Body) -> Reply {
        self.index += 1;
        let command = Command::new(request, self.index, self.index, body);
        self.catalogue.apply(self.index, &command)
    }
}

pub fn address(index: usize) -> String {
    format!("node{index}:7100")
}

impl Fake {
    /// Nodes on hosts of their own, in these racks; the first one leads.
    pub fn start(racks: &[&str]) -> Arc<Self> {
        let cluster = ClusterId(77);
        let mut state = State {
            catalogue: Catalogue::default(),
            index: 0,
            loads: Loads::default(),
            leader: Some(0),
            requests: vec![],
            lose_answers: 0,
            busy_until: None,
            executes: 0,
            lists: 0,
            watches: VecDeque::new(),
            watched_from: Vec::new(),
            watches_stay_open: false,
            statuses: 0,
            resolve_as: None,
        };
        let mut nodes = Vec::new();
        for (index, rack) in racks.iter().enumerate() {
            let node = NewNode {
                cookie: Cookie(index as u128 + 1),
                host: format!("host{index}"),
                rack: (*rack).to_owned(),
                address: address(index),
                capacity_bytes: 1 << 40,
                feature_level: FEATURE_LEVEL,
                replaces: None,
                key: None,
            };
            let minted = if index == 0 {
                let settings = Settings::default();
                state.apply(
                    RequestId(0),
                    Body::InitCluster(command::InitCluster { cluster, settings, node }),
                )
            } else {
                state.apply(RequestId(0), Body::AllocateNode(node))
            };
            let Reply::NodeAllocated { node: id } = minted else { panic!("{minted:?}") };
            let registered = state.apply(
                RequestId(0),
                Body::Register(command::Register {
                    node: id,
                    cookie: Cookie(index as u128 + 1),
                    previous: vec![Nonce(0)],
                    nonce: Nonce(9),
                    host: format!("host{index}"),
                    rack: (*rack).to_owned(),
                    address: address(index),
                    capacity_bytes: 1 << 40,
                    feature_level: FEATURE_LEVEL,
                    key: None,
                }),
            );
            let Reply::Registered { incarnation } = registered else { panic!("{registered:?}") };
            let inventory = Body::Inventory(command::Inventory {
                node: id,
                incarnation,
                missing: vec![],
                last: true,
            });
            state.apply(RequestId(0), inventory);
            nodes.push(FakeNode {
                id,
                mood: Mutex::new(Mood::Well),
                files: Mutex::default(),
                puts: AtomicU64::new(0),
                gets: AtomicU64::new(0),
                suspicions: AtomicU64::new(0),
                incarnation,
            });
        }
        Arc::new(Self { cluster, state: Mutex::new(state), nodes })
    }

    pub fn client(self: &Arc<Self>) -> Client {
        self.client_of(ClientOptions::new([address(0), address(1)]))
    }

    pub fn client_of(self: &Arc<Self>, options: ClientOptions) -> Client {
        let runtime = Arc::new(TestRuntime(AtomicU64::new(1)));
        let dialer = Arc::new(FakeDialer { clusters: vec![("node".to_owned(), self.clone())] });
        Client::new(Env { runtime, dialer }, options)
    }

    pub fn set_mood(&self, node: usize, mood: Mood) {
        *self.nodes[node].mood.lock() = mood;
    }

    /// Reports what a mute node holds, and lets it speak again.
    pub fn unmute(&self, node: usize) {
        self.set_mood(node, Mood::Well);
        let held: Vec<SegmentDigest> = self.nodes[node].files.lock().keys().copied().collect();
        for digest in held {
            self.report(node, digest);
        }
    }

    pub fn report(&self, node: usize, digest: SegmentDigest) {
        let node = &self.nodes[node];
        let mut state = self.state.lock();
        let Some(segment) = state.catalogue.segment_by_digest(&digest) else { return };
        let Some(slot) = segment.live_slot_on(node.id) else { return };
        let replicas = vec![(segment.id, slot.epoch)];
        let incarnation = node.incarnation;
        state.apply(
            RequestId(0),
            Body::Durable(command::Durable { node: node.id, incarnation, replicas }),
        );
    }
}

pub struct TestRuntime(pub AtomicU64);

#[allow(clippy::disallowed_methods, reason = "this is the seam")]
impl Runtime for TestRuntime {
    fn spawn(
        &self,
        _name: &'static str,
        task: BoxFuture<'static, ()>,
    ) -> tokio::task::JoinHandle<()> {
        tokio::spawn(task)
    }

    fn run_blocking(&self, _lane: Lane, job: Job) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            job();
        })
    }

    fn oldest_job(&self, _lane: Lane) -> Option<Duration> {
        None
    }

    fn random_u64(&self) -> u64 {
        // SplitMix64.
        let seed = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn wall_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

/// Dials nodes by the prefix of their address.
pub struct FakeDialer {
    pub clusters: Vec<(String, Arc<Fake>)>,
}

impl Dialer for FakeDialer {
    /// Nothing leaves this process.
    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn dial(&self, address: &str) -> Transport {
        let found = self.clusters.iter().find_map(|(prefix, fake)| {
            let index: usize =
                address.strip_prefix(prefix.as_str())?.split(':').next()?.parse().ok()?;
            (index < fake.nodes.len()).then(|| (fake.clone(), index))
        });
        Transport::new(tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let found = found.clone();
            async move {
                let Some((fake, index)) = found else {
                    return Err(Status::unavailable("no such host"));
                };
                call(fake, index, request).await
            }
        }))
    }
}

async fn call(
    fake: Arc<Fake>,
    index: usize,
    request: http::Request<tonic::body::Body>,
) -> Result<http::Response<tonic::body::Body>, Status> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mood = *fake.nodes[index].mood.lock();
    match mood {
        Mood::Down => return Err(Status::unavailable("connection refused")),
        Mood::Silent => std::future::pending().await,
        Mood::Stuck if request.uri().path().contains("Segments") => std::future::pending().await,
        _ => {}
    }
    let own = Identity {
        cluster: Some(fake.cluster),
        lineage: Some(fake.state.lock().catalogue.cluster().lineage),
        node: Some(fake.nodes[index].id),
    };
    let metadata = MetadataMap::from_headers(request.headers().clone());
    Identity::read(&metadata)?.check(&own)?;
    let service = services::Node { fake, index };
    let mut routes = tonic::service::Routes::new(CatalogueServer::new(service.clone()))
        .add_service(SegmentsServer::new(service))
        .prepare();
    let Ok(mut response) = routes.call(request).await;
    let mut metadata = MetadataMap::new();
    own.write(&mut metadata);
    response.headers_mut().extend(metadata.into_headers());
    Ok(response)
}
