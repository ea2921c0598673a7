//! Production around the assembly: files, sockets, TLS, threads, and an orderly end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::dial::TcpDialer;
use cairn_proto::host::TokioHost;
use cairn_proto::seam::Env;
use cairn_proto::tls::ClusterKey;
use futures::future::BoxFuture;
use openraft_rt_tokio::TokioRuntime;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::config::NodeConfig;
use crate::disk::files::FileDisk;
use crate::ledger::SledLedger;
use crate::node::{self, Pieces, StartError};
use crate::raft::Engine;

/// Flow-control windows: a 32 MiB segment should not wait for window updates on a fast network,
/// and 48 streams of them stay within memory because handlers read as fast as the disk takes.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// One DATA frame carries a 256 KiB piece: fewer, larger frames cost less CPU.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Streams of one connection at once; beyond it the caller queues on its own side.
const CONNECTION_STREAMS_MAX: u32 = 1024;
/// Calls under way get this long to finish once the node is told to stop.
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
        "listening on {0} without a key would let anyone in: give --cluster-key FILE, or --insecure if you must"
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
    /// The node found that it must not go on.
    #[error("node stopped: {0}")]
    Fatal(String),
    /// Its data directory must not come back under its id.
    #[error("node stopped for good: {0}")]
    MustNotComeBack(String),
}

/// Runs a node until `stop` resolves or it must not go on. `ready` is called with the bound
/// address once the node serves.
///
/// Boxed, so that openraft's instances for production are compiled with this crate and not with
/// every binary that awaits it.
pub fn serve(
    config: ServeConfig,
    stop: BoxFuture<'static, ()>,
    ready: Box<dyn FnOnce(SocketAddr) + Send>,
) -> BoxFuture<'static, Result<(), ServeError>> {
    Box::pin(run(config, stop, ready))
}

async fn run(
    config: ServeConfig,
    stop: BoxFuture<'static, ()>,
    ready: Box<dyn FnOnce(SocketAddr) + Send>,
) -> Result<(), ServeError> {
    let ServeConfig { data, listen, key, insecure, node: node_config } = config;
    if !is_loopback(listen.ip()) && key.is_none() && !insecure {
        return Err(ServeError::OpenToAll(listen));
    }
    let data_error = |reason: String| ServeError::Data { path: data.clone(), reason };
    let disk = FileDisk::create(&data).map_err(|error| data_error(error.to_string()))?;
    let _lock = disk.lock().map_err(|error| data_error(error.to_string()))?;
    let listen_error = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;

    let host = TokioHost::new(tokio::runtime::Handle::current()).map_err(ServeError::Threads)?;
    let env =
        Env { runtime: Arc::clone(&host) as _, dialer: Arc::new(TcpDialer::new(key.clone())) };
    let ledger = SledLedger::open(&data).map_err(|error| data_error(error.to_string()))?;
    let (fatal, mut fatal_reason) = mpsc::channel::<String>(1);
    let pieces = Pieces {
        engine: Engine::over::<TokioRuntime>(),
        env,
        disk: Arc::new(disk),
        ledger: Arc::new(ledger),
        fatal: Arc::new(move |reason| {
            tracing::error!(%reason, "the node must stop");
            // Only the first reason is wanted.
            let _ = fatal.try_send(reason);
        }),
        usage: crate::process::usage,
        certificates: key.is_some(),
    };
    tokio::pin!(stop);
    let node = tokio::select! {
        biased;
        // A node may wait long for a cluster to join: it can be told to stop meanwhile.
        () = &mut stop => return Ok(()),
        node = node::start(pieces, node_config) => node?,
    };

    let mut server = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)));
    if let Some(key) = &key {
        server = server
            .tls_config(key.server_tls())
            .map_err(|error| ServeError::Tls(error.to_string()))?;
    }
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = server.add_routes(node.routes()).serve_with_incoming_shutdown(incoming, async {
        let _ = ended.await;
    });
    tokio::pin!(serving);
    tracing::info!(node = %node.id(), address = %bound, "node serves");
    ready(bound);
    let reason = tokio::select! {
        biased;
        reason = fatal_reason.recv() => Some(reason.unwrap_or_default()),
        () = &mut stop => None,
        result = &mut serving => {
            let text = result.err().map_or("ended by itself".to_owned(), |error| error.to_string());
            return Err(ServeError::Server(text));
        }
    };
    tracing::info!("node stops");
    // A disk that hangs must not keep the process: what is durable stays so.
    let _ = tokio::time::timeout(STOP_DEADLINE, node.stop()).await;
    let _ = end.send(());
    let _ = tokio::time::timeout(STOP_DEADLINE, serving).await;
    let _ = tokio::time::timeout(STOP_DEADLINE, host.stop()).await;
    match reason {
        Some(reason) if node.is_banished() => Err(ServeError::MustNotComeBack(reason)),
        Some(reason) => Err(ServeError::Fatal(reason)),
        None => Ok(()),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}
