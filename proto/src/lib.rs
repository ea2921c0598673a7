//! Cairn's messages, services and stored forms, and the seams both sides of the wire share.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | generated messages and services |
//! | [`envelope`] | headers of every call, reasons of every refusal |
//! | [`convert`] | wire <-> `cairn-core`, where all validation happens |
//! | [`manifest`] | stored form of the list of a part's files |
//! | [`snapshot`] | stored form of a whole catalogue |
//! | [`seam`] | tasks, chance, wall time, blocking work, dialling |
//! | [`host`] | production: tokio tasks, lanes of blocking work, entropy, wall clock |
//! | [`dial`], [`tls`] | the production dialer, mutual TLS from the cluster key |

pub mod convert;
pub mod dial;
pub mod envelope;
pub mod host;
pub mod manifest;
pub mod seam;
pub mod snapshot;
pub mod tls;

/// Generated from `proto/cairn/v1/*.proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    reason = "generated code"
)]
pub mod wire {
    tonic::include_proto!("cairn.v1");
}
