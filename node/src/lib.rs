//! The Cairn server.
//!
//! # Layout
//! | module | owns |
//! |---|---|
//! | [`node`] | the assembly: opens everything, recovers, starts the loops |
//! | `origin` | who a data directory is at start: itself again, a new cluster's first, a new member |
//! | [`serve`] | production: sockets, TLS, signals, files, threads around the assembly |
//! | [`service`] | gRPC and HTTP services |
//! | [`guard`] | identity, certificates and admission before every service |
//! | [`shared`] | what all parts of a node share |
//! | [`upkeep`] | the loops: registration, heartbeats, own work, steward, members |
//! | [`report`] | durable, lost, removed: what a node says of its replicas |
//! | [`raft`] | openraft behind a small handle: log, snapshots, network |
//! | [`machine`] | the catalogue as Raft's state machine |
//! | [`store`] | segment files |
//! | [`identity`] | who a data directory is |
//! | [`ledger`] | statistics that may be lost |
//! | [`disk`] | the disk seam |

pub mod clock;
pub mod config;
pub mod counters;
pub mod disk;
pub mod guard;
pub mod heard;
pub mod identity;
pub mod ledger;
pub mod machine;
pub mod node;
mod origin;
pub mod peers;
pub mod process;
pub mod raft;
pub mod report;
pub mod serve;
pub mod service;
pub mod shared;
pub mod store;
pub mod upkeep;
pub mod wake;
