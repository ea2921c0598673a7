//! The other members: calls to them, calls from them, and their statements.
//!
//! | module | owns |
//! |---|---|
//! | [`network`] | openraft's calls to one member |
//! | [`call_error`] | why a call failed |
//! | [`service`] | the calls that members make here |
//! | [`plausible`] | which of their statements can be true |
//! | [`refusals`] | how often one could not be true |
//! | [`promises`] | what each member says it holds durable (decision 0005) |
//! | [`papers`] | whether a member's directory may have a vote (decision 0018) |
//! | [`pace`] | measured round trips, and the time limits that follow from them |

pub(in crate::raft) mod call_error;
pub(in crate::raft) mod network;
pub(in crate::raft) mod pace;
pub(in crate::raft) mod papers;
pub(in crate::raft) mod plausible;
pub(in crate::raft) mod promises;
pub(in crate::raft) mod refusals;
pub(in crate::raft) mod service;
