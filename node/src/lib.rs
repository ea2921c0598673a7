//! The Cairn server.

pub mod disk;
pub mod raft;
