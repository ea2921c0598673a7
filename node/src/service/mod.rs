//! The services of one node, as one router: gRPC and HTTP on one port.
//!
//! | module | serves |
//! |---|---|
//! | [`catalogue`] | clients' commands and linearizable reads |
//! | [`segments`] | segment bytes |
//! | [`admin`] | joining, hello, reports, heartbeats, a node's own status |
//! | [`http`] | `/healthz`, `/metrics` |

use std::sync::Arc;

use axum::Router;
use cairn_core::limits::{CATALOGUE_REPLY_BYTES_MAX, MESSAGE_BYTES_MAX};
use cairn_proto::wire::admin_server::AdminServer;
use cairn_proto::wire::catalogue_server::CatalogueServer;
use cairn_proto::wire::segments_server::SegmentsServer;
use tonic::service::Routes;

use crate::guard::{self, Guard};
use crate::shared::Shared;

pub mod admin;
pub mod catalogue;
mod hold;
pub mod http;
pub mod segments;

/// Builds the router: `raft` holds the consensus service's routes.
pub fn routes(shared: &Arc<Shared>, raft: Routes, guard: Guard) -> Routes {
    let catalogue = CatalogueServer::new(catalogue::Service::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CATALOGUE_REPLY_BYTES_MAX);
    let segments = SegmentsServer::new(segments::Service::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(admin::Service::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let grpc = raft
        .add_service(catalogue)
        .add_service(segments)
        .add_service(admin)
        .add_service(http::health_service(Arc::clone(shared)))
        .into_axum_router();
    let router: Router = grpc
        .merge(http::router(Arc::clone(shared)))
        .layer(axum::middleware::from_fn_with_state(guard, guard::layer));
    Routes::from(router)
}
