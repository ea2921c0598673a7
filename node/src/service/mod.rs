//! The services of one node, as one router: gRPC and HTTP on one port.
//!
//! | module | serves |
//! |---|---|
//! | [`catalogue`] | clients' commands and linearizable reads |
//! | `forward` | a client's command, passed on to the leader |
//! | `listing` | pages of checkpoints, places of segments, nodes |
//! | `usage` | what namespaces take |
//! | `watch` | what happens to checkpoints, to those who wait for it |
//! | `labels` | wall-clock labels that lie in the future |
//! | `seal` | the leader's part of a seal: no commit that cannot be restored |
//! | [`segments`] | segment bytes |
//! | [`admin`] | joining, hello, reports, heartbeats, a node's own status |
//! | `shown` | what a caller is shown of checkpoints, segments and nodes |
//! | `tokens` | issuers of tokens, and tokens that were revoked |
//! | `retention` | policies, plans of retention, runs of it that wait |
//! | `quarantine` | an operator's look into quarantine, and the way back out of it |
//! | `audit` | pages of the audit, and the check of its chain |
//! | `scrub` | an operator's word to this node's scrub, and how far it is |
//! | `ready` | (nothing: whether this node serves, for those that say so) |
//! | [`http`] | `/healthz`, `/metrics` |

use std::sync::Arc;

use axum::Router;
use cairn_proto::wire::admin_server::AdminServer;
use cairn_proto::wire::catalogue_server::CatalogueServer;
use cairn_proto::wire::segments_server::SegmentsServer;
use cairn_types::limits::{CATALOGUE_REPLY_BYTES_MAX, MESSAGE_BYTES_MAX};
use tonic::service::Routes;

use crate::guard::{self, Guard};
use crate::shared::Shared;

pub mod admin;
mod audit;
pub mod catalogue;
mod draining;
mod forward;
pub mod http;
mod labels;
mod listing;
mod marks;
mod metrics;
mod quarantine;
mod ready;
mod retention;
mod scrub;
mod seal;
pub mod segments;
mod shown;
mod tokens;
mod usage;
mod watch;

/// Builds the router: `raft` holds the consensus service's routes.
pub fn routes(shared: &Arc<Shared>, raft: Routes, guard: Guard) -> Routes {
    let catalogue = CatalogueServer::new(catalogue::Service::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CATALOGUE_REPLY_BYTES_MAX);
    let segments = SegmentsServer::new(segments::Service::new(
        Arc::clone(&shared.replicas),
        shared.waits.clone(),
        &shared.lanes,
    ))
    .max_decoding_message_size(MESSAGE_BYTES_MAX)
    .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(admin::Service::new(Arc::clone(shared)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let grpc = raft
        .add_service(catalogue)
        .add_service(segments)
        .add_service(admin)
        .add_service(http::health_service(Arc::clone(&shared.member)))
        .into_axum_router();
    let router: Router = grpc
        .merge(http::router(Arc::clone(shared)))
        .fallback(http::unknown)
        .layer(axum::middleware::from_fn_with_state(guard, guard::layer));
    Routes::from(router)
}
