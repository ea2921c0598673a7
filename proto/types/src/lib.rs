//! Cairn's words: what clients, nodes and the catalogue all speak of.
//!
//! No state machine, no IO, no runtime. A client needs this crate and never the catalogue.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`ids`], [`limits`], [`model`] | names and numbers, bounds, records |
//! | [`slots`] | the lists in a segment's record, in few bytes |
//! | [`marks`] | refs, holds, quarantine |
//! | [`command`] | what Raft orders: commands, replies, refusals, feature levels |
//! | [`policy`] | what a policy becomes by a change |
//! | [`audit`] | records of who did what, and the chain of them |
//! | [`event`] | what watchers are told |
//! | [`listing`] | which checkpoints a listing shows |
//! | [`progress`] | how far an open upload is |
//! | [`retention`] | rules that keep checkpoints |
//! | [`rights`] | subjects, their rights, and the namespaces these hold in |
//! | [`blocks`], [`set_digest()`] | verification of parts of a segment, and of a set of segments |
//! | [`form`] | how a segment's bytes are stored: codecs, and the lengths of stored blocks |
//! | [`id_set`] | a compact set of segment ids |
//! | [`wire`] | generated messages, sent and stored |
//! | [`convert`] | messages <-> types, where all validation happens |
//! | [`manifest`], [`union`] | the list of a part's files; whether parts fit into one directory |
//! | [`live_names`] | the same of parts that come and go |
//! | [`canary`](mod@canary) | deliberate defects that the simulator must find; off in every ordinary build |

pub mod canary;

pub mod ids;
pub mod limits;

pub mod marks;
pub mod model;
pub mod slots;

pub mod audit;
pub mod command;
pub mod event;
pub mod listing;
pub mod policy;
pub mod progress;
pub mod retention;
pub mod rights;

pub mod blocks;
pub mod form;
pub mod id_set;
mod set_digest;

pub mod convert;
pub mod live_names;
pub mod manifest;
mod trouble;
pub mod union;

pub use set_digest::set_digest;

/// Generated from `proto/cairn/v1/*.proto`; the services are in `cairn-proto`.
#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    reason = "generated code"
)]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/cairn.v1.rs"));
}
