//! Cairn's mind.
//!
//! Code in this crate decides and touches nothing: no runtime, socket, disk, clock or random
//! source. It is told the time and what was observed, and returns decisions.

pub mod blocks;
pub mod command;
pub mod ids;
pub mod limits;
pub mod model;
