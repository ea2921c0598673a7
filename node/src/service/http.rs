//! HTTP beside gRPC: liveness and metrics; and the standard gRPC health service.

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

use super::metrics::metrics;
use super::ready;
use crate::shared::{Member, Shared};

/// A service's name is some tens of bytes.
const HEALTH_BYTES_MAX: usize = 1 << 10;

pub fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics)).with_state(shared)
}

/// What nobody serves: each caller is told in its own protocol.
pub async fn unknown(request: axum::extract::Request) -> axum::response::Response {
    let content = request.headers().get(CONTENT_TYPE).map(|value| value.as_bytes());
    if content.is_some_and(|value| value.starts_with(b"application/grpc")) {
        return Status::unimplemented("no such method").into_http();
    }
    (StatusCode::NOT_FOUND, "not found: here are gRPC, /healthz and /metrics\n").into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    match ready::why_not(&shared.member) {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

pub fn health_service(member: Arc<Member>) -> HealthServer<HealthService> {
    HealthServer::new(HealthService { member }).max_decoding_message_size(HEALTH_BYTES_MAX)
}

/// `grpc.health.v1`: the whole node under the empty service name.
pub struct HealthService {
    member: Arc<Member>,
}

impl HealthService {
    fn status(&self, service: &str) -> Result<HealthCheckResponse, Status> {
        if !service.is_empty() && !service.starts_with("cairn.v1.") {
            return Err(Status::not_found(format!("no service {service}")));
        }
        let status = if ready::is_ready(&self.member) {
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
