//! The assembly of one node from its outermost pieces: the same function in production and in
//! the simulator.
//!
//! ```text
//! identity ── hello to peers ── log + snapshots ── segment files ── router ── loops
//!    │ copy, rollback, removed: stop, say why                                 │
//!    └────────────── bootstrap or join where the directory is empty ◄─────────┘ register, inventory
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_core::ids::{ClusterId, Cookie, Lineage, NodeId, Nonce, check_label};
use cairn_core::model::NewNode;
use cairn_proto::envelope::FEATURE_LEVEL;
use cairn_proto::seam::{Env, Lane};
use cairn_proto::wire::admin_client::AdminClient;
use cairn_proto::{convert, wire};
use openraft::AsyncRuntime;
use parking_lot::{Mutex, RwLock};
use tonic::service::Routes;
use tonic::{Request, Status};

use crate::config::{NodeConfig, Origin, Timings};
use crate::disk::Disk;
use crate::guard::Guard;
use crate::identity::{Identity, IdentityError, IdentityFile};
use crate::ledger::Ledger;
use crate::machine::CatalogueState;
use crate::peers::{self, Peers};
use crate::process::Usage;
use crate::raft::{
    Consensus, ConsensusConfig, Hooks, Identity as RaftIdentity, LogError, OpenError,
    Timings as RaftTimings,
};
use crate::report::Reporter;
use crate::service;
use crate::shared::{FatalHook, Shared};
use crate::store::{SegmentStore, StoreConfig};
use crate::upkeep;
use crate::upkeep::register::Registration;

/// A join or hello gives one address this long.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// The number of the node that makes a cluster.
const FIRST_NODE: NodeId = NodeId(1);
/// Raft's log in the data directory.
const LOG_FILE: &str = "raft.redb";
/// Work that entries bring is looked for this much later, once for all of a burst.
const APPLY_GATHER: Duration = Duration::from_millis(20);
/// Rounds over all join addresses before a join gives up.
const JOIN_ROUNDS_MAX: u32 = 60;

/// The outermost pieces of a node.
pub struct Pieces {
    pub env: Env,
    pub disk: Arc<dyn Disk>,
    pub ledger: Arc<dyn Ledger>,
    /// Told once that the node must stop, and why.
    pub fatal: FatalHook,
    /// What the process has used: the same in every simulated run.
    pub usage: fn() -> Usage,
    /// gRPC calls must come over a connection with a client certificate.
    pub certificates: bool,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the data directory is empty: start with --bootstrap to make a cluster, or --join ADDR to join one"
    )]
    Empty,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Config(String),
    #[error("this node must not come back: {0}")]
    Refused(String),
    #[error("cannot join the cluster: {0}")]
    Join(String),
    #[error("cannot open the log: {0}")]
    Log(String),
    #[error("cannot open the segments: {0}")]
    Store(String),
    #[error("cannot start the cluster: {0}")]
    Bootstrap(String),
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
        self.shared.node
    }

    /// Whether this node stopped because its directory must not come back under its id.
    pub fn is_banished(&self) -> bool {
        self.shared.banished.load(Ordering::SeqCst)
    }

    /// Stops taking part in Raft and waits until what was begun there is done. The process then
    /// ends its tasks.
    pub async fn stop(&self) {
        self.shared.consensus.shutdown().await;
    }
}

