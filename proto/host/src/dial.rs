//! The production [`Dialer`]: HTTP/2 over TCP, with the cluster's TLS if there is a key.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_types::ids::check_host_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::{ServiceExt, service_fn};

use crate::credentials::is_loopback;
use crate::envelope::{Reason, refuse};
use crate::seam::{Dialer, Transport};
use crate::tls::{ClusterKey, Trust};
use crate::windows;

/// Time limit for a TCP connection, and again for a TLS handshake. A node that takes longer is
/// skipped, and another one is used.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Probe interval of a connection, and the time without an answer after which it is closed. A peer
/// that lost power does not close its connections.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Dials `host:port` over TCP. Must be used within a tokio runtime.
#[derive(Debug, Clone)]
pub struct TcpDialer {
    tls: Option<Trust>,
}

impl TcpDialer {
    /// With a key every connection is mutual TLS. Without a key no connection is.
    pub fn new(tls: Option<ClusterKey>) -> Self {
        Self { tls: tls.map(Trust::Key) }
    }

    /// With the authority alone connections are TLS, and this end is nobody.
    pub fn trusting(tls: Option<Trust>) -> Self {
        Self { tls }
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        check_host_port(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|error| {
            Status::invalid_argument(format!("malformed address {address:?}: {error}"))
        })?;
        let mut endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(windows::CLIENT.stream_bytes)
            .initial_connection_window_size(windows::CLIENT.connection_bytes)
            .max_frame_size(windows::CLIENT.frame_bytes_max)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if let Some(trust) = &self.tls {
            endpoint = endpoint
                .tls_config(trust.client_tls())
                .map_err(|error| Status::internal(format!("set up TLS: {}", chain(&error))))?;
        }
        Ok(endpoint.connect_lazy())
    }
}

impl Dialer for TcpDialer {
    fn is_private(&self, address: &str) -> bool {
        self.tls.is_some() || is_loopback(address)
    }

    fn dial(&self, address: &str) -> Transport {
        let address = address.to_owned();
        match self.channel(&address) {
            Ok(channel) => {
                let keyed = self.tls.is_some();
                let answered = Arc::new(AtomicBool::new(false));
                let named = address.clone();
                let channel = channel.map_err(move |error| {
                    Status::unavailable(format!("{named} is unreachable: {}", chain(&error)))
                });
                Transport::new(channel.map_future(move |call| {
                    let (address, answered) = (address.clone(), Arc::clone(&answered));
                    async move {
                        match call.await {
                            // A server that has answered before has the same key.
                            Err(status) if !answered.load(Ordering::Relaxed) => {
                                Err(explain(&address, keyed, status).await)
                            }
                            Err(status) => Err(status),
                            Ok(response) => {
                                answered.store(true, Ordering::Relaxed);
                                Ok::<_, Status>(response)
                            }
                        }
                    }
                }))
            }
            Err(status) => {
                Transport::new(service_fn(move |_| std::future::ready(Err(status.clone()))))
            }
        }
    }
}

/// Finds out why a new connection failed. The two ends may not hold the same key, and neither TLS
/// nor HTTP/2 reports that.
async fn explain(address: &str, keyed: bool, status: Status) -> Status {
    let text = status.message();
    if text.contains("invalid peer certificate") {
        return refuse(Reason::Key, format!("{address} holds another cluster key: {text}"));
    }
    // No node is there.
    if text.contains("tcp connect") || text.contains("dns error") {
        return status;
    }
    match (keyed, speech(address).await) {
        (false, Some(Speech::Tls)) => refuse(
            Reason::Key,
            format!("{address} wants a cluster key or a token, and none is given"),
        ),
        (true, Some(Speech::Plain)) => {
            refuse(Reason::Key, format!("{address} uses no cluster key, and one is given"))
        }
        _ => status,
    }
}

/// The protocol of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speech {
    Tls,
    Plain,
}

/// Sends a request without TLS. A TLS server answers with an alert, any other server with HTTP.
async fn speech(address: &str) -> Option<Speech> {
    const ALERT: u8 = 0x15;
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.ok()?;
        match stream.read_u8().await.ok()? {
            ALERT => Some(Speech::Tls),
            // HTTP/1, or the head of an HTTP/2 frame.
            b'H' | 0 => Some(Speech::Plain),
            _ => None,
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, ask).await.ok().flatten()
}

/// The texts of an error and its causes, each once. tonic's own text is only "transport error".
fn chain(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

#[cfg(test)]
mod tests;
