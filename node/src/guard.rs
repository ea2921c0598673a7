//! What stands before every service: browsers, identity, certificates, whole requests, admission,
//! deadlines.
//!
//! ```text
//! no browser? who calls? --> the request, whole, in time, within its kind's size --> a permit --> the service
//! ```
//!
//! A request costs nothing but its bytes until it is whole: a permit that is taken earlier is held
//! by whoever sends half a request. tonic keeps its own limits in its HTTP transport, which the
//! simulator does not run, so ours are a layer on the router: the same in both worlds.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use cairn_host::envelope::{Identity, Reason, refuse};
use cairn_types::limits::{COMMAND_BYTES_MAX, MESSAGE_BYTES_MAX};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::admission::{Lane, Lanes, Peer};
use crate::browsers::{self, Local};
use crate::caller::{Caller, Callers};
use crate::doors::{self, Door};
use crate::listener::PeerInfo;
use crate::pace::Pace;

/// Calls of clients that run at once.
const CONTROL_CALLS_MAX: usize = 2048;
/// Calls between nodes: reports and heartbeats must get through however many clients call.
const NODE_CALLS_MAX: usize = 512;
/// Commands that other nodes pass on for clients that do not reach this node: counted apart, so
/// that they take neither the clients' share nor the nodes'.
const FORWARDED_CALLS_MAX: usize = 512;
/// Raft's calls between nodes: each node has a few to each other.
const RAFT_CALLS_MAX: usize = 1024;
/// Questions about segments that run at once. What readers and writers may hold is counted where
/// they are served.
const SEGMENT_CALLS_MAX: usize = 512;
/// Probes and scrapers.
const PROBES_MAX: usize = 64;
/// Requests at once that are not whole yet.
const ARRIVING_MAX: usize = 4096;
/// Their bytes, of clients and of nodes: a budget each, so that neither can take the other's.
const ARRIVING_BYTES_MAX: usize = 64 << 20;
/// The unit in which that budget is counted.
const BUDGET_UNIT_BYTES: usize = 1 << 10;
/// From its head until a request is whole: control messages are small, and come at once. A large
/// one over a slow link has as much longer as its bytes take (`pace`).
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// No control call takes longer, whatever its caller wished.
const CONTROL_DEADLINE: Duration = Duration::from_secs(120);
/// Health and metrics.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Largest message of a kind: what its largest use takes, and room. gRPC adds 5 bytes.
/// Messages without lists: heartbeats, votes, questions for a node's status or a read index.
const FIXED_BYTES_MAX: usize = 4 << 10;
const SMALL_BYTES_MAX: usize = 64 << 10;
const PROBE_BYTES_MAX: usize = 1 << 10;
/// A report of the most replicas, a Hello with the most nonces.
const NODE_BYTES_MAX: usize = 256 << 10;

/// What a call is, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// HTTP beside gRPC, and the standard health service.
    Probe,
    Catalogue,
    /// A client's command that another node passes on.
    Forwarded,
    /// Get and Suspect: small questions about segments.
    Segment,
    /// Put: a stream, whose service bounds it.
    SegmentStream,
    Node,
    Raft,
    /// A snapshot, whose service bounds it.
    RaftStream,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path {
            "/cairn.v1.Segments/Put" => Self::SegmentStream,
            "/cairn.v1.Raft/SendSnapshot" => Self::RaftStream,
            "/cairn.v1.Catalogue/ExecuteForwarded" => Self::Forwarded,
            path if path.starts_with("/cairn.v1.Segments/") => Self::Segment,
            path if path.starts_with("/cairn.v1.Raft") => Self::Raft,
            path if path.starts_with("/cairn.v1.Admin/") => Self::Node,
            path if path.starts_with("/cairn.v1.") => Self::Catalogue,
            _ => Self::Probe,
        }
    }

    /// The largest request of a call, bytes; `None` for a stream.
    fn bytes_max(self, path: &str) -> Option<usize> {
        match self {
            Self::Node | Self::Raft if has_no_lists(path) => Some(FIXED_BYTES_MAX),
            Self::SegmentStream | Self::RaftStream => None,
            Self::Probe => Some(PROBE_BYTES_MAX),
            Self::Segment => Some(SMALL_BYTES_MAX),
            Self::Node => Some(NODE_BYTES_MAX),
            Self::Forwarded => Some(2 * COMMAND_BYTES_MAX),
            Self::Catalogue if path.ends_with("/Execute") => Some(2 * COMMAND_BYTES_MAX),
            Self::Catalogue => Some(SMALL_BYTES_MAX),
            Self::Raft if path.ends_with("/Append") => Some(MESSAGE_BYTES_MAX),
            Self::Raft => Some(MESSAGE_BYTES_MAX / 4),
        }
    }

    /// How long the service may take; `None` where its own deadlines hold.
    fn deadline(self) -> Option<Duration> {
        match self {
            Self::SegmentStream | Self::RaftStream => None,
            Self::Probe => Some(PROBE_DEADLINE),
            _ => Some(CONTROL_DEADLINE),
        }
    }

    fn is_nodes(self) -> bool {
        matches!(self, Self::Node | Self::Forwarded | Self::Raft | Self::RaftStream)
    }
}

