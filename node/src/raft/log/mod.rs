//! The log and the vote: in a file of redb, with the newest entries in memory.
//!
//! | module | owns |
//! |---|---|
//! | [`store`] | openraft's storage interface: one commit per batch, flushed first |
//! | [`memory`] | entries and votes as they are appended, and how far they are flushed |
//! | [`file`] | the stored form, checked when it is opened |

pub(in crate::raft) mod file;
pub(in crate::raft) mod memory;
pub(in crate::raft) mod store;
