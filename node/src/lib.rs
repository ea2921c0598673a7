//! The Cairn server.
//!
//! # Layout
//! | module | owns |
//! |---|---|
//! | [`node`] | the assembly: opens everything, recovers, starts the loops |
//! | `origin` | a data directory's identity: known member, first node of a cluster, new member |
//! | [`serve`] | production: sockets, TLS, signals, files, threads around the assembly |
//! | [`service`] | gRPC and HTTP services |
//! | [`listener`] | connections: their number, their sources, their time without a request |
//! | `browsers` | rejects requests that only a web page sends |
//! | [`caller`], [`doors`] | who calls; every way in, and what a caller needs for it |
//! | [`guard`] | identity, certificates, whole requests and admission before every service |
//! | [`admission`], [`pace`] | permits that no single peer can use up; the slowest allowed stream |
//! | [`shared`] | the shared parts of a node, grouped by subject |
//! | [`upkeep`] | the loops: registration, heartbeats, own work, steward, members, health |
//! | [`health`] | the result of the last look at disk and listener |
//! | `standing` | whether a calling process may act for its node, or must stop |
//! | `key_file`, [`speech`] | the node's key; who speaks in a node's name |
//! | [`reporter`] | the node's reports about its replicas: durable, lost, removed |
//! | [`raft`] | openraft behind a small handle: log, snapshots, network |
//! | `remote` | a segment's blocks from another node, verified one by one |
//! | [`audit`] | the file of who did what, derived from the log |
//! | [`machine`] | the catalogue as Raft's state machine |
//! | [`store`] | segment files |
//! | [`counters`], [`waits`] | counters of this node's work, and its callers' waiting times |
//! | [`identity`] | the stored identity of a data directory |
//! | [`scrub`] | how far the scrub of this node is |
//! | [`ledger`] | statistics that may be lost |
//! | [`disk`] | the disk seam |
//! | [`fatal`] | how a part reports that the node must stop |

pub mod admission;
pub mod audit;
mod browsers;
pub mod caller;
pub mod clock;
pub mod config;
pub mod counters;
pub mod disk;
pub mod door;
pub mod doors;
pub mod fatal;
pub mod feed;
pub mod guard;
pub mod health;
mod hello;
pub mod identity;
mod key_file;
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
pub mod scrub;
pub mod serve;
pub mod service;
pub mod shared;
pub mod speech;
mod standing;
mod start_error;
pub mod store;
pub mod upkeep;
pub mod waits;
pub mod wake;