/// Calls between nodes whose messages have a fixed form.
fn has_no_lists(path: &str) -> bool {
    let method = path.rsplit('/').next().unwrap_or_default();
    matches!(
        method,
        "Heartbeat" | "NodeStatus" | "Vote" | "PreVote" | "TransferLeader" | "ReadIndex"
    )
}

/// Who this node is and how much it admits.
#[derive(Clone)]
pub struct Guard {
    own: Identity,
    callers: Callers,
    local: Option<Local>,
    probes: Lane,
    control: Lane,
    forwarded: Lane,
    segments: Lane,
    nodes: Lane,
    raft: Lane,
    arriving: Lane,
    /// Nodes' requests do not wait behind those of clients, nor behind probes, whose senders nobody
    /// has asked who they are.
    arriving_nodes: Lane,
    arriving_probes: Lane,
    clients_bytes: Arc<Semaphore>,
    nodes_bytes: Arc<Semaphore>,
}

impl Guard {
    /// `local`: it has no key and serves its own machine only.
    pub fn new(own: Identity, callers: Callers, local: Option<Local>, lanes: &Lanes) -> Self {
        let budget = || Arc::new(Semaphore::new(ARRIVING_BYTES_MAX / BUDGET_UNIT_BYTES));
        Self {
            own,
            callers,
            local,
            probes: lanes.open("probes", PROBES_MAX),
            control: lanes.open("calls", CONTROL_CALLS_MAX),
            forwarded: lanes.open("commands passed on", FORWARDED_CALLS_MAX),
            segments: lanes.open("calls for segments", SEGMENT_CALLS_MAX),
            nodes: lanes.open("calls between nodes", NODE_CALLS_MAX),
            raft: lanes.open("raft calls", RAFT_CALLS_MAX),
            arriving: lanes.open("requests on their way in", ARRIVING_MAX),
            arriving_nodes: lanes.open("requests of nodes on their way in", ARRIVING_MAX),
            arriving_probes: lanes.open("probes on their way in", PROBES_MAX),
            clients_bytes: budget(),
            nodes_bytes: budget(),
        }
    }

    /// `None` for streams: their services give permits once the first message is there.
    fn lane(&self, kind: Kind) -> Option<&Lane> {
        match kind {
            Kind::Probe => Some(&self.probes),
            Kind::Catalogue => Some(&self.control),
            Kind::Forwarded => Some(&self.forwarded),
            Kind::Segment => Some(&self.segments),
            Kind::Node => Some(&self.nodes),
            Kind::Raft => Some(&self.raft),
            Kind::SegmentStream | Kind::RaftStream => None,
        }
    }

    /// Who calls, and whether it may call at all.
    fn identify(&self, request: &Request, kind: Kind) -> Result<Caller, Status> {
        let (extensions, headers) = (request.extensions(), request.headers());
        let caller = self.callers.establish(extensions, headers)?;
        // Nobody learns what methods there are without a right to call one.
        let door = doors::door(request.uri().path()).unwrap_or(Door::Known);
        doors::admit(&caller, door, || self.callers.tokens_are_required())?;
        let metadata = MetadataMap::from_headers(headers.clone());
        Identity::read(&metadata)?.check(&self.own)?;
        match kind {
            Kind::Forwarded => self.callers.on_behalf(caller, extensions, headers),
            _ => Ok(caller),
        }
    }

