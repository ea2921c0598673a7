//! Cairn's mind.
//!
//! Code in this crate decides and touches nothing: no runtime, socket, disk, clock or random
//! source. It is told the time and what was observed, and returns decisions.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`ids`], [`limits`], [`model`], [`command`] | the words, the bounds, the records, what Raft orders |
//! | [`blocks`] | verification of parts of a segment |
//! | [`id_set`], [`segment_set`], [`pages`], [`sharded`] | collections that snapshots share with apply |
//! | [`catalogue`] | the state machine: `apply`, reads, digest, loading |
//! | [`placement`] | which nodes get a segment's slots |
//! | [`steward`] | what the leader should propose |
//! | [`work`] | what a node should fetch and destroy |
//! | [`voters`] | who should vote |
//! | [`invariants`] | the named promises, checked against a catalogue |
//! | [`canary`](mod@canary) | deliberate defects that the simulator must find; off in every ordinary build |

pub mod canary;

pub mod ids;
pub mod limits;

pub mod model;

pub mod command;

pub mod blocks;

pub mod id_set;
pub mod pages;
pub mod segment_set;
pub mod sharded;

pub mod catalogue;

pub mod invariants;
pub mod placement;
pub mod steward;
pub mod voters;
pub mod work;
