//! The seams that clients and nodes share, and their production side.
//!
//! | module | owns |
//! |---|---|
//! | [`seam`] | tasks, chance, wall time, blocking work, dialing: what the simulator replaces |
//! | [`tokio_host`] | production: tokio tasks, lanes of blocking work, entropy, wall clock |
//! | [`jobs`] | which blocking jobs run, and for how long |
//! | [`dial`], [`tls`] | the production dialer, mutual TLS from the cluster key |
//! | [`credentials`] | what a client shows with each call |
//! | [`token`] | who a caller is and what it may do, signed |
//! | [`windows`] | HTTP/2 flow control of either side |
//! | [`envelope`] | headers of every call, reasons of every refusal |

pub mod credentials;
pub mod dial;
pub mod envelope;
pub mod jobs;
pub mod seam;
pub mod tls;
pub mod token;
pub mod tokio_host;
pub mod windows;
