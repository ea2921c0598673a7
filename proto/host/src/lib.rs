//! The seams that clients and nodes share, and their production side.
//!
//! | module | owns |
//! |---|---|
//! | [`seam`] | tasks, randomness, wall time, blocking work, dialing: replaced by the simulator |
//! | [`tokio_host`] | production: tokio tasks, lanes of blocking work, entropy, wall clock |
//! | [`jobs`] | the running blocking jobs, and how long each has run |
//! | [`dial`], [`tls`] | the production dialer, mutual TLS from the cluster key |
//! | [`credentials`] | the credentials that a client sends with each call |
//! | [`node_key`] | the key pair of a node: signed calls and reports |
//! | [`token`] | a caller's signed identity and rights |
//! | [`windows`] | HTTP/2 flow control of both sides |
//! | [`envelope`] | headers of every call, reasons of every refusal |

pub mod credentials;
pub mod dial;
pub mod envelope;
pub mod jobs;
pub mod node_key;
pub mod seam;
pub mod tls;
pub mod token;
pub mod tokio_host;
pub mod windows;
