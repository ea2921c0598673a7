//! The assembly of one node from its outermost pieces. Production and the simulator use the same
//! function.
//!
//! ```text
//! identity ── hello to peers ── log + snapshots ── segment files ── router ── loops
//!    │ copy, rollback, removed: stop, log why                                 │
//!    └──────────── bootstrap or join if the directory is empty ◄─────────────┘ register, inventory
//! ```

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::Identity as CallIdentity;
use cairn_host::seam::{Env, Lane};
use cairn_proto::wire::HelloRequest;
use cairn_types::ids::{NodeId, Nonce, check_host_port, check_label};
use futures::future::BoxFuture;
use parking_lot::RwLock;
use tonic::service::Routes;

use crate::audit::Trail;
use crate::browsers::Local;
use crate::caller::{Callers, View};
use crate::config::{NodeConfig, Origin, Timings};
use crate::counters::Counters;
use crate::disk::Disk;
use crate::door::Starting;
use crate::fatal::FatalHook;
use crate::guard::Guard;
use crate::health::Health;
use crate::hello;
use crate::ledger::Ledger;
use crate::machine::CatalogueState;
use crate::origin::{self, Fresh, Identified};
use crate::peers::{self, Peers};
use crate::process::Usage;
use crate::raft::{
    Consensus, ConsensusConfig, Engine, Hooks, Identity as RaftIdentity, NodeAddresses, Papers,
    Promise, RaftTimings,
};
use crate::service;
use crate::shared::{Calls, Ending, Member, Replicas, Shared, ThisNode};
use crate::speech::Speech;
use crate::standing;
pub use crate::start_error::StartError;
use crate::store::{SegmentStore, StoreConfig};
use crate::upkeep;
use crate::upkeep::register::Registration;

/// After new entries the node waits this long before it looks for work, so that a burst causes one
/// look.
const APPLY_GATHER: Duration = Duration::from_millis(20);

/// Time limit for another node to take over when a leader stops. It covers a message, an election
/// by request, and the disks of both. It is less than the loss of a leader costs.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(1);
/// Time limit for a goodbye to reach a leader. If all nodes stop at once, there is none.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(3);

/// The outermost pieces of a node.
pub struct Pieces {
    pub engine: Engine<CatalogueState>,
    pub env: Env,
    pub disk: Arc<dyn Disk>,
    pub ledger: Arc<dyn Ledger>,
    /// Called once with the reason when the node must stop.
    pub fatal: FatalHook,
    /// Reads the resources that the process has used. Constant in simulated runs.
    pub usage: fn() -> Usage,
    /// gRPC calls must come over a connection with a client certificate.
    pub certificates: bool,
    /// The node has no key, and only processes of its own machine can reach it.
    pub is_local: bool,
    /// Receives this node's identity as soon as it is known.
    pub starting: Starting,
    /// The listener reports here whether it can accept.
    pub health: Arc<Health>,
}

/// A running node.
pub struct Node {
    shared: Arc<Shared>,
    routes: Routes,
}

impl Node {
    /// The router to serve; may be cloned.
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub fn id(&self) -> NodeId {
        self.shared.this.id
    }

    /// Whether this node stopped because its directory must not come back under its id.
    pub fn is_stopped_for_good(&self) -> bool {
        self.shared.ending.is_for_good()
    }

    /// Hands leadership over and tells the leader that this node is down from now on. A process
    /// that was told to stop calls this before [`Node::stop`], while it still serves, because the
    /// new leader needs its answers.
    pub async fn say_goodbye(&self) {
        self.shared.member.consensus.hand_over(HAND_OVER_DEADLINE).await;
        let said = upkeep::heartbeat::goodbye(&self.shared.calls, &self.shared.ending);
        if tokio::time::timeout(GOODBYE_DEADLINE, said).await.is_err() {
            tracing::debug!("nobody has heard the goodbye");
        }
    }

    /// Hands leadership over, stops taking part in Raft and waits until the work begun there is
    /// done. The process then ends its tasks.
    pub async fn stop(&self) {
        if !self.is_stopped_for_good() {
            self.shared.member.consensus.hand_over(HAND_OVER_DEADLINE).await;
        }
        self.shared.member.consensus.shutdown().await;
    }
}

/// Opens everything, recovers, and starts the loops. The caller serves [`Node::routes`] at
/// `config.address`.
///
/// The future is boxed, so that only this crate compiles it, not every binary that awaits it.
pub fn start(pieces: Pieces, config: NodeConfig) -> BoxFuture<'static, Result<Node, StartError>> {
    Box::pin(assemble(pieces, config))
}

