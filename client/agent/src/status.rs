//! What the agent says about itself: the file that `cairn agent status` reads.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mind::JobReport;
use crate::state_dir::{self, StateError};

/// Of the file; another one is refused.
pub const FORM: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    pub form: u32,
    pub version: String,
    pub process: u32,
    /// Wall clock, milliseconds: when the process began, and when this was written.
    pub started_ms: u64,
    pub written_ms: u64,
    /// The limit on uploads that holds now.
    pub rate: Option<u64>,
    /// Why the journal could not be written. Nothing is removed from the local disk meanwhile.
    pub journal_trouble: Option<String>,
    pub uploads: Vec<Upload>,
    pub jobs: Vec<JobReport>,
}

/// A put that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub job: String,
    pub step: u64,
    pub bytes: u64,
    /// Of those: sent, or found in the cluster.
    pub bytes_done: u64,
}

impl AgentStatus {
    /// Whether a person should look.
    pub fn is_troubled(&self) -> bool {
        let job = |job: &JobReport| {
            let is_bad = job.found.as_ref().is_some_and(|found| !found.good);
            let count = job.failed + job.refused + job.unreadable + job.kept;
            count > 0 || job.trouble.is_some() || is_bad
        };
        self.journal_trouble.is_some() || self.jobs.iter().any(job)
    }
}

/// The status that the agent of this state directory wrote last, and whether that agent runs now.
pub fn read_status(state: &Path) -> Result<(AgentStatus, bool), StateError> {
    let (text, is_running) = state_dir::read_status(state)?;
    let damaged =
        |problem: String| StateError::Damaged { path: state.join("status.json"), problem };
    let status: AgentStatus =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    match status.form {
        FORM => Ok((status, is_running)),
        form => Err(StateError::Newer { path: state.join("status.json"), form }),
    }
}
