//! When the mind is to be asked again, although nothing is heard.

use std::time::Duration;

use super::ripe::Verdict;
use super::{Candidate, JobMind, Mind, Now, Phase};
use crate::schedule::Decision;

impl Mind {
    /// How long until something may be done that may not be done now: a run is due, a pause is over, a
    /// window may open.
    pub fn wake_in(&self, now: Now) -> Option<Duration> {
        self.jobs.iter().flat_map(|this| this.wakes(now)).min()
    }
}

impl JobMind {
    /// Of what has passed already, something else holds it up, whose end is an event.
    fn wakes(&self, now: Now) -> impl Iterator<Item = Duration> {
        let pause = |phase: &Phase| match phase {
            Phase::Failed { until, .. } | Phase::Kept { until, .. } => {
                until.checked_sub(now.elapsed)
            }
            _ => None,
        };
        let at = |wall_ms: u64| wall_ms.checked_sub(now.wall_ms).map(Duration::from_millis);
        let minute = Duration::from_millis(60_000 - now.wall_ms % 60_000);
        let due = match self.decision {
            Some(Decision::Idle { next }) => next.and_then(at),
            Some(Decision::Waits { until: Some(until), .. }) => at(until),
            Some(Decision::Waits { until: None, .. }) => Some(minute),
            Some(Decision::Run { .. } | Decision::Skip { .. }) | None => None,
        };
        let is_finished = |it: &Candidate| matches!(it.verdict, Verdict::Finished(_));
        let waits_for_window =
            !self.job.windows.are_open(now.wall_ms) && self.candidates.values().any(is_finished);
        let mut wakes: Vec<Duration> =
            self.candidates.values().filter_map(|it| pause(&it.phase)).collect();
        wakes.extend(pause(&self.run));
        wakes.extend(due);
        wakes.extend(waits_for_window.then_some(minute));
        wakes.into_iter().filter(|wake| !wake.is_zero())
    }
}
