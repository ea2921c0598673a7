//! The production [`Dialer`]: HTTP/2 over TCP, with the cluster's TLS where it has a key.

use std::error::Error;
use std::time::Duration;

use http::uri::Authority;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tower::{ServiceExt, service_fn};

use crate::seam::{Dialer, Transport};
use crate::tls::ClusterKey;

/// For a TCP connection, and again for a TLS handshake: a node that takes longer is not worth
/// waiting for, another one will do.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Unread bytes of one HTTP/2 stream, and of a connection: enough that a fast link between racks
/// stays full, and that one slow reader does not stop the others. Servers use the same.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Largest HTTP/2 frame accepted: a whole 1 MiB block.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A connection is probed this often, and given up without an answer for this long: a peer that
/// lost power closes nothing.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Dials `host:port` over TCP. Must be used within a tokio runtime.
#[derive(Debug, Clone)]
pub struct TcpDialer {
    tls: Option<ClusterKey>,
}

impl TcpDialer {
    /// With a key every connection is mutual TLS, without one none is.
    pub fn new(tls: Option<ClusterKey>) -> Self {
        Self { tls }
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let malformed =
            |what: &str| Status::invalid_argument(format!("malformed address {address:?}: {what}"));
        let authority: Authority =
            address.parse().map_err(|_| malformed("wants host:port, such as node1:7100"))?;
        if authority.host().is_empty() || authority.port_u16().is_none() || address.contains('@') {
            return Err(malformed("wants host:port, such as node1:7100"));
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{authority}"))
            .map_err(|error| malformed(&error.to_string()))?;
        let mut endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if let Some(key) = &self.tls {
            endpoint = endpoint
                .tls_config(key.client_tls())
                .map_err(|error| Status::internal(format!("set up TLS: {}", chain(&error))))?;
        }
        Ok(endpoint.connect_lazy())
    }
}

impl Dialer for TcpDialer {
    fn dial(&self, address: &str) -> Transport {
        let address = address.to_owned();
        match self.channel(&address) {
            Ok(channel) => Transport::new(channel.map_err(move |error| {
                Status::unavailable(format!("{address} is unreachable: {}", chain(&error)))
            })),
            Err(status) => {
                Transport::new(service_fn(move |_| std::future::ready(Err(status.clone()))))
            }
        }
    }
}

/// An error and what caused it, each text once; tonic's own is only "transport error".
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