    /// The same request with its whole body, and what that takes of the budget.
    async fn whole(
        &self,
        request: Request,
        kind: Kind,
        bytes_max: usize,
        peer: Option<Peer>,
    ) -> Result<(Request, Option<OwnedSemaphorePermit>), Status> {
        let arriving = match kind {
            Kind::Probe => &self.arriving_probes,
            kind if kind.is_nodes() => &self.arriving_nodes,
            _ => &self.arriving,
        };
        let _arriving = arriving.take(peer)?;
        // A command that a node passes on is a client's, and may be large.
        let is_nodes = kind.is_nodes() && kind != Kind::Forwarded;
        let budget = if is_nodes { &self.nodes_bytes } else { &self.clients_bytes };
        let (parts, body) = request.into_parts();
        let (bytes, held) = read_whole(body, bytes_max, budget).await?;
        Ok((Request::from_parts(parts, Body::from(bytes)), held))
    }

    async fn serve(&self, request: Request, next: Next) -> Result<Response, Status> {
        let path = request.uri().path().to_owned();
        let kind = Kind::of(&path);
        let mut request = request;
        if kind != Kind::Probe {
            let caller = self.identify(&request, kind)?;
            request.extensions_mut().insert(caller);
        }
        let peer = Peer::of(request.extensions());
        let (mut request, _held) = match kind.bytes_max(&path) {
            Some(bytes_max) => self.whole(request, kind, bytes_max, peer).await?,
            None => (request, None),
        };
        if let Some(connection) = PeerInfo::of(request.extensions()) {
            connection.has_asked();
        }
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let _permit = self.lane(kind).map(|lane| lane.take(peer)).transpose()?;
        match kind.deadline() {
            None => Ok(next.run(request).await),
            Some(deadline) => tokio::time::timeout(deadline, next.run(request))
                .await
                .map_err(|_| Status::deadline_exceeded("call took too long")),
        }
    }
}