/// Opens everything, recovers, and starts the loops; the caller serves [`Node::routes`] at
/// `config.address`.
pub async fn start<Rt: AsyncRuntime>(
    pieces: Pieces,
    config: NodeConfig,
) -> Result<Node, StartError> {
    let Pieces { env, disk, ledger, fatal, usage, certificates } = pieces;
    check_label(&config.rack).map_err(|error| StartError::Config(error.to_string()))?;
    check_label(&config.host).map_err(|error| StartError::Config(error.to_string()))?;
    let nonce = Nonce(env.random_u128());
    let remembered = {
        let disk = Arc::clone(&disk);
        env.blocking(Lane::Data, move || peers::load(&*disk)).await
    };
    let peers = Peers::new(known_peers(remembered, &config));
    let Identified { file, identity, node, previous, fresh } =
        identify(&env, &disk, &config, &peers).await?;
    let (cluster, lineage) = (identity.cluster, identity.lineage);

    let state: Arc<RwLock<CatalogueState>> = Arc::default();
    // Before Raft: a node that leads must serve, and looking through many files takes a while.
    let store = open_store(&env, &disk, &config, &fatal).await?;
    // A node that was registered has a log; one that lost it has forgotten its votes.
    let expect_log = identity.registered_nonce.is_some();
    let raft_identity = RaftIdentity { cluster, lineage, node: node.0, nonce };
    let consensus = Consensus::open::<Rt, CatalogueState>(
        env.clone(),
        Arc::clone(&disk),
        consensus_config(&config.timings, raft_identity, expect_log),
        Arc::clone(&state),
        hooks(&state, &fatal),
    )
    .await
    .map_err(|error| match error {
        OpenError::Log(error @ LogError::Lost(_)) => StartError::Refused(error.to_string()),
        error => StartError::Log(error.to_string()),
    })?;
    let raft_routes = consensus.routes();

    let shared = Arc::new(Shared {
        env: env.clone(),
        cluster,
        lineage,
        node,
        state,
        consensus,
        disk,
        store,
        ledger,
        clock: Default::default(),
        counters: Default::default(),
        heard: Default::default(),
        peers,
        reporter: Reporter::default(),
        incarnation: Mutex::new(None),
        work: Default::default(),
        steward: Default::default(),
        members: Default::default(),
        fatal,
        banished: AtomicBool::new(false),
        usage,
        room: Mutex::new((config.capacity_bytes, 0)),
        config,
    });
    let guard = Guard::new(cluster, lineage, node, certificates);
    let routes = service::routes(&shared, raft_routes, guard);
    let registration = Registration { identity: file, cookie: identity.cookie, previous, nonce };
    start_loops(&shared, registration, fresh);
    Ok(Node { shared, routes })
}

/// Every address that may answer before the catalogue is known here.
fn known_peers(mut addresses: Vec<String>, config: &NodeConfig) -> Vec<String> {
    addresses.extend(config.peers.iter().cloned());
    if let Origin::Join(join) = &config.origin {
        addresses.extend(join.iter().cloned());
    }
    addresses.sort();
    addresses.dedup();
    addresses.retain(|address| *address != config.address);
    addresses
}

fn consensus_config(
    timings: &Timings,
    identity: RaftIdentity,
    expect_log: bool,
) -> ConsensusConfig {
    let mut config = ConsensusConfig::new(identity);
    config.timings = RaftTimings {
        heartbeat: Duration::from_millis(timings.raft_heartbeat_ms),
        election_min: Duration::from_millis(timings.election_min_ms),
        election_max: Duration::from_millis(timings.election_max_ms),
        ..RaftTimings::default()
    };
    config.expect_log = expect_log;
    config.snapshot_entries = timings.snapshot_entries;
    config.keep_entries = timings.log_kept_entries;
    config
}

