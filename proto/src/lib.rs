//! Cairn's gRPC services.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | generated services; their messages are those of `cairn-types` |
//! | [`refused`] | refusals as gRPC statuses |

pub mod refused;

/// The path of every method of every service, sorted.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Generated from the services in `types/proto/cairn/v1/*.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    reason = "generated code"
)]
pub mod wire {
    pub use cairn_types::wire::*;

    tonic::include_proto!("cairn.v1");
}
