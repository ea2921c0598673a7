//! The loops that maintain a node and, on the leader, the cluster.
//!
//! All work is derived from the applied catalogue, so nothing is lost with a process. Each loop
//! wakes when rung or once a period, asks a pure planner of `cairn-core` for the work, does it, and
//! looks again.
//!
//! | module | runs on | does |
//! |---|---|---|
//! | [`register`] | every node, once | registration, inventory |
//! | [`heartbeat`] | every node | tells the leader that it is up, learns of its own removal |
//! | [`own_work`] | every node | catch-up fetches, destroying released files, deriving reports |
//! | [`report`] | every node | sends the node's reports about its replicas |
//! | [`compare`] | every node | slow comparison of slots, index and files: gives up missing ones |
//! | [`scrub`] | every node | reads each replica again, slowly |
//! | [`steward`] | the leader | liveness, expiry, retention, reap, repair slots |
//! | [`members`] | the leader | learners, voters, removed nodes |
//! | [`candidates`], [`leaving`] | the leader, when asked | possible voters; removal of a node |
//! | [`health`] | every node | whether disk and listener answer; the actions of an unfit node |
//! | `accused` | every node | a peer says that this process must stop: the others are asked |
//! | [`announce`] | every node | log lines when nodes join, go down, come back and leave |
//! | [`suspect`] | every node | a reader's suspicion: re-read, give up, refetch |

pub(crate) mod accused;
pub mod announce;
pub mod attempts;
pub mod candidates;
pub mod compare;
pub mod fetch;
pub mod health;
pub mod heartbeat;
pub mod leaving;
pub mod members;
pub mod own_work;
pub mod register;
pub mod report;
pub mod scrub;
pub mod steward;
pub mod suspect;
