//! Connections: how many, from whom, and for how long without a request.
//!
//! ```text
//! accept --> admit: below the cap? the peer's share? --no--> closed at once
//!   |  no descriptors left: wait, and say so (health)
//!   v
//! Connection: closed unless its first request is there in time; its place is free when it ends
//! ```
//!
//! Each connection is a descriptor. The cap leaves a reserve for files and for this node's own
//! connections to others, so that neither a commit nor a segment ever lacks one. Before TLS is
//! through nobody knows who calls: addresses of the cluster's nodes have a part for themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, timeout};
use tonic::transport::server::{Connected, TlsConnectInfo};

use crate::health::Health;

/// Connections at once, if descriptors allow: each costs some tens of KiB.
const CONNECTIONS_MAX: usize = 16_384;
/// Descriptors for everything else: segment files being read and written (some 200), log,
/// snapshots, ledger, and connections to a hundred other nodes.
const DESCRIPTORS_RESERVED: u64 = 384;
/// With few descriptors connections get this part of them.
const FEW_DESCRIPTORS_PART: u64 = 4;
/// Of the connections, the part that only addresses of the cluster's nodes get: one in this many.
const NODES_PART: usize = 8;
/// The share that one address has which is no node's: one in this many.
const ADDRESS_PART: usize = 4;
/// From accept until the first request is there: TLS takes 2 s at most, and clients connect when
/// they have something to ask.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept: a connection that waits is accepted soon after a descriptor is
/// free, and until then the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// If nobody calls for this long, nobody waits to be accepted.
const ACCEPT_LOOK: Duration = Duration::from_secs(1);

/// Connections that this process may have, with the descriptors it may have.
pub fn connections_max(descriptors: u64) -> usize {
    let few = descriptors / FEW_DESCRIPTORS_PART;
    let most = descriptors.saturating_sub(DESCRIPTORS_RESERVED).max(few).max(1);
    usize::try_from(most).unwrap_or(usize::MAX).min(CONNECTIONS_MAX)
}

/// The table of all connections. Cheap to clone; all clones share one table.
#[derive(Debug, Clone)]
pub struct Connections {
    max: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
    /// Addresses of the cluster's nodes.
    nodes: BTreeSet<IpAddr>,
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// There are too many.
    Full,
    /// This address has its share.
    Share,
}

impl Connections {
    pub fn new(max: usize) -> Self {
        Self { max, state: Arc::default() }
    }

    /// Where the cluster's nodes call from.
    pub fn set_nodes(&self, nodes: BTreeSet<IpAddr>) {
        self.state.lock().nodes = nodes;
    }

    pub fn count(&self) -> usize {
        self.state.lock().all
    }

    /// Whether no connection would be admitted, not even a node's.
    fn is_full(&self) -> bool {
        self.count() >= self.max
    }

    /// A place for a connection from `address`.
    pub fn admit(&self, address: IpAddr) -> Result<Place, Refused> {
        let mut state = self.state.lock();
        let is_node = state.nodes.contains(&address);
        let held = state.by_address.get(&address).copied().unwrap_or(0);
        let most = if is_node { self.max } else { self.max - self.max / NODES_PART };
        if state.all >= most {
            return Err(Refused::Full);
        }
        // Whatever comes from this machine comes from one address.
        if !is_node && !address.is_loopback() && held >= (self.max / ADDRESS_PART).max(1) {
            return Err(Refused::Share);
        }
        state.all += 1;
        state.by_address.insert(address, held + 1);
        Ok(Place { connections: self.clone(), address })
    }
}

/// A connection's place; free again once this is dropped.
#[derive(Debug)]
pub struct Place {
    connections: Connections,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.connections.state.lock();
        state.all -= 1;
        if let Some(held) = state.by_address.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

/// What a request knows of the connection it came over.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    pub address: SocketAddr,
    /// A whole request has come over it.
    asked: Arc<AtomicBool>,
}

impl PeerInfo {
    /// Of a request's connection. A simulated one has none.
    pub fn of(extensions: &http::Extensions) -> Option<&Self> {
        let behind_tls = extensions.get::<TlsConnectInfo<Self>>();
        behind_tls.map(TlsConnectInfo::get_ref).or_else(|| extensions.get::<Self>())
    }

    /// Of a connection from `address`, for tests of what asks for one.
    #[cfg(test)]
    pub fn at(address: SocketAddr) -> Self {
        Self { address, asked: Arc::default() }
    }

