//! HTTP beside gRPC: liveness and metrics; and the standard gRPC health service.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::admin::node_status;
use crate::shared::Shared;

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(shared)
}

/// Serving: registered, and a leader is known.
fn is_healthy(shared: &Shared) -> bool {
    shared.incarnation().is_some() && shared.consensus.leader().is_some()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if is_healthy(&shared) {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let registered = shared.incarnation().is_some();
        let leader = shared.consensus.leader().is_some();
        let text = format!("not ready: registered {registered}, leader known {leader}\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], render(&shared).await)
}

/// Prometheus text format 0.0.4.
async fn render(shared: &Shared) -> String {
    let status = node_status(shared).await;
    let summary = shared.copy().summary();
    let counters = &shared.counters;
    let rows: [(&str, &str, &str, u64); 27] = [
        ("up", "gauge", "1 when registered and a leader is known", is_healthy(shared).into()),
        ("leader", "gauge", "1 on the leader", shared.consensus.is_leader().into()),
        ("raft_term", "gauge", "Raft term", status.term),
        ("raft_applied_index", "gauge", "applied log index", status.applied_index),
        ("segments_held", "gauge", "durable segments on this node", status.segments_held),
        ("segment_bytes_held", "gauge", "their bytes on disk", status.bytes_held),
        ("segments_received_total", "counter", "segments from clients", status.segments_received),
        ("segment_bytes_received_total", "counter", "bytes from clients", status.bytes_received),
        ("segment_bytes_served_total", "counter", "bytes to readers", status.bytes_served),
        ("segments_fetched_total", "counter", "segments by catch-up", status.segments_fetched),
        ("segment_bytes_fetched_total", "counter", "bytes by catch-up", status.bytes_fetched),
        ("segments_destroyed_total", "counter", "files removed", counters.segments_destroyed.get()),
        ("segments_quarantined_total", "counter", "files set aside", status.segments_quarantined),
        (
            "segments_recovered_total",
            "counter",
            "taken back from quarantine",
            counters.segments_recovered.get(),
        ),
        (
            "suspects_confirmed_total",
            "counter",
            "bad replicas found",
            counters.suspects_confirmed.get(),
        ),
        ("reports_sent_total", "counter", "report batches", counters.reports_sent.get()),
        (
            "reports_refused_total",
            "counter",
            "reports with a stale epoch",
            counters.reports_refused.get(),
        ),
        ("available_bytes", "gauge", "room for segment data", status.available_bytes),
        ("capacity_bytes", "gauge", "configured capacity", status.total_bytes),
        ("slots_assigned", "gauge", "slots without a durable file yet", status.fetches_pending),
        ("process_cpu_ms_total", "counter", "CPU time", status.cpu_ms),
        ("process_resident_peak_bytes", "gauge", "peak resident memory", status.rss_peak_bytes),
        ("checkpoints_committed", "gauge", "committed checkpoints", summary.checkpoints_committed),
        ("checkpoints_open", "gauge", "uploads in progress", summary.checkpoints_open),
        ("cluster_segments", "gauge", "segment records", summary.segments),
        (
            "cluster_segments_below_replicas",
            "gauge",
            "with fewer than R that count",
            summary.segments_below,
        ),
        (
            "cluster_segments_unavailable",
            "gauge",
            "with none that counts",
            summary.segments_unavailable,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in rows {
        let _ = write!(
            text,
            "# HELP cairn_{name} {help}\n# TYPE cairn_{name} {kind}\ncairn_{name}{{node=\"{}\"}} {value}\n",
            status.node
        );
    }
    text
}

pub fn health_service(shared: Arc<Shared>) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { shared })
}

/// `grpc.health.v1`: the whole node under the empty service name.
pub struct HealthService {
    shared: Arc<Shared>,
}

impl HealthService {
    fn status(&self, service: &str) -> Result<HealthCheckResponse, Status> {
        if !service.is_empty() && !service.starts_with("cairn.v1.") {
            return Err(Status::not_found(format!("no service {service}")));
        }
        let status = if is_healthy(&self.shared) {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(HealthCheckResponse { status: status.into() })
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.status(&request.into_inner().service).map(Response::new)
    }

    type WatchStream = tokio_stream::Once<Result<HealthCheckResponse, Status>>;

    /// One answer: callers poll.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let answer = self.status(&request.into_inner().service)?;
        Ok(Response::new(tokio_stream::once(Ok(answer))))
    }
}
