//! The Cairn server.
//!
//! # Layout
//! | module | owns |
//! |---|---|
//! | [`node`] | the assembly: opens everything, recovers, starts the loops |
//! | `origin` | who a data directory is at start: itself again, a new cluster's first, a new member |
//! | [`serve`] | production: sockets, TLS, signals, files, threads around the assembly |
//! | [`service`] | gRPC and HTTP services |
//! | [`listener`] | connections: how many, from whom, how long without a request |
//! | `browsers` | requests that only a web page sends |
//! | [`caller`], [`doors`] | who calls; every way in, and what a caller needs for it |
//! | [`guard`] | identity, certificates, whole requests and admission before every service |
//! | [`admission`], [`pace`] | permits that no peer can have all; how slow a stream may be |
//! | [`shared`] | what the parts of a node share, by what it is about |
//! | [`upkeep`] | the loops: registration, heartbeats, own work, steward, members, health |
//! | [`health`] | what the last look at disk and listener saw |
//! | `standing` | whether a process that calls may speak for its node, or must not go on |
//! | [`reporter`] | durable, lost, removed: what a node has to say of its replicas |
//! | [`raft`] | openraft behind a small handle: log, snapshots, network |
//! | `remote` | a segment's blocks from another node, verified one by one |
//! | [`machine`] | the catalogue as Raft's state machine |
//! | [`store`] | segment files |
//! | [`counters`], [`waits`] | what this node did, and how long its callers waited |
//! | [`identity`] | who a data directory is |
//! | [`ledger`] | statistics that may be lost |
//! | [`disk`] | the disk seam |
//! | [`fatal`] | how a part says that the node must stop |

pub mod admission;
mod browsers;
pub mod caller;
pub mod clock;
pub mod config;
pub mod counters;
pub mod disk;
pub mod door;
pub mod doors;
pub mod fatal;
pub mod guard;
pub mod health;
mod hello;
pub mod identity;
pub mod ledger;
pub mod listener;
pub mod machine;
pub mod node;
mod origin;
pub mod pace;
pub mod peers;
pub mod process;
pub mod raft;
mod remote;
pub mod reporter;
pub mod serve;
pub mod service;
pub mod shared;
mod standing;
mod start_error;
pub mod store;
pub mod upkeep;
pub mod waits;
pub mod wake;
