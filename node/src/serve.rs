//! The production shell around the assembly: files, sockets, TLS, threads, and an orderly stop.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::dial::TcpDialer;
use cairn_host::seam::{Env, Lane, Runtime};
use cairn_host::tls::ClusterKey;
use cairn_host::tokio_host::TokioHost;
use cairn_types::ids::ClusterId;
use cairn_types::model::Admin;
use futures::future::BoxFuture;
use openraft_rt_tokio::TokioRuntime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;

use crate::config::NodeConfig;
use crate::disk::files::{DirectoryLock, FileDisk};
use crate::door::Door;
use crate::health::Health;
use crate::ledger::SledLedger;
use crate::listener::{self, Connections, connections_max};
use crate::node::{self, Pieces, StartError};
use crate::raft::Engine;
use crate::shared::Member;
use cairn_host::windows;

/// Period of the lookup of the nodes' addresses: nodes and names may move.
const NODES_LOOKUP: Duration = Duration::from_secs(10);
/// Time that running calls get to finish once the node is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

pub struct ServeConfig {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub key: Option<ClusterKey>,
    /// Allows an address other than loopback without a key.
    pub insecure: bool,
    pub node: NodeConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "listening on {0} without a key accepts anyone: give --cluster-key FILE, or --insecure to allow this"
    )]
    OpenToAll(SocketAddr),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot use data directory {path}: {reason}")]
    Data { path: PathBuf, reason: String },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    #[error("server failed: {0}")]
    Server(String),
    /// The node found that it must stop.
    #[error("node stopped: {0}")]
    Fatal(String),
    /// Its data directory must not come back under its id.
    #[error("node stopped permanently: {0}")]
    MustNotComeBack(String),
}

/// Called with the node's result when it begins to stop.
pub type Stopping = Box<dyn FnOnce(&Result<(), ServeError>) + Send>;

/// The callbacks into the process of a node.
pub struct Told {
    /// The bound address and the cluster, once the node serves.
    pub ready: Box<dyn FnOnce(SocketAddr, ClusterId) + Send>,
    /// The node's result, when it begins to stop. The rest may wait for a disk that does not
    /// answer. So the process must make sure that it ends anyway.
    pub stopping: Stopping,
}

/// Runs a node until `stop` resolves or the node must stop.
///
/// The future is boxed, so that openraft's production instances are compiled only with this crate,
/// not with every binary that awaits it.
pub fn serve(
    config: ServeConfig,
    stop: BoxFuture<'static, ()>,
    told: Told,
) -> BoxFuture<'static, Result<(), ServeError>> {
    Box::pin(run(config, stop, told))
}

/// Opens the parts of the data directory other than the store. Blocks.
fn open_data(data: &std::path::Path) -> Result<(FileDisk, DirectoryLock, SledLedger), ServeError> {
    let failed = |reason: String| ServeError::Data { path: data.to_owned(), reason };
    let disk = FileDisk::create(data).map_err(|error| failed(error.to_string()))?;
    let lock = disk.lock().map_err(|error| failed(error.to_string()))?;
    let ledger = SledLedger::open(data).map_err(|error| failed(error.to_string()))?;
    Ok((disk, lock, ledger))
}

