//! What the mind makes of how an action ended.

use std::time::Duration;

use super::ripe::Verdict;
use super::{JobMind, Mind, Now, Outcome, Phase, backoff};
use crate::config::Kind;
use crate::journal::Record;

/// After this pause a removal is tried again.
const KEPT_PAUSE: Duration = Duration::from_secs(60);

impl Mind {
    /// What is stored in another cluster than this one is not stored. Whether the journal has changed.
    pub fn forget_other_clusters(&mut self, cluster: &str) -> bool {
        let mut is_changed = false;
        for this in &mut self.jobs {
            let before = this.journal.stored.len();
            let is_here = |record: &Record| record.cluster.as_ref().is_none_or(|it| it == cluster);
            this.journal.stored.retain(|_, record| is_here(record));
            is_changed |= this.journal.stored.len() < before;
        }
        is_changed
    }
}

impl JobMind {
    /// Whether the journal has changed.
    pub(super) fn heard(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        match &self.job.kind {
            Kind::Watch(_) => self.heard_of_candidate(step, outcome, now),
            Kind::Schedule(_) => self.heard_of_run(step, outcome, now),
        }
    }

    fn heard_of_candidate(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        let Some(candidate) = self.candidates.get_mut(&step) else { return false };
        let put = match candidate.phase {
            Phase::Putting { version } => version,
            _ => None,
        };
        candidate.phase = match outcome {
            Outcome::Stored { id, bytes, cluster } => {
                (candidate.phase, candidate.tries) = (Phase::Idle, 0);
                (candidate.kept, candidate.last_why) = (0, None);
                let record = Record {
                    name: candidate.name.clone(),
                    fingerprint: put.map(|put| put.fingerprint),
                    id: id.0,
                    stored_ms: now.wall_ms,
                    bytes,
                    witness: put.map(|put| put.witness),
                    cluster,
                };
                self.journal.stored.insert(step, record);
                self.end_pauses(now);
                return true;
            }
            Outcome::Changed { why } => {
                (candidate.memory, candidate.tries) = (None, 0);
                candidate.verdict = Verdict::Waiting(why);
                Phase::Idle
            }
            Outcome::Failed { why } => {
                candidate.tries = candidate.tries.saturating_add(1);
                candidate.last_why = Some(why.clone());
                let pause = backoff::pause(candidate.tries, self.job.tries, &self.draw, step);
                Phase::Failed { version: put, until: now.elapsed + pause, why }
            }
            Outcome::Refused { why } => Phase::Refused { version: put, why },
            Outcome::Removed => {
                self.candidates.remove(&step);
                return false;
            }
            // Of schedules only.
            Outcome::Found(_) => Phase::Idle,
            Outcome::Kept { why } => {
                candidate.kept = candidate.kept.saturating_add(1);
                Phase::Kept { until: now.elapsed + KEPT_PAUSE, why }
            }
        };
        false
    }

    /// A put succeeded: what made others fail may be over.
    fn end_pauses(&mut self, now: Now) {
        for candidate in self.candidates.values_mut() {
            if let Phase::Failed { until, .. } = &mut candidate.phase {
                *until = (*until).min(now.elapsed + backoff::FIRST);
            }
        }
    }

    fn heard_of_run(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        let Some(due) = self.running.take() else { return false };
        match outcome {
            Outcome::Stored { id, bytes, cluster } => {
                let record = Record {
                    name: String::new(),
                    fingerprint: None,
                    id: id.0,
                    stored_ms: now.wall_ms,
                    bytes,
                    witness: None,
                    cluster,
                };
                self.journal.stored.insert(step, record);
                self.journal.done_ms = Some(due);
                self.journal.trim(|_| false);
                (self.run, self.run_tries, self.clock) = (Phase::Idle, 0, None);
                true
            }
            Outcome::Found(found) => {
                self.journal.found = Some(found);
                self.journal.done_ms = Some(due);
                (self.run, self.run_tries, self.clock) = (Phase::Idle, 0, None);
                true
            }
            Outcome::Refused { why } => {
                self.journal.done_ms = Some(due);
                self.run_tries = 0;
                self.run = Phase::Refused { version: None, why };
                true
            }
            Outcome::Changed { why } | Outcome::Failed { why } => {
                self.run_tries = self.run_tries.saturating_add(1);
                let pause = backoff::pause(self.run_tries, self.job.tries, &self.draw, due);
                self.run = Phase::Failed { version: None, until: now.elapsed + pause, why };
                false
            }
            Outcome::Removed | Outcome::Kept { .. } => false,
        }
    }
}
