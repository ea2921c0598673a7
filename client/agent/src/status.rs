//! What the agent says about itself: the file that `cairn agent status` reads.

use std::path::Path;
use std::time::Duration;

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
    /// Since when, by the wall clock, the cluster has not answered; `None` while it does.
    #[serde(default)]
    pub unanswered_since_ms: Option<u64>,
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

/// A running agent writes its status at each poll: one that is older is stuck, or cannot write it.
const AGE_MIN: Duration = Duration::from_secs(60);
const POLLS_MAX: u32 = 3;

impl AgentStatus {
    /// Whether it is too old for an agent that looks at its directories this often.
    pub fn is_stale(&self, now_ms: u64, poll: Duration) -> bool {
        let age = Duration::from_millis(now_ms.saturating_sub(self.written_ms));
        age > AGE_MIN.max(poll.saturating_mul(POLLS_MAX))
    }

    /// Whether a person should look.
    pub fn is_troubled(&self) -> bool {
        let job = |job: &JobReport| {
            let is_bad = job.found.as_ref().is_some_and(|found| !found.good);
            let count = job.failed + job.refused + job.unreadable + job.kept;
            count > 0 || job.trouble.is_some() || is_bad
        };
        self.journal_trouble.is_some()
            || self.unanswered_since_ms.is_some()
            || self.jobs.iter().any(job)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_stale_after_three_polls_and_a_minute() {
        let status = AgentStatus {
            form: FORM,
            version: String::new(),
            process: 1,
            started_ms: 0,
            written_ms: 1_000_000,
            rate: None,
            journal_trouble: None,
            unanswered_since_ms: None,
            uploads: Vec::new(),
            jobs: Vec::new(),
        };
        assert!(!status.is_troubled());
        let alone = AgentStatus { unanswered_since_ms: Some(7), ..status.clone() };
        assert!(alone.is_troubled(), "nothing can be stored");
        // (seconds since, poll, stale)
        for (age, poll, is_stale) in
            [(60, 10, false), (61, 10, true), (61, 30, false), (91, 30, true), (0, 10, false)]
        {
            let now = 1_000_000 + age * 1000;
            assert_eq!(status.is_stale(now, Duration::from_secs(poll)), is_stale, "{age} {poll}");
        }
        assert!(!status.is_stale(0, AGE_MIN), "a clock that went back");
    }
}
