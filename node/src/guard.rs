//! What stands before every service: identity, certificates, admission, deadlines.
//!
//! tonic keeps its own limits in its HTTP transport, which the simulator does not run, so ours
//! are a layer on the router: the same in both worlds.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use cairn_core::ids::{ClusterId, Lineage, NodeId};
use cairn_proto::envelope::{Identity, Reason, refuse};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Calls of one kind that run at once; one more is refused as `Busy`, not queued: the caller
/// backs off and the queue stays bounded.
const CONTROL_CALLS_MAX: usize = 2048;
/// Calls between nodes: reports and heartbeats must get through however many clients call.
const NODE_CALLS_MAX: usize = 512;
/// Segment streams at once: each holds a few MiB of buffers.
const STREAMS_MAX: usize = 48;
/// No control call takes longer, whatever its caller wished.
const CONTROL_DEADLINE: Duration = Duration::from_secs(120);

/// Who this node is and how much it admits.
#[derive(Clone)]
pub struct Guard {
    own: Identity,
    certificates: bool,
    control: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    nodes: Arc<Semaphore>,
}

impl Guard {
    /// `certificates`: every gRPC call must come over a connection with a client certificate.
    pub fn new(cluster: ClusterId, lineage: Lineage, node: NodeId, certificates: bool) -> Self {
        Self {
            own: Identity { cluster: Some(cluster), lineage: Some(lineage), node: Some(node) },
            certificates,
            control: Arc::new(Semaphore::new(CONTROL_CALLS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            nodes: Arc::new(Semaphore::new(NODE_CALLS_MAX)),
        }
    }

    fn admit(&self, request: &Request) -> Result<(), Status> {
        if self.certificates && !cairn_proto::tls::has_peer_certificate(request.extensions()) {
            return Err(Status::unauthenticated(
                "no client certificate: this cluster wants a cluster key",
            ));
        }
        let metadata = MetadataMap::from_headers(request.headers().clone());
        Identity::read(&metadata)?.check(&self.own)
    }
}

/// The layer itself. HTTP paths outside the gRPC packages pass untouched.
pub async fn layer(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let streams = path.starts_with("/cairn.v1.Segments/");
    let raft = path.starts_with("/cairn.v1.Raft");
    if !path.starts_with("/cairn.v1.") {
        return next.run(request).await;
    }
    let mut response = match guard.admit(&request) {
        Err(status) => status.into_http(),
        Ok(()) if raft => next.run(request).await,
        Ok(()) => {
            let lane = match path {
                _ if streams => &guard.streams,
                path if path.starts_with("/cairn.v1.Admin/") => &guard.nodes,
                _ => &guard.control,
            };
            match lane.try_acquire() {
                Err(_) => refuse(Reason::Busy, "too many calls at once").into_http(),
                Ok(_permit) if streams => next.run(request).await,
                Ok(_permit) => {
                    match tokio::time::timeout(CONTROL_DEADLINE, next.run(request)).await {
                        Ok(response) => response,
                        Err(_) => Status::deadline_exceeded("call took too long").into_http(),
                    }
                }
            }
        }
    };
    let mut metadata = MetadataMap::new();
    guard.own.write(&mut metadata);
    response.headers_mut().extend(metadata.into_headers());
    response
}