async fn assemble(pieces: Pieces, config: NodeConfig) -> Result<Node, StartError> {
    let Pieces { engine, env, disk, ledger, fatal, usage, starting, health, .. } = pieces;
    let (certificates, is_local) = (pieces.certificates, pieces.is_local);
    check_label(&config.rack).map_err(|error| StartError::Config(error.to_string()))?;
    check_label(&config.host).map_err(|error| StartError::Config(error.to_string()))?;
    for address in std::iter::once(&config.address).chain(given_peers(&config)) {
        check_host_port(address).map_err(|error| StartError::Config(error.to_string()))?;
    }
    let nonce = Nonce(env.random_u128());
    let remembered = {
        let disk = Arc::clone(&disk);
        env.blocking(Lane::Data, move || peers::load(&*disk)).await
    };
    let peers = Arc::new(Peers::new(remembered));
    given_peers(&config).for_each(|address| peers.give(address.clone()));
    let Identified { file, identity, node, key, previous, promised, fresh } =
        origin::identify(&env, &disk, &config, &peers, &starting).await?;
    let (cluster, lineage) = (identity.cluster, identity.lineage);

    let state = Arc::new(RwLock::new(CatalogueState::new(config.feature_level)));
    let (ending, brought) = Ending::new(Arc::clone(&fatal));
    let ending = Arc::new(ending);
    let known: Vec<_> = previous.iter().copied().chain([nonce]).collect();
    let papers = hello::papers(&identity, &known);
    let speech = Arc::new(Speech::new(key, cluster, node, nonce));
    let store = open_store(&env, &disk, &config, &fatal).await?;
    // A node that was registered has a log. If the log is lost, its votes are lost too.
    let expect_log = identity.registered_nonce.is_some();
    let audit = Trail::open(env.clone(), Arc::clone(&disk), config.audit, Arc::clone(&fatal));
    let trail = audit.await.map_err(|error| StartError::Store(error.to_string()))?;
    let raft_identity = RaftIdentity { cluster, lineage, node: node.0, nonce };
    let consensus = Consensus::open(
        engine,
        env.clone(),
        Arc::clone(&disk),
        consensus_config(&config.timings, raft_identity, expect_log, promised),
        Arc::clone(&state),
        hooks((&state, &peers, &speech), (&fatal, &trail), &ending, papers.clone()),
    )
    .await
    .map_err(|error| match error.is_final() {
        true => StartError::Refused(error.to_string()),
        false => StartError::Log(error.to_string()),
    })?;
    let raft_routes = consensus.routes();

    let this = ThisNode::new(env.clone(), config, disk, trail, (cluster, lineage, node));
    let this = Arc::new(this);
    let member = Arc::new(Member::new(Arc::clone(&this), consensus, state, health));
    let calls = Calls { this: Arc::clone(&this), member: Arc::clone(&member), peers, speech };
    let calls = Arc::new(calls);
    let counters = Arc::<Counters>::default();
    let replicas = Replicas::new(Arc::clone(&member), store, ledger, Arc::clone(&counters));
    let replicas = Arc::new(replicas);
    let shared = Arc::new(Shared {
        this,
        member,
        calls,
        replicas,
        leader: Default::default(),
        ending,
        counters,
        waits: Default::default(),
        lanes: Default::default(),
        summaries: Default::default(),
        usage,
    });
    let own = CallIdentity { cluster: Some(cluster), lineage: Some(lineage), node: Some(node) };
    let local = is_local.then(|| Local { advertised: host_of(&shared.this.config.address) });
    let asked = Arc::clone(&shared.member);
    let callers = Callers::new(certificates, move || View {
        access: asked.read(|catalogue| catalogue.access().clone()),
        required: asked.read(|catalogue| catalogue.cluster().tokens_required),
        wall_ms: asked.median_wall_ms(),
    });
    let guard = Guard::new(own, callers, local, &shared.lanes);
    let routes = service::routes(&shared, raft_routes, guard);
    let registration = Registration { identity: file, cookie: identity.cookie, previous, nonce };
    env.spawn(
        "accused",
        upkeep::accused::run(
            Arc::clone(&shared.calls),
            Arc::clone(&shared.ending),
            brought,
            papers,
        ),
    );
    start_loops(&shared, registration, fresh);
    Ok(Node { shared, routes })
}

/// The host of a `host:port`.
fn host_of(address: &str) -> String {
    address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned()
}

/// Addresses given by the operator.
fn given_peers(config: &NodeConfig) -> impl Iterator<Item = &String> {
    let join: &[String] = match &config.origin {
        Origin::Join(addresses) => addresses,
        _ => &[],
    };
    config.peers.iter().chain(join)
}

fn consensus_config(
    timings: &Timings,
    identity: RaftIdentity,
    expect_log: bool,
    promised: Vec<Promise>,
) -> ConsensusConfig {
    let mut config = ConsensusConfig::new(identity);
    config.timings = RaftTimings::with(
        Duration::from_millis(timings.raft_heartbeat_ms),
        Duration::from_millis(timings.raft_lease_ms),
    );
    config.expect_log = expect_log;
    config.promised = promised;
    config.snapshot_entries = timings.snapshot_entries;
    config.keep_entries = timings.log_kept_entries;
    config.timings.snapshot_piece_bytes = timings.snapshot_piece_bytes;
    config
}