async fn run(
    config: ServeConfig,
    stop: BoxFuture<'static, ()>,
    told: Told,
) -> Result<(), ServeError> {
    let ServeConfig { data, listen, key, insecure, node: node_config } = config;
    if !is_loopback(listen.ip()) && key.is_none() && !insecure {
        return Err(ServeError::OpenToAll(listen));
    }
    tokio::pin!(stop);
    let descriptors = crate::process::raise_open_files();
    let host = TokioHost::new(tokio::runtime::Handle::current()).map_err(ServeError::Threads)?;
    let env =
        Env { runtime: Arc::clone(&host) as _, dialer: Arc::new(TcpDialer::new(key.clone())) };
    let (disk, lock, ledger) = tokio::select! {
        biased;
        // A failing disk may not even allow the open.
        () = &mut stop => {
            (told.stopping)(&Ok(()));
            return Ok(());
        }
        opened = env.blocking(Lane::Data, move || open_data(&data)) => opened?,
    };
    let listen_error = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;

    let door = Door::default();
    let health = Arc::<Health>::default();
    let (fatal, mut fatal_reason) = mpsc::channel::<String>(1);
    let pieces = Pieces {
        engine: Engine::over::<TokioRuntime>(),
        env,
        disk: Arc::new(disk),
        ledger: Arc::new(ledger),
        fatal: Arc::new(move |reason| {
            tracing::error!(%reason, "the node must stop");
            // Only the first reason is needed.
            let _ = fatal.try_send(reason);
        }),
        usage: crate::process::usage,
        certificates: key.is_some(),
        is_local: key.is_none() && is_loopback(bound.ip()),
        starting: door.starting(),
        health: Arc::clone(&health),
    };
    let mut server = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(windows::SERVER.stream_bytes)
        .initial_connection_window_size(windows::SERVER.connection_bytes)
        .max_frame_size(windows::SERVER.frame_bytes_max)
        .max_concurrent_streams(windows::CONNECTION_STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)));
    if let Some(key) = &key {
        server = server
            .tls_config(key.server_tls())
            .map_err(|error| ServeError::Tls(error.to_string()))?;
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let connections = Connections::new(connections_max(descriptors));
    let incoming = listener::incoming(listener, connections.clone(), Arc::clone(&health));
    let serving = server.add_routes(door.routes()).serve_with_incoming_shutdown(incoming, async {
        let _ = ended.await;
    });
    // The port answers from now on, at first only that the node is starting.
    tokio::pin!(serving);
    let node = tokio::select! {
        biased;
        // A node may wait long for a cluster to join. It can be told to stop meanwhile.
        () = &mut stop => {
            (told.stopping)(&Ok(()));
            leave_locked(&host, lock);
            return Ok(());
        }
        node = node::start(pieces, node_config) => node?,
        result = &mut serving => return Err(ended_by_itself(result)),
    };
    door.open(node.routes());
    let member = Arc::clone(&node.shared().member);
    host.spawn("node addresses", Box::pin(know_nodes(member, connections)));
    tracing::info!(node = %node.id(), address = %bound, "node serves");
    (told.ready)(bound, node.shared().this.cluster);
    let reason = tokio::select! {
        biased;
        reason = fatal_reason.recv() => Some(reason.unwrap_or_default()),
        () = &mut stop => None,
        result = &mut serving => return Err(ended_by_itself(result)),
    };
    let result = match reason {
        Some(reason) if node.is_stopped_for_good() => Err(ServeError::MustNotComeBack(reason)),
        Some(reason) => Err(ServeError::Fatal(reason)),
        None => Ok(()),
    };
    tracing::info!("node stops");
    (told.stopping)(&result);
    if result.is_ok() {
        // The port is served meanwhile, because the new leader needs answers.
        tokio::select! {
            biased;
            () = node.say_goodbye() => {}
            result = &mut serving => return Err(ended_by_itself(result)),
        }
    }
    // A hung disk must not keep the process alive. Durable data stays durable.
    let _ = tokio::time::timeout(STOP_DEADLINE, node.stop()).await;
    let _ = end.send(());
    let _ = tokio::time::timeout(STOP_DEADLINE, serving).await;
    let _ = tokio::time::timeout(STOP_DEADLINE, host.stop()).await;
    leave_locked(&host, lock);
    result
}

/// Gives the listener the addresses of the cluster's nodes.
async fn know_nodes(member: Arc<Member>, connections: Connections) {
    loop {
        let addresses: Vec<String> = member.read(|catalogue| {
            let members = catalogue.nodes().filter(|node| node.admin != Admin::Removed);
            members.map(|node| node.address.clone()).collect()
        });
        let mut known = BTreeSet::new();
        for address in addresses {
            // A name that cannot be looked up now is tried again later. Meanwhile its node gets a
            // client's share.
            if let Ok(found) = tokio::net::lookup_host(&address).await {
                known.extend(found.map(|it| it.ip().to_canonical()));
            }
        }
        connections.set_nodes(known);
        tokio::time::sleep(NODES_LOOKUP).await;
    }
}

/// Releases the data directory, unless a job may still write there. In that case the directory
/// stays locked until the operating system has ended this process's last thread. So no other
/// process starts on a log that still changes.
fn leave_locked(host: &TokioHost, lock: DirectoryLock) {
    if host.jobs_running() > 0 {
        std::mem::forget(lock);
    }
}

fn ended_by_itself(result: Result<(), tonic::transport::Error>) -> ServeError {
    let text = result.err().map_or("ended by itself".to_owned(), |error| error.to_string());
    ServeError::Server(text)
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}
