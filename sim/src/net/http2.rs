//! The same calls over real HTTP/2: a tonic channel and a hyper server, with a simulated
//! connection between them.
//!
//! ```text
//!   generated client -> Channel -> hyper -> [pipe: delay, pace, cuts, breaks] -> hyper -> Routes
//!      tasks of the caller's life                                  tasks of the target's life
//! ```
//!
//! Settings are production's (`cairn_host::dial`, `cairn_node::serve`). Two things differ. Every
//! task that tonic and hyper start belongs to a life, so that a crash ends it. The server sends no
//! `date` header, because that is read from the machine's clock.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::dial;
use cairn_host::seam::Transport;
use http::{Request, Uri};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tonic::transport::Endpoint;
use tonic::{Status, body::Body};
use tower::{ServiceExt, service_fn};

use super::{Endpoint as Answering, SimNet, pipe};
use crate::process::Life;
use crate::trace;
use cairn_host::windows;

const KEEPALIVE: Duration = Duration::from_secs(10);

/// Starts tasks for hyper and tonic as tasks of one life.
#[derive(Clone)]
struct Tasks(Arc<Life>);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn(task));
    }
}

/// A transport to `address`. Its first call connects, and it connects again after each loss.
pub(super) fn transport(net: &SimNet, from: &Arc<Life>, address: &str) -> Transport {
    let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let status = Status::invalid_argument(format!("malformed address: {error}"));
            return Transport::new(service_fn(move |_| std::future::ready(Err(status.clone()))));
        }
    };
    let endpoint = endpoint
        .executor(Tasks(from.clone()))
        .connect_timeout(dial::CONNECT_TIMEOUT)
        .initial_stream_window_size(windows::CLIENT.stream_bytes)
        .initial_connection_window_size(windows::CLIENT.connection_bytes)
        .max_frame_size(windows::CLIENT.frame_bytes_max)
        .http2_keep_alive_interval(dial::KEEPALIVE_INTERVAL)
        .keep_alive_timeout(dial::KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let (owner, caller, to): (SimNet, _, Arc<str>) = (net.clone(), from.clone(), address.into());
    let connector = {
        let (net, from, address) = (owner.clone(), caller.clone(), to.clone());
        service_fn(move |_: Uri| connect(net.clone(), from.clone(), address.clone()))
    };
    let channel = endpoint.connect_with_connector_lazy(connector);
    let unreachable = to.clone();
    let channel = channel.map_err(move |error| {
        Status::unavailable(format!("{unreachable} is unreachable: {}", chain(&error)))
    });
    Transport::new(channel.map_request(move |request: Request<Body>| {
        let number = owner.next_call();
        let path = request.uri().path();
        trace::count("net.calls", 1);
        trace::event(&caller.name, "call", format_args!("#{number} to {to} {path}"));
        request
    }))
}

/// The texts of an error's causes, because tonic's own text is only "transport error".
fn chain(error: &dyn Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}

/// One connection: one round trip, then bytes in both directions.
async fn connect(
    net: SimNet,
    from: Arc<Life>,
    address: Arc<str>,
) -> io::Result<TokioIo<DuplexStream>> {
    let refused = |text: &str| io::Error::new(io::ErrorKind::ConnectionRefused, text.to_owned());
    let owner = net.owner(&address).ok_or_else(|| refused("no such host"))?;
    cross(&net, from.process, owner).await?;
    let target = net.endpoint(&address);
    cross(&net, owner, from.process).await?;
    let Some(target) = target.filter(|target| !target.life.is_over()) else {
        trace::event("net", "refuse", format_args!("a connection at {address}"));
        trace::count("net.refused", 1);
        return Err(refused("connection refused"));
    };
    let (near, far) = pipe::join(&net, &from, &target.life);
    let life = target.life.clone();
    drop(life.spawn(serve(target, far)));
    Ok(TokioIo::new(near))
}

/// A lost handshake is sent again until the caller's own deadline.
async fn cross(
    net: &SimNet,
    from: crate::process::ProcessId,
    to: crate::process::ProcessId,
) -> io::Result<()> {
    while net.cross(from, to).await.is_err() {
        tokio::time::sleep(pipe::RESEND).await;
    }
    Ok(())
}

/// The target's half of a connection.
async fn serve(target: Answering, far: DuplexStream) {
    let Answering { life, routes } = target;
    let service = routes.map_request(|request: Request<Incoming>| request.map(Body::new));
    let connection = http2::Builder::new(Tasks(life.clone()))
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(windows::SERVER.stream_bytes)
        .initial_connection_window_size(windows::SERVER.connection_bytes)
        .max_frame_size(windows::SERVER.frame_bytes_max)
        .max_concurrent_streams(windows::CONNECTION_STREAMS_MAX)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(service));
    if let Err(error) = connection.await {
        trace::remark(&life.name, "log", format_args!("connection: {}", chain(&error)));
    }
}
