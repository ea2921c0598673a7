//! What the end-to-end tests stand on: clusters of real node processes, runs of the binary with
//! a deadline, files to store, chance with a printed seed.
//!
//! | module | owns |
//! |---|---|
//! | [`cluster`] | a cluster of node processes in a temporary directory |
//! | [`command`] | one run of the binary: arguments in, exit code and words out |
//! | [`files`] | trees of files, made and compared |
//! | [`chance`] | random numbers from a seed that a failure prints |
//! | [`transcript`] | shell sessions as a document shows them, and what may differ when they run |
//! | [`wait`] | waiting for a condition, never for a time |

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "drives real processes from outside; nothing here runs in the simulator"
)]

pub mod chance;
pub mod cluster;
pub mod command;
pub mod files;
pub mod http;
pub mod transcript;
pub mod wait;
