//! Cairn's messages, services and stored forms, and the seams both sides of the wire share.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | generated messages and services |
//! | [`envelope`] | headers of every call, reasons of every refusal |
//! | [`convert`] | wire <-> `cairn-core`, where all validation happens |
//! | [`seam`] | tasks, chance, wall time, blocking work, dialling |

pub mod convert;
pub mod envelope;
pub mod seam;

/// Generated from `proto/cairn/v1/*.proto`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod wire {
    tonic::include_proto!("cairn.v1");
}
