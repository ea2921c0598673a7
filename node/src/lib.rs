//! The Cairn server.
//!
//! ## Layout
//!
//! - [`disk`]: the disk seam, and the production disk over files.
//! - [`store`]: segments on disk: received, verified, made durable, read, moved aside, destroyed.
//! - [`identity`]: which node this data directory is.
//! - [`ledger`]: statistics that may be lost: when a segment was verified, how often it was read.
//! - [`runtime`]: the production runtime: tasks, lanes for blocking work, chance, wall time.

pub mod disk;
pub mod identity;
pub mod ledger;
pub mod runtime;
pub mod store;
