//! The agent: backups without changes to training code. It watches directories for finished
//! checkpoints, stores files at set times, and removes local copies once they are safe.
//!
//! ```text
//! scan (disk) ----> mind: what is finished, due, removable ----> put, remove, hooks (tasks)
//!                    ^  |                                             |
//!                    |  +--> journal (fsynced), status, metrics       |
//!                    +------------------ events <---------------------+
//! ```
//!
//! It may be killed at any moment. What is stored carries a label with the fingerprint of its files;
//! before a put the agent asks the cluster whether that is there. So each finished checkpoint is
//! stored once, whether the journal tells of it or not.
//!
//! # Layout
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | the configuration file and what is checked of it |
//! | [`layout`] | names of checkpoints as training programs write them |
//! | [`schedule`], [`window`], [`zone`] | cron, intervals, times of day, without a clock |
//! | [`mind`] | what is decided; no IO |
//! | [`journal`], [`listing`] | what is remembered; what was seen |
//! | `state_dir` | the lock, the journal's and the status's files |
//! | `scan`, `tree` | look at watched directories, and at all that a checkpoint consists of |
//! | `put`, `removal`, `hooks` | actions |
//! | [`drill`], `scheduled` | restores as if nodes were lost; drills and verifications at set times |
//! | [`status`], `metrics` | what people and their tools see |
//! | [`run`] | the loop |
//!
//! Directories are scanned, not watched by inotify: that does not see what other machines write to a
//! network file system.

pub mod config;
pub mod drill;
pub mod hooks;
pub mod journal;
pub mod layout;
pub mod listing;
mod metrics;
pub mod mind;
mod put;
mod removal;
pub mod run;
mod scan;
pub mod schedule;
mod scheduled;
mod state_dir;
pub mod status;
mod tree;
pub mod window;
pub mod zone;

pub use config::{Config, ConfigError};
pub use run::{AgentError, run};
pub use state_dir::StateError;
pub use status::{AgentStatus, read_status};
