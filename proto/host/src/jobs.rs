//! The running blocking jobs of a process, and how long each has run. A disk that does not answer
//! shows as a job that does not end.
//!
//! Both runtimes use this table, so that health means the same in the simulator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::seam::Lane;

/// The running jobs. Cheap to clone. All clones share one table.
#[derive(Debug, Clone, Default)]
pub struct RunningJobs(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    next: u64,
    began: BTreeMap<(Lane, u64), Instant>,
}

/// One job. It ends when this is dropped.
#[derive(Debug)]
pub struct RunningJob {
    jobs: RunningJobs,
    key: (Lane, u64),
}

impl RunningJobs {
    /// A job of `lane` begins now.
    pub fn begin(&self, lane: Lane) -> RunningJob {
        let mut running = self.0.lock();
        let key = (lane, running.next);
        running.next += 1;
        running.began.insert(key, Instant::now());
        drop(running);
        RunningJob { jobs: self.clone(), key }
    }

    /// How long the oldest job of `lane` has run.
    pub fn oldest(&self, lane: Lane) -> Option<Duration> {
        let running = self.0.lock();
        let (_, began) = running.began.range((lane, 0)..=(lane, u64::MAX)).next()?;
        Some(began.elapsed())
    }

    pub fn count(&self) -> usize {
        self.0.lock().began.len()
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.jobs.0.lock().began.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_job_of_a_lane_is_the_one_that_began_first_and_has_not_ended() {
        let jobs = RunningJobs::default();
        assert_eq!(jobs.oldest(Lane::Log), None);
        let first = jobs.begin(Lane::Log);
        let _data = jobs.begin(Lane::Data);
        tokio::time::advance(Duration::from_secs(3)).await;
        let _second = jobs.begin(Lane::Log);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(jobs.oldest(Lane::Log), Some(Duration::from_secs(5)));
        drop(first);
        assert_eq!(jobs.oldest(Lane::Log), Some(Duration::from_secs(2)));
        assert_eq!(jobs.oldest(Lane::Snapshot), None);
        assert_eq!(jobs.count(), 2);
    }
}
