//! The loops that keep a node and, on the leader, the cluster.
//!
//! All work is derived from the applied catalogue, so nothing is lost with a process: each loop
//! wakes when rung or once a period, asks a pure planner of `cairn-core` what to do, does it, and
//! looks again.
//!
//! | module | runs on | does |
//! |---|---|---|
//! | [`register`] | every node, once | registration, inventory |
//! | [`heartbeat`] | every node | keeps the node up in the leader's eyes, hears of its own removal |
//! | [`own_work`] | every node | catch-up fetches, destroying released files, deriving reports |
//! | [`report`] | every node | sends what the node has to say of its replicas |
//! | [`compare`] | every node | slots, the store's index and files compared, slowly: what is missing is given up |
//! | [`steward`] | the leader | liveness, expiry, retention, reap, repair slots |
//! | [`members`] | the leader | learners, voters, removed nodes |
//! | [`candidates`], [`leaving`] | the leader, when asked | who may vote; a node's way out |
//! | [`health`] | every node | whether disk and listener answer; what an unfit node does |
//! | `accused` | every node | a peer says that this process must not go on: the others are asked |
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
pub mod steward;
pub mod suspect;
