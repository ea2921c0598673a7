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

use cairn_core::ids::{NodeId, Nonce, check_label};
use cairn_proto::seam::{Env, Lane};
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tonic::service::Routes;

use crate::config::{NodeConfig, Origin, Timings};
use crate::disk::Disk;
use crate::guard::Guard;
use crate::identity::IdentityError;
use crate::ledger::Ledger;
use crate::machine::CatalogueState;
use crate::origin::{self, Fresh, Identified};
use crate::peers::{self, Peers};
use crate::process::Usage;
use crate::raft::{
    Consensus, ConsensusConfig, Engine, Hooks, Identity as RaftIdentity, Promise,
    Timings as RaftTimings, Whereabouts,
};
use crate::report::Reporter;
use crate::service;
use crate::shared::{FatalHook, Shared};
use crate::store::{SegmentStore, StoreConfig};
use crate::upkeep;
use crate::upkeep::register::Registration;

/// Work that entries bring is looked for this much later, once for all of a burst.
const APPLY_GATHER: Duration = Duration::from_millis(20);

/// The outermost pieces of a node.
pub struct Pieces {
    pub engine: Engine<CatalogueState>,
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
    #[error(transparent)]
    Peers(#[from] peers::SyncFailed),
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
///
/// Boxed, so that this crate compiles it and not every binary that awaits it.
pub fn start(pieces: Pieces, config: NodeConfig) -> BoxFuture<'static, Result<Node, StartError>> {
    Box::pin(assemble(pieces, config))
}

async fn assemble(pieces: Pieces, config: NodeConfig) -> Result<Node, StartError> {
    let Pieces { engine, env, disk, ledger, fatal, usage, certificates } = pieces;
    check_label(&config.rack).map_err(|error| StartError::Config(error.to_string()))?;
    check_label(&config.host).map_err(|error| StartError::Config(error.to_string()))?;
    let nonce = Nonce(env.random_u128());
    let remembered = {
        let disk = Arc::clone(&disk);
        env.blocking(Lane::Data, move || peers::load(&*disk)).await
    };
    let peers = Arc::new(Peers::new(remembered));
    given_peers(&config).for_each(|address| peers.give(address.clone()));
    let Identified { file, identity, node, previous, promised, fresh } =
        origin::identify(&env, &disk, &config, &peers).await?;
    let (cluster, lineage) = (identity.cluster, identity.lineage);

    let state: Arc<RwLock<CatalogueState>> = Arc::default();
    let (banish, banished) = banishment(&fatal);
    // Before Raft: a node that leads must serve, and looking through many files takes a while.
    let store = open_store(&env, &disk, &config, &fatal).await?;
    // A node that was registered has a log; one that lost it has forgotten its votes.
    let expect_log = identity.registered_nonce.is_some();
    let raft_identity = RaftIdentity { cluster, lineage, node: node.0, nonce };
    let consensus = Consensus::open(
        engine,
        env.clone(),
        Arc::clone(&disk),
        consensus_config(&config.timings, raft_identity, expect_log, promised),
        Arc::clone(&state),
        hooks(&state, &peers, &fatal, &banish),
    )
    .await
    .map_err(|error| match error.is_final() {
        true => StartError::Refused(error.to_string()),
        false => StartError::Log(error.to_string()),
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
        banish,
        banished,
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

/// Addresses that the operator names.
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
    config.timings = RaftTimings {
        heartbeat: Duration::from_millis(timings.raft_heartbeat_ms),
        election_min: Duration::from_millis(timings.election_min_ms),
        election_max: Duration::from_millis(timings.election_max_ms),
        ..RaftTimings::default()
    };
    config.expect_log = expect_log;
    config.promised = promised;
    config.snapshot_entries = timings.snapshot_entries;
    config.keep_entries = timings.log_kept_entries;
    config
}

/// How to stop for good, and whether that has happened.
fn banishment(fatal: &FatalHook) -> (FatalHook, Arc<AtomicBool>) {
    let (fatal, banished) = (Arc::clone(fatal), Arc::<AtomicBool>::default());
    let happened = Arc::clone(&banished);
    let banish = move |reason| {
        happened.store(true, Ordering::SeqCst);
        fatal(reason);
    };
    (Arc::new(banish), banished)
}

/// What consensus asks back: who may speak, and where members are; and what it tells.
fn hooks(
    state: &Arc<RwLock<CatalogueState>>,
    peers: &Arc<Peers>,
    fatal: &FatalHook,
    banish: &FatalHook,
) -> Hooks {
    let mut hooks = Hooks::new(Arc::clone(fatal));
    hooks.banish = Arc::clone(banish);
    let known = Arc::clone(state);
    hooks.admit = Arc::new(move |sender, nonce| {
        service::admin::admit_raft(&known.read().catalogue, NodeId(sender), nonce)
    });
    let (known, peers) = (Arc::clone(state), Arc::clone(peers));
    hooks.resolve = Arc::new(move |node| {
        let known = known.read();
        let Some(record) = known.catalogue.node(NodeId(node)) else {
            return Whereabouts::default();
        };
        Whereabouts {
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
    let (store, found) =
        SegmentStore::open(env.clone(), Arc::clone(disk), store_config, Arc::clone(fatal))
            .await
            .map_err(failed)?;
    tracing::info!(?found, "segment files read");
    Ok(store)
}

fn start_loops(shared: &Arc<Shared>, registration: Registration, fresh: Option<Fresh>) {
    let env = &shared.env;
    let owner = Arc::clone(shared);
    env.spawn("register", async move {
        if let Some(fresh) = fresh
            && let Err(reason) = origin::bootstrap(&owner, fresh).await
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