/// What consensus asks back: who may speak, and where members are.
fn hooks(state: &Arc<RwLock<CatalogueState>>, fatal: &FatalHook) -> Hooks {
    let mut hooks = Hooks::new(Arc::clone(fatal));
    let known = Arc::clone(state);
    hooks.admit = Arc::new(move |sender, nonce| {
        service::admin::admit_raft(&known.read().catalogue, NodeId(sender), nonce)
    });
    let known = Arc::clone(state);
    hooks.resolve = Arc::new(move |node| {
        known.read().catalogue.node(NodeId(node)).map(|record| record.address.clone())
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
    let (store, found) =
        SegmentStore::open(env.clone(), Arc::clone(disk), store_config, Arc::clone(fatal))
            .await
            .map_err(failed)?;
    tracing::info!(?found, "segment files read");
    Ok(store)
}

/// Who this directory is.
struct Identified {
    file: IdentityFile,
    identity: Identity,
    node: NodeId,
    /// The nonces it remembered before this process.
    previous: Vec<Nonce>,
    /// What a fresh bootstrap still has to do.
    fresh: Option<Fresh>,
}

/// Finds out who this directory is: itself again, the first node of a new cluster, or a new
/// member.
async fn identify(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
    peers: &Peers,
) -> Result<Identified, StartError> {
    let mut file = open_identity(env, disk, config).await?;
    let mut identity = file.identity().clone();
    let previous = nonces(&identity);
    if identity.node.is_none() {
        let Origin::Join(addresses) = &config.origin else { return Err(StartError::Empty) };
        let joined = join(env, peers, config, identity.cookie, addresses).await?;
        (identity.cluster, identity.lineage) = (joined.cluster, joined.lineage);
        identity.node = Some(joined.node);
    } else if !previous.is_empty() {
        hello(env, peers, &identity, &previous).await?;
    }
    let node = identity.node.ok_or(StartError::Empty)?;
    identity.address.clone_from(&config.address);
    identity.host.clone_from(&config.host);
    identity.rack.clone_from(&config.rack);
    let stored = identity.clone();
    let file = env.blocking(Lane::Log, move || file.update(stored).map(|()| file)).await?;
    let fresh = match &config.origin {
        Origin::Bootstrap(settings)
            if node == FIRST_NODE && identity.registered_nonce.is_none() =>
        {
            Some(Fresh { settings: settings.clone(), node: new_node(config, identity.cookie) })
        }
        _ => None,
    };
    Ok(Identified { file, identity, node, previous, fresh })
}

fn nonces(identity: &Identity) -> Vec<Nonce> {
    identity.registered_nonce.iter().chain(&identity.pending_nonces).copied().collect()
}

/// Opens the identity file, or makes one where the directory is empty and the configuration
/// says what it shall become.
async fn open_identity(
    env: &Env,
    disk: &Arc<dyn Disk>,
    config: &NodeConfig,
) -> Result<IdentityFile, StartError> {
    let files = Arc::clone(disk);
    let identity = match env.blocking(Lane::Log, move || IdentityFile::load(&files)).await {
        Ok(file) => return Ok(file),
        Err(IdentityError::Missing) => {
            let cookie = Cookie(env.random_u128());
            match &config.origin {
                Origin::Resume => return Err(StartError::Empty),
                Origin::Bootstrap(_) => Identity {
                    cluster: ClusterId(env.random_u128()),
                    node: Some(FIRST_NODE),
                    cookie,
                    ..Identity::default()
                },
                // The cookie is on disk before the cluster hears it: a join that is cut short
                // and repeated gets the same number.
                Origin::Join(_) => Identity { cookie, ..Identity::default() },
            }
        }
        Err(error) => return Err(error.into()),
    };
    let files = Arc::clone(disk);
    let foreign = env.blocking(Lane::Log, move || files.exists(LOG_FILE)).await;
    if foreign.map_err(|error| StartError::Log(error.to_string()))? {
        return Err(StartError::Refused("the directory has a log but no identity".into()));
    }
    let files = Arc::clone(disk);
    Ok(env.blocking(Lane::Log, move || IdentityFile::create(&files, identity)).await?)
}

/// What the first node proposes once: repeated at every start with `--bootstrap`, refused as
/// initialised from the second time on.
struct Fresh {
    settings: cairn_core::model::Settings,
    node: NewNode,
}

fn new_node(config: &NodeConfig, cookie: Cookie) -> NewNode {
    NewNode {
        cookie,
        host: config.host.clone(),
        rack: config.rack.clone(),
        address: config.address.clone(),
        capacity_bytes: config.capacity_bytes,
        feature_level: FEATURE_LEVEL,
    }
}

/// What the cluster answered a join.
struct Joined {
    cluster: ClusterId,
    lineage: Lineage,
    node: NodeId,
}

async fn join(
    env: &Env,
    peers: &Peers,
    config: &NodeConfig,
    cookie: Cookie,
    addresses: &[String],
) -> Result<Joined, StartError> {
    if addresses.is_empty() {
        return Err(StartError::Config("--join names no address".into()));
    }
    let mut last = Status::unavailable("no answer");
    let mut targets: Vec<String> = addresses.to_vec();
    for _ in 0..JOIN_ROUNDS_MAX {
        for address in targets.clone() {
            let node = Some(convert::new_node_to_wire(&new_node(config, cookie)));
            let mut client = AdminClient::new(peers.transport(env, &address));
            let call = client.join(Request::new(wire::JoinRequest { node }));
            let answer = match tokio::time::timeout(ASK_DEADLINE, call).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!("no answer from {address}"))),
            };
            match answer {
                Ok(reply) => {
                    let reply = reply.into_inner();
                    let (cluster, lineage) = cluster_of(&reply.cluster, reply.lineage)
                        .map_err(|error| StartError::Join(error.to_string()))?;
                    return Ok(Joined { cluster, lineage, node: NodeId(reply.node) });
                }
                Err(status) => {
                    if let Some((_, leader)) = cairn_proto::envelope::leader_of(&status)
                        && !targets.contains(&leader)
                    {
                        targets.push(leader);
                    }
                    if matches!(
                        status.code(),
                        tonic::Code::InvalidArgument | tonic::Code::Unauthenticated
                    ) {
                        return Err(StartError::Join(status.message().to_owned()));
                    }
                    last = status;
                }
            }
        }
        tokio::time::sleep(env.jitter(Duration::from_millis(500))).await;
    }
    Err(StartError::Join(format!("{}: {}", addresses.join(", "), last.message())))
}

