//! What the mind wants done, and what it is told of the end of that.

use cairn_client::{CheckpointId, Step};

use crate::journal::Finding;
use crate::listing::Version;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Put(PutTask),
    Remove(RemoveTask),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutTask {
    pub job: usize,
    pub step: Step,
    /// Of a watched directory.
    pub found: Option<Found>,
    /// Of a scheduled run.
    pub due_ms: Option<u64>,
}

/// A finished checkpoint, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveTask {
    pub job: usize,
    pub step: Step,
    pub found: Found,
    /// What holds it in the cluster, and the id of that cluster.
    pub id: CheckpointId,
    pub cluster: Option<String>,
}

/// What became of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub job: usize,
    pub step: Step,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Stored {
        id: CheckpointId,
        bytes: u64,
        /// The id of the cluster.
        cluster: Option<String>,
    },
    /// Its files changed since they were listed: nothing is published.
    Changed {
        why: String,
    },
    Failed {
        why: String,
    },
    /// Trying the same again changes nothing.
    Refused {
        why: String,
    },
    /// Of a verification or a drill, good or bad.
    Found(Finding),
    Removed,
    /// It stays on the local disk for now.
    Kept {
        why: String,
    },
}