    /// It is not closed for want of a request any more.
    pub fn has_asked(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// One accepted connection.
pub struct Connection {
    stream: TcpStream,
    peer: PeerInfo,
    /// Until the first request; `None` once it is there.
    waits: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Connection {
    fn new(stream: TcpStream, address: SocketAddr, place: Place) -> Self {
        let peer = PeerInfo { address, asked: Arc::default() };
        let waits = Some(Box::pin(tokio::time::sleep(FIRST_REQUEST_MAX)));
        Self { stream, peer, waits, _place: place }
    }

    /// An error once the first request is overdue.
    fn overdue(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(waits) = &mut self.waits else { return Ok(()) };
        if self.peer.asked.load(Ordering::Relaxed) {
            self.waits = None;
        } else if waits.as_mut().poll(cx).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no request in time"));
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.overdue(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Connections as they are admitted, for as long as anybody listens.
pub fn incoming(
    listener: TcpListener,
    connections: Connections,
    health: Arc<Health>,
) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, Warned::default()), move |(listener, mut warned)| {
        let (connections, health) = (connections.clone(), Arc::clone(&health));
        async move {
            let connection = next(&listener, &connections, &health, &mut warned).await;
            Some((Ok(connection), (listener, warned)))
        }
    })
}

/// When something was last said, so that it is not said a thousand times a second.
#[derive(Debug, Default)]
struct Warned(Option<Instant>);

impl Warned {
    const PAUSE: Duration = Duration::from_secs(10);

    fn may_say(&mut self) -> bool {
        let may = self.0.is_none_or(|at| at.elapsed() > Self::PAUSE);
        if may {
            self.0 = Some(Instant::now());
        }
        may
    }
}

async fn next(
    listener: &TcpListener,
    connections: &Connections,
    health: &Health,
    warned: &mut Warned,
) -> Connection {
    loop {
        let accepted = match timeout(ACCEPT_LOOK, listener.accept()).await {
            Ok(accepted) => accepted,
            // Nobody waits.
            Err(_) => {
                if !connections.is_full() {
                    health.accepts(true);
                }
                continue;
            }
        };
        let (stream, address) = match accepted {
            // An IPv4 peer of a dual-stack listener is known by its IPv4 address.
            Ok((stream, address)) => {
                (stream, SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            Err(error) => {
                if !is_peers_fault(&error) {
                    health.accepts(false);
                    if warned.may_say() {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        match connections.admit(address.ip()) {
            Ok(place) => {
                health.accepts(true);
                // Latency only: a connection without it works.
                let _ = stream.set_nodelay(true);
                return Connection::new(stream, address, place);
            }
            Err(refused) => {
                // Closed at once: who called tries elsewhere.
                drop(stream);
                // Places that only nodes get may be left: then the node does its work.
                if refused == Refused::Full && connections.is_full() {
                    health.accepts(false);
                }
                if warned.may_say() {
                    let count = connections.count();
                    tracing::warn!(%address, ?refused, count, "connection refused");
                }
            }
        }
    }
}

/// The connection was gone before it was accepted: the next one may be there.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn descriptors_are_left_for_files_and_peers() {
        assert_eq!(connections_max(1024), 640);
        assert_eq!(connections_max(256), 64);
        assert_eq!(connections_max(1 << 20), CONNECTIONS_MAX);
        assert_eq!(connections_max(0), 1);
    }

    #[test]
    fn one_address_cannot_have_all_places_and_nodes_keep_theirs() {
        let connections = Connections::new(64);
        connections.set_nodes(BTreeSet::from([address(1)]));
        let stranger: Vec<_> = (0..16).map(|_| connections.admit(address(9)).unwrap()).collect();
        assert_eq!(connections.admit(address(9)).unwrap_err(), Refused::Share);
        let others: Vec<_> =
            (0..40).map(|number| connections.admit(address(10 + number)).unwrap()).collect();
        assert_eq!(connections.admit(address(99)).unwrap_err(), Refused::Full);
        let nodes: Vec<_> = (0..8).map(|_| connections.admit(address(1)).unwrap()).collect();
        assert_eq!(connections.admit(address(1)).unwrap_err(), Refused::Full);
        drop((stranger, others, nodes));
        assert_eq!(connections.count(), 0);
        assert!(connections.state.lock().by_address.is_empty());
    }

    async fn pair(connections: &Connections) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let health = Health::default();
        let accepted = next(&listener, connections, &health, &mut Warned::default()).await;
        (client, accepted)
    }

    #[tokio::test]
    async fn a_connection_without_a_request_is_closed_and_one_with_a_request_is_not() {
        use tokio::io::AsyncReadExt;
        let connections = Connections::new(2);
        let (_silent, mut silent_here) = pair(&connections).await;
        let (_asked, mut asked_here) = pair(&connections).await;
        asked_here.peer.has_asked();
        tokio::time::pause();
        let late = silent_here.read_u8().await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let reads = tokio::time::timeout(FIRST_REQUEST_MAX * 3, asked_here.read_u8()).await;
        assert!(reads.is_err(), "a connection in use was closed: {reads:?}");
        drop(silent_here);
        assert_eq!(connections.count(), 1);
    }
}
