//! The state of all jobs as people and their tools read it: the file of `cairn agent status`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ripe::Verdict;
use super::{Candidate, JobMind, Mind, Now, Phase};
use crate::journal::{Finding, Record};
use crate::schedule::Decision;

/// Checkpoints of one job that a report names: the newest ones.
const NAMED_MAX: usize = 50;

/// Looks that fail in a row before a person should hear of it.
pub const STUCK_LOOKS: u32 = 10;
/// Removals that fail in a row before a person should hear of it: a replica may be on its way.
pub const KEPT_TRIES: u32 = 5;

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    pub job: String,
    pub namespace: String,
    /// `watch`, `schedule`, `verify` or `drill`.
    pub kind: String,
    /// Checkpoints that it has stored, as far as it remembers.
    pub stored: u64,
    pub last_stored_step: Option<u64>,
    pub last_stored_ms: Option<u64>,
    /// Finished, but not stored.
    pub due: u64,
    /// Not finished.
    pub waiting: u64,
    pub failed: u64,
    pub refused: u64,
    /// Not finished, because looks at them fail, [`STUCK_LOOKS`] in a row at least.
    pub unreadable: u64,
    /// Stored, and still on the local disk after [`KEPT_TRIES`] tries to remove them, at least.
    pub kept: u64,
    /// Of a schedule: when it is due next, as far as that is known.
    pub next_ms: Option<u64>,
    /// Whether work may begin at this time of day.
    pub window_open: bool,
    /// Why its directory cannot be read.
    pub trouble: Option<String>,
    /// What the last verification or drill found.
    pub found: Option<Finding>,
    /// The newest ones on the local disk, or the run of a schedule that is not over.
    pub checkpoints: Vec<CheckpointReport>,
}

/// One checkpoint on the local disk, or a scheduled run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointReport {
    pub name: String,
    pub step: u64,
    pub state: State,
    pub bytes: u64,
    /// Why it is in this state.
    pub why: Option<String>,
    /// Of one that failed: when it is tried again, seconds from now.
    pub retry_seconds: Option<u64>,
    /// Puts that failed in a row.
    pub tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not finished.
    Waiting,
    /// Finished; its turn has not come.
    Due,
    Putting,
    Stored,
    /// Stored, and being removed from the local disk.
    Removing,
    Failed,
    Refused,
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Due => "due",
            Self::Putting => "putting",
            Self::Stored => "stored",
            Self::Removing => "removing",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

impl Mind {
    pub fn report(&self, now: Now) -> Vec<JobReport> {
        self.jobs.iter().map(|this| this.report(now)).collect()
    }
}

impl JobMind {
    fn report(&self, now: Now) -> JobReport {
        let candidates = self.candidates.iter().map(|(step, it)| self.shown(*step, it, now));
        let mut checkpoints: Vec<CheckpointReport> = candidates.collect();
        checkpoints.extend(self.shown_run(now));
        let count = |state| checkpoints.iter().filter(|it| it.state == state).count() as u64;
        let last = self.journal.stored.iter().max_by_key(|(_, record)| record.stored_ms);
        let mut report = JobReport {
            job: self.job.name.clone(),
            namespace: self.job.namespace.to_string(),
            kind: self.job.kind.word().to_owned(),
            stored: self.journal.stored.len() as u64,
            last_stored_step: last.map(|(step, _)| *step),
            last_stored_ms: last.map(|(_, record)| record.stored_ms),
            due: count(State::Due) + count(State::Putting),
            waiting: count(State::Waiting),
            failed: count(State::Failed),
            refused: count(State::Refused),
            unreadable: self.count(|it| it.failed_looks >= STUCK_LOOKS),
            kept: self.count(|it| {
                it.kept >= KEPT_TRIES && matches!(it.phase, Phase::Kept { .. } | Phase::Removing)
            }),
            next_ms: self.next_ms(),
            window_open: self.job.windows.are_open(now.wall_ms),
            trouble: self.trouble(),
            found: self.journal.found.clone(),
            checkpoints: Vec::new(),
        };
        let rest = checkpoints.len().saturating_sub(NAMED_MAX);
        report.checkpoints = checkpoints.split_off(rest);
        report
    }

    fn count(&self, is_counted: impl Fn(&Candidate) -> bool) -> u64 {
        self.candidates.values().filter(|it| is_counted(it)).count() as u64
    }

    fn trouble(&self) -> Option<String> {
        let double = |name: &String| format!("{name} is left out: another name has its step");
        let unmatched =
            |name: &String| format!("{name} is left out: its name is not one of the layout");
        let unknown = || {
            let why = self.needed.as_ref().err()?;
            Some(format!("nothing is removed from the local disk: {why}"))
        };
        let trouble = self.trouble.clone().or_else(|| self.clock.clone());
        trouble
            .or_else(|| self.left.first().cloned())
            .or_else(|| self.doubles.first().map(double))
            .or_else(|| self.unmatched.first().map(unmatched))
            .or_else(unknown)
    }

    fn next_ms(&self) -> Option<u64> {
        match self.decision? {
            Decision::Idle { next } => next,
            Decision::Waits { due, until } => Some(until.unwrap_or(due)),
            Decision::Run { due } | Decision::Skip { due } => Some(due),
        }
    }

    fn shown(&self, step: u64, candidate: &Candidate, now: Now) -> CheckpointReport {
        let stored = self.journal.stored.get(&step).and_then(Record::version);
        let is_stored = stored.is_some() && stored == candidate.version;
        let (state, why, until) = match (&candidate.phase, &candidate.verdict) {
            (Phase::Putting { .. }, _) => (State::Putting, candidate.last_why.as_ref(), None),
            (Phase::Removing, _) => (State::Removing, None, None),
            (Phase::Kept { why, .. }, _) if is_stored => (State::Stored, Some(why), None),
            _ if is_stored => (State::Stored, None, None),
            (Phase::Refused { version, why }, Verdict::Finished(now)) if *version == Some(*now) => {
                (State::Refused, Some(why), None)
            }
            (_, Verdict::Waiting(why)) => (State::Waiting, Some(why), None),
            (Phase::Failed { until, why, .. }, _) => (State::Failed, Some(why), Some(*until)),
            _ => (State::Due, None, None),
        };
        CheckpointReport {
            name: candidate.name.clone(),
            step,
            state,
            bytes: candidate.bytes,
            why: why.cloned(),
            retry_seconds: until.map(|until| seconds_to(until, now)),
            tries: candidate.tries,
        }
    }

    fn shown_run(&self, now: Now) -> Option<CheckpointReport> {
        let step = |due| crate::zone::step_of(due);
        let run = |step, state, why: Option<&String>, until: Option<Duration>| CheckpointReport {
            name: String::new(),
            step,
            state,
            bytes: 0,
            why: why.cloned(),
            retry_seconds: until.map(|until| seconds_to(until, now)),
            tries: self.run_tries,
        };
        let due = match self.decision {
            Some(Decision::Run { due }) => Some(due),
            _ => self.journal.done_ms,
        };
        Some(match (&self.run, self.running) {
            (_, Some(due)) => run(step(due), State::Putting, None, None),
            (Phase::Failed { until, why, .. }, None) => {
                run(step(due?), State::Failed, Some(why), Some(*until))
            }
            (Phase::Refused { why, .. }, None) => run(step(due?), State::Refused, Some(why), None),
            _ => return None,
        })
    }
}

fn seconds_to(until: Duration, now: Now) -> u64 {
    until.saturating_sub(now.elapsed).as_secs()
}