/// Openraft's questions to the node (allowed senders, members' addresses) and its notices.
fn hooks(
    (state, peers, speech): (&Arc<RwLock<CatalogueState>>, &Arc<Peers>, &Arc<Speech>),
    (fatal, trail): (&FatalHook, &Arc<Trail>),
    ending: &Arc<Ending>,
    papers: HelloRequest,
) -> Hooks {
    let mut hooks = Hooks::new(Arc::clone(fatal));
    hooks.trail = Some(Arc::clone(trail));
    let told = Arc::clone(ending);
    hooks.told_to_stop = Arc::new(move |reason| told.accuse(reason));
    let known = Arc::clone(state);
    let listening = Arc::clone(speech);
    hooks.admit = Arc::new(move |said| {
        let (node, key) = (NodeId(said.node), {
            let known = known.read();
            standing::admit_raft(&known.catalogue, NodeId(said.node), said.nonce, said.votes)?;
            known.catalogue.node(NodeId(said.node)).and_then(|record| record.key)
        });
        listening.check_call(key, node, said.nonce, said.proof)
    });
    let speaking = Arc::clone(speech);
    hooks.prove = Arc::new(move |to| speaking.proof(NodeId(to)));
    let known = Arc::clone(state);
    let refusal = move |papers: &HelloRequest, votes: bool| {
        standing::hello_refusal(&known.read().catalogue, papers, false, votes)
    };
    hooks.papers = Papers::new(papers, Arc::new(refusal));
    let (known, peers) = (Arc::clone(state), Arc::clone(peers));
    hooks.resolve = Arc::new(move |node| {
        let known = known.read();
        let Some(record) = known.catalogue.node(NodeId(node)) else {
            return NodeAddresses::default();
        };
        NodeAddresses {
            registered: Some(record.address.clone()),
            announced: peers.announced(record.id, record.incarnation),
        }
    });
    hooks
}

async fn open_store(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
    fatal: &FatalHook,
) -> Result<SegmentStore, StartError> {
    let failed = |error: crate::store::StoreError| StartError::Store(error.to_string());
    SegmentStore::format(env, disk).await.map_err(failed)?;
    let store_config =
        StoreConfig { capacity_bytes: config.capacity_bytes, ..StoreConfig::default() };
    SegmentStore::open(env.clone(), Arc::clone(disk), store_config, Arc::clone(fatal))
        .await
        .map_err(failed)
}

/// Looks through the segment files while the node already serves, because there may be millions.
async fn look_through(replicas: Arc<Replicas>, ending: Arc<Ending>) {
    match replicas.store.look_through().await {
        Ok(found) => {
            tracing::info!(
                segments = found.segments,
                bytes = found.bytes,
                damaged = found.damaged.len(),
                strangers = found.strangers.len(),
                "segment files read"
            );
            replicas.work.ring();
        }
        // The hook has been called.
        Err(error) if error.is_fatal() => {}
        Err(error) => ending.fatal(format!("cannot read the segments: {error}")),
    }
}

/// Lanes of segment bytes: the scrub gives way to them.
fn is_transfer(lane: &str) -> bool {
    ["readers", "uploads"].contains(&lane)
}

fn start_loops(shared: &Arc<Shared>, registration: Registration, fresh: Option<Fresh>) {
    let env = &shared.this.env;
    let (calls, replicas) = (|| Arc::clone(&shared.calls), || Arc::clone(&shared.replicas));
    let member = || Arc::clone(&shared.member);
    let leader = || Arc::clone(&shared.leader);
    let ending = || Arc::clone(&shared.ending);
    let owner = Arc::clone(shared);
    env.spawn("register", async move {
        if let Some(fresh) = fresh
            && let Err(reason) = origin::bootstrap(&owner.member, fresh).await
        {
            owner.ending.fatal(reason);
            return;
        }
        let Shared { replicas, calls, ending, .. } = &*owner;
        upkeep::register::run(replicas, calls, ending, registration).await;
    });
    env.spawn("segment files", look_through(replicas(), ending()));
    env.spawn("own work", upkeep::own_work::run(replicas(), calls(), ending()));
    env.spawn("ledger", crate::ledger::run(env.clone(), Arc::clone(&shared.replicas.ledger)));
    env.spawn("compare", upkeep::compare::run(replicas()));
    let lanes = shared.lanes.clone();
    let busy = move || lanes.taken().iter().any(|(of, taken)| is_transfer(of) && *taken > 0);
    env.spawn("scrub", upkeep::scrub::run(replicas(), busy));
    env.spawn("reports", upkeep::report::run(replicas(), calls(), ending()));
    env.spawn("heartbeat", upkeep::heartbeat::run(calls(), replicas(), leader(), ending()));
    env.spawn("health", upkeep::health::run(member(), leader(), ending()));
    env.spawn("steward", upkeep::steward::run(member(), leader()));
    env.spawn("announce", upkeep::announce::run(member()));
    env.spawn("members", upkeep::members::run(calls(), leader(), ending()));
    let owner = Arc::clone(shared);
    env.spawn("wake on apply", async move {
        // Any entry may bring work for this node.
        let mut seen = 0;
        loop {
            owner.member.consensus.wait_for_applied(seen + 1).await;
            seen = owner.member.consensus.applied();
            owner.replicas.work.ring();
            tokio::time::sleep(APPLY_GATHER).await;
        }
    });
}
