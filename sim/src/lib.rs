//! Deterministic simulation of whole clusters, nodes and clients, in one thread on virtual time,
//! from one 64-bit seed. It replaces only the lowest layer.
//!
//! | module | owns |
//! |---|---|
//! | [`seed`] | randomness: a tree of labelled streams |
//! | [`trace`] | the record of a run: lines, rolling hash, counters |
//! | [`process`] | the tasks of each life of a process, and their end |
//! | [`rt`] | the runtime of consensus |
//! | [`disk`] | written and durable state, crashes, disk faults |
//! | [`host`] | the runtime seam of a process: tasks, jobs, wall time |
//! | [`monotonic`] | clocks with different rates |
//! | [`net`] | links between processes, loss, delay, partitions |
//! | [`cluster`] | real nodes and clients in a world |
//! | [`applied`] | notifies of every entry that a node applies |
//! | [`canaries`] | plays known-bad variants and reports which are found |
//! | [`checkpoint_files`] | the files that clients upload |
//! | [`checkers`] | the named promises, watched while a cluster runs |
//! | [`world`] | processes, their lives and disks, broken promises |
//! | [`replay`] | the input that reproduces a run |
//! | [`minimize`] | the smallest run that still breaks a promise |
//! | [`witness`] | events on the wire, counted |
//! | [`run`] | one run: seed and scenario in, outcome out |
//! | [`scenario`] | scenarios by name |
//! | [`mind`] | `core` alone with a hand-written scheduler |

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
