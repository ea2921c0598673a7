//! Snapshots: files, the current one, and the transfer from one node to another.
//!
//! | module | owns |
//! |---|---|
//! | [`store`] | which file is current, and whether its bytes are sound |
//! | [`files`] | the stored form: written, synced, renamed, read back |
//! | [`restore`] | a file as a machine |
//! | [`send`], [`receive`] | a transfer in pieces, continued after a broken stream |

pub(in crate::raft) mod files;
pub(in crate::raft) mod receive;
pub(in crate::raft) mod restore;
pub(in crate::raft) mod send;
pub(in crate::raft) mod store;