/// All bytes of a body, in one piece, as they arrive within the budget.
async fn read_whole(
    mut body: Body,
    bytes_max: usize,
    budget: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Status> {
    let mut held: Option<OwnedSemaphorePermit> = None;
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut len = 0;
    let mut pace = Pace::new(REQUEST_DEADLINE);
    loop {
        let frame = pace.wait(body.frame()).await.ok_or_else(|| {
            Status::deadline_exceeded(format!("request not whole after {REQUEST_DEADLINE:?}"))
        })?;
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|error| Status::aborted(format!("request broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        len += data.len();
        pace.moved(data.len());
        // The prefix of a gRPC message on top.
        if len > bytes_max + 5 {
            return Err(Status::out_of_range(format!("request of {len} bytes: limit {bytes_max}")));
        }
        let units = u32::try_from(data.len().div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
        let more = Arc::clone(budget).try_acquire_many_owned(units).map_err(|_| {
            refuse(Reason::Busy, format!("bytes of requests at once: limit {ARRIVING_BYTES_MAX}"))
        })?;
        match &mut held {
            Some(held) => held.merge(more),
            None => held = Some(more),
        }
        // Most requests are one frame, which need not be copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            if !first.is_empty() {
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok((if whole.is_empty() { first } else { whole.freeze() }, held))
}

/// The layer itself.
pub async fn layer(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    if let Some(answer) = browsers::turned_away(&request, guard.local.as_ref()) {
        return answer;
    }
    let is_ours = Kind::of(request.uri().path()) != Kind::Probe;
    let content = request.headers().get(CONTENT_TYPE).map(|value| value.as_bytes());
    let is_grpc = is_ours || content.is_some_and(|it| it.starts_with(b"application/grpc"));
    let mut response = match guard.serve(request, next).await {
        Ok(response) => response,
        Err(status) if is_grpc => status.into_http(),
        // A probe over HTTP reads the status code.
        Err(status) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", status.message())).into_response()
        }
    };
    if is_ours {
        let mut metadata = MetadataMap::new();
        guard.own.write(&mut metadata);
        response.headers_mut().extend(metadata.into_headers());
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use futures::StreamExt;
    use tower::ServiceExt;

    use cairn_core::catalogue::Access;

    use super::*;
    use crate::caller::View;

    fn router(guard: &Guard) -> Router {
        let echo = |body: Bytes| async move { body };
        Router::new()
            .route("/cairn.v1.Catalogue/Status", post(echo))
            .route("/cairn.v1.Segments/Suspect", post(echo))
            .route("/cairn.v1.Raft/Vote", post(echo))
            .route("/cairn.v1.Raft/Append", post(echo))
            .route("/cairn.v1.Admin/Heartbeat", post(echo))
            .route("/grpc.health.v1.Health/Check", post(echo))
            .layer(axum::middleware::from_fn_with_state(guard.clone(), layer))
    }

    fn guard() -> Guard {
        let view = || View { access: Access::default(), required: false, wall_ms: 0 };
        let callers = Callers::new(false, view);
        Guard::new(Identity::default(), callers, None, &Lanes::default())
    }

    async fn ask(guard: &Guard, path: &str, body: Body) -> (Option<String>, Bytes) {
        let request = http::Request::post(path).version(http::Version::HTTP_2);
        let request = request.header(CONTENT_TYPE, "application/grpc").body(body).unwrap();
        let response = router(guard).oneshot(request).await.unwrap();
        let status = response.headers().get("grpc-status");
        let status = status.map(|value| value.to_str().unwrap().to_owned());
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    /// A body that never ends.
    fn half() -> Body {
        let first = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"half"))]);
        Body::from_stream(first.chain(futures::stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_holds_no_permit_and_not_for_long() {
        let guard = guard();
        let halves = (0..600).map(|_| ask(&guard, "/cairn.v1.Segments/Suspect", half()));
        let halves = futures::future::join_all(halves);
        let (answers, whole) = tokio::join!(halves, async {
            tokio::time::sleep(REQUEST_DEADLINE / 2).await;
            assert_eq!((guard.segments.taken(), guard.arriving.taken()), (0, 600));
            ask(&guard, "/cairn.v1.Segments/Suspect", Body::from("whole")).await
        });
        assert_eq!(whole, (None, Bytes::from_static(b"whole")));
        let deadline = tonic::Code::DeadlineExceeded as i32;
        assert!(answers.iter().all(|(status, _)| *status == Some(deadline.to_string())));
        assert_eq!(guard.arriving.taken(), 0);
        assert_eq!(guard.clients_bytes.available_permits() << 10, ARRIVING_BYTES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_longer_than_its_kind_is_refused_as_it_comes() {
        let guard = guard();
        let long = |bytes: usize| Body::from(vec![0; bytes]);
        let refused = Some((tonic::Code::OutOfRange as i32).to_string());
        let health = "/grpc.health.v1.Health/Check";
        assert_eq!(ask(&guard, health, long(PROBE_BYTES_MAX + 6)).await.0, refused);
        assert_eq!(ask(&guard, health, long(PROBE_BYTES_MAX)).await.0, None);
        let status = "/cairn.v1.Catalogue/Status";
        assert_eq!(ask(&guard, status, long(SMALL_BYTES_MAX + 6)).await.0, refused);
        for fixed in ["/cairn.v1.Raft/Vote", "/cairn.v1.Admin/Heartbeat"] {
            assert_eq!(ask(&guard, fixed, long(FIXED_BYTES_MAX + 6)).await.0, refused, "{fixed}");
            assert_eq!(ask(&guard, fixed, long(FIXED_BYTES_MAX)).await.0, None, "{fixed}");
        }
        assert_eq!(ask(&guard, "/cairn.v1.Raft/Append", long(1 << 20)).await.0, None);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_on_their_way_in_have_a_budget_of_bytes() {
        let guard = guard();
        let budget = Arc::new(Semaphore::new(4));
        let pieces = |count: usize| {
            let piece = Ok::<_, std::io::Error>(Bytes::from(vec![7; 1 << 10]));
            Body::from_stream(futures::stream::iter((0..count).map(move |_| {
                piece.as_ref().map(Bytes::clone).map_err(|_| std::io::Error::other("never"))
            })))
        };
        let (bytes, held) = read_whole(pieces(3), 1 << 20, &budget).await.unwrap();
        assert_eq!((bytes.len(), budget.available_permits()), (3 << 10, 1));
        let busy = read_whole(pieces(2), 1 << 20, &budget).await.unwrap_err();
        assert_eq!(Reason::of(&busy), Some(Reason::Busy));
        drop(held);
        assert_eq!(budget.available_permits(), 4);
        drop(guard);
    }
}