fn cluster_of(cluster: &[u8], lineage: u32) -> Result<(ClusterId, Lineage), String> {
    let bytes: [u8; 16] = cluster.try_into().map_err(|_| "malformed cluster id".to_owned())?;
    let lineage = u16::try_from(lineage).map_err(|_| "malformed lineage".to_owned())?;
    Ok((ClusterId(u128::from_be_bytes(bytes)), Lineage(lineage)))
}

/// Asks the peers that can be reached whether this directory may come back. Silence is consent:
/// a whole cluster that starts cold has nobody to ask, and `Register` asks again.
async fn hello(
    env: &Env,
    peers: &Peers,
    identity: &Identity,
    previous: &[Nonce],
) -> Result<(), StartError> {
    let addresses = peers.remembered();
    let asks = addresses.iter().map(|address| {
        let message = wire::HelloRequest {
            cluster: identity.cluster.0.to_be_bytes().to_vec().into(),
            node: identity.node.map_or(0, |node| node.0),
            cookie: identity.cookie.0.to_be_bytes().to_vec().into(),
            nonces: previous.iter().map(|nonce| nonce.0.to_be_bytes().to_vec().into()).collect(),
        };
        let mut client = AdminClient::new(peers.transport(env, address));
        async move {
            let call = client.hello(Request::new(message));
            tokio::time::timeout(ASK_DEADLINE, call).await.ok()?.ok()
        }
    });
    let answers = futures::future::join_all(asks).await;
    for answer in answers.into_iter().flatten() {
        let answer = answer.into_inner();
        let theirs = cluster_of(&answer.cluster, answer.lineage);
        let same = theirs.is_ok_and(|(cluster, _)| cluster == identity.cluster);
        if same && !answer.refused.is_empty() {
            return Err(StartError::Refused(answer.refused));
        }
    }
    Ok(())
}

fn start_loops(shared: &Arc<Shared>, registration: Registration, fresh: Option<Fresh>) {
    let env = &shared.env;
    let owner = Arc::clone(shared);
    env.spawn("register", async move {
        if let Some(fresh) = fresh
            && let Err(reason) = bootstrap(&owner, fresh).await
        {
            (owner.fatal)(reason);
            return;
        }
        upkeep::register::run(&owner, registration).await;
    });
    env.spawn("own work", upkeep::own_work::run(Arc::clone(shared)));
    env.spawn("reports", crate::report::run(Arc::clone(shared)));
    env.spawn("heartbeat", upkeep::heartbeat::run(Arc::clone(shared)));
    env.spawn("steward", upkeep::steward::run(Arc::clone(shared)));
    env.spawn("members", upkeep::members::run(Arc::clone(shared)));
    let owner = Arc::clone(shared);
    env.spawn("wake on apply", async move {
        // Whatever an entry changed may be work for this node.
        let mut seen = 0;
        loop {
            owner.consensus.wait_for_applied(seen + 1).await;
            seen = owner.consensus.applied();
            owner.work.ring();
            tokio::time::sleep(APPLY_GATHER).await;
        }
    });
}

/// Makes the cluster: one Raft voter, the first entry. Safe to repeat.
async fn bootstrap(shared: &Arc<Shared>, fresh: Fresh) -> Result<(), String> {
    use cairn_core::command::{Body, Refusal, Reply};
    use cairn_core::ids::RequestId;
    if !shared.consensus.is_initialized().await {
        let made = shared.consensus.initialize(&shared.config.address).await;
        made.map_err(|error| error.to_string())?;
    }
    let initialized = |shared: &Shared| shared.read(|catalogue| catalogue.is_initialized());
    while !initialized(shared) {
        let body = Body::InitCluster {
            cluster: shared.cluster,
            settings: fresh.settings.clone(),
            node: fresh.node.clone(),
        };
        match shared.propose(RequestId(0), body).await.as_deref() {
            Ok(Reply::Refused(Refusal::AlreadyInitialized)) => return Ok(()),
            Ok(Reply::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(())
}
