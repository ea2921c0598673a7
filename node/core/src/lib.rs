//! Cairn's mind.
//!
//! Code in this crate decides and touches nothing: no runtime, socket, disk, clock or random
//! source. It is told the time and what was observed, and returns decisions.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`persistent`], [`segment_set`], [`pages`], [`sharded`] | collections that snapshots share with apply |
//! | [`digests`] | which segment has a digest |
//! | [`catalogue`] | the state machine: `apply`, reads; its stored form and its digest (`stored`) |
//! | [`retention`] | which checkpoints of a namespace its rules keep |
//! | [`placement`] | which nodes get a segment's slots |
//! | [`steward`] | what the leader should propose |
//! | [`work`] | what a node should fetch and destroy |
//! | [`voters`] | who should vote |
//! | [`invariants`] | the named promises, checked against a catalogue |
//!
//! The words it decides about (ids, records, commands) are in `cairn-types`.

pub mod digests;
pub mod pages;
pub mod persistent;
pub mod segment_set;
pub mod sharded;

pub mod catalogue;

pub mod invariants;
pub mod placement;
pub mod retention;
pub mod steward;
pub mod voters;
pub mod work;
