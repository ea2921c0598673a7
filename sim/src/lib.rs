//! Deterministic simulation of whole clusters, nodes and clients, in one thread on virtual time,
//! from one 64-bit seed. It replaces the lowest layer and nothing else.
//!
//! | module | owns |
//! |---|---|
//! | [`seed`] | chance: a tree of labelled streams |
//! | [`trace`] | what happened: lines, rolling hash, counters |
//! | [`process`] | which tasks belong to which life of a process, and their end |
//! | [`rt`] | the runtime of consensus |
//! | [`disk`] | written and durable, crashes, disk faults |
//! | [`host`] | the runtime seam of a process: tasks, jobs, wall time |
//! | [`monotonic`] | clocks that run at rates of their own |
//! | [`net`] | links between processes, loss, delay, partitions |
//! | [`cluster`] | real nodes and clients in a world |
//! | [`applied`] | hears of every entry that a node applies |
//! | [`canaries`] | plants known-bad variants and says which are found |
//! | [`checkpoint_files`] | what clients upload |
//! | [`checkers`] | the named promises, watched while a cluster runs |
//! | [`world`] | processes, their lives and disks, broken promises |
//! | [`replay`] | what makes a run be played again |
//! | [`minimize`] | the smallest run that still breaks a promise |
//! | [`witness`] | what happened on the wire, counted |
//! | [`run`] | one run: seed and scenario in, outcome out |
//! | [`scenario`] | scenarios by name |
//! | [`mind`] | `core` alone under a hand-written scheduler |

pub mod applied;
pub mod canaries;
pub mod checkers;
pub mod checkpoint_files;
pub mod cluster;
pub mod disk;
pub mod host;
pub mod mind;
pub mod minimize;
pub mod monotonic;
pub mod net;
pub mod process;
pub mod replay;
pub mod rt;
pub mod run;
pub mod scenario;
pub mod seed;
pub mod trace;
pub mod witness;
pub mod world;
