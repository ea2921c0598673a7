//! The pure decision logic of Cairn.
//!
//! Code in this crate decides and does no IO: it has no runtime, socket, disk, clock or random
//! source. It receives the time and the observations, and returns decisions.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`persistent`], [`segment_set`], [`pages`], [`sharded`] | collections that snapshots share with apply |
//! | [`digests`] | finds the segment of a digest |
//! | [`catalogue`] | the state machine: `apply`, reads; its stored form and its digest (`stored`) |
//! | [`retention`] | which checkpoints of a namespace its rules keep |
//! | [`placement`] | which nodes get a segment's slots |
//! | [`steward`] | the leader's proposals |
//! | [`drain`] | what a drain of a node would move, and where to |
//! | [`work`] | the fetches and destructions of a node |
//! | [`scrub`] | which replicas a node reads again, and how fast |
//! | [`voters`] | the choice of voters |
//! | [`invariants`] | the named promises, checked against a catalogue |
//!
//! The types that it decides about (ids, records, commands) are in `cairn-types`.

pub mod digests;
pub mod pages;
pub mod persistent;
pub mod segment_set;
pub mod sharded;

pub mod catalogue;

pub mod drain;
pub mod invariants;
pub mod placement;
pub mod retention;
pub mod scrub;
pub mod steward;
pub mod voters;
pub mod work;
