//! Work in progress and recent failures of a node, by segment. Each failure in a row doubles the
//! wait. The table is bounded by the node's slots: an entry is made when work begins, and removed
//! when it succeeds or after a long rest.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The pause after a failure doubles up to this many periods. Within this time a recovered source,
/// or a disk with room again, is noticed.
const PAUSE_PERIODS_MAX: u32 = 16;
/// A failure is forgotten this many longest pauses after its end: the segment is not wanted any
/// more.
const FORGET_PAUSES: u32 = 4;

/// With fewer entries than this, the table is not searched for entries to forget.
const CLEAN_AT_MIN: usize = 1024;

pub struct Attempts {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<SegmentDigest, Entry>,
    /// The number of entries at which the next search for forgotten ones pays.
    clean_at: usize,
}

struct Entry {
    running: bool,
    failures: u32,
    /// The start of the first of these failures.
    since: Instant,
    /// It rests until this time.
    until: Instant,
}

impl Attempts {
    /// The first pause is one `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, state: Mutex::default() }
    }

    /// Whether the segment's work runs, or rests after a failure.
    pub fn is_busy(&self, digest: &SegmentDigest) -> bool {
        let state = self.state.lock();
        state.entries.get(digest).is_some_and(|it| it.running || Instant::now() < it.until)
    }

    /// An attempt begins. The caller has checked [`Attempts::is_busy`] before.
    pub fn begin(&self, digest: SegmentDigest) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.clean(self.period, now);
        let fresh = Entry { running: true, failures: 0, since: now, until: now };
        state.entries.entry(digest).or_insert(fresh).running = true;
    }

    /// Failures in a row before the running attempt, and the start time of the first attempt.
    pub fn failures(&self, digest: &SegmentDigest) -> (u32, Instant) {
        let state = self.state.lock();
        state.entries.get(digest).map_or((0, Instant::now()), |it| (it.failures, it.since))
    }

    /// The work succeeded.
    pub fn succeeded(&self, digest: SegmentDigest) {
        self.state.lock().entries.remove(&digest);
    }

    /// The work succeeded, and the catalogue will show it soon. Until then it must not be done
    /// again.
    pub fn reported(&self, digest: SegmentDigest) {
        if let Some(entry) = self.state.lock().entries.get_mut(&digest) {
            (entry.running, entry.failures) = (false, 0);
            entry.until = Instant::now() + self.period;
        }
    }

    pub fn failed(&self, digest: SegmentDigest) {
        if let Some(entry) = self.state.lock().entries.get_mut(&digest) {
            let periods = 1 << entry.failures.min(PAUSE_PERIODS_MAX.ilog2());
            entry.failures = entry.failures.saturating_add(1);
            (entry.running, entry.until) = (false, Instant::now() + self.period * periods);
        }
    }
}

impl State {
    fn clean(&mut self, period: Duration, now: Instant) {
        if self.entries.len() < self.clean_at.max(CLEAN_AT_MIN) {
            return;
        }
        let forget = period * PAUSE_PERIODS_MAX * FORGET_PAUSES;
        self.entries.retain(|_, it| it.running || now < it.until + forget);
        self.clean_at = 2 * self.entries.len();
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_rest_longer_each_time_and_success_forgets_them() {
        let attempts = Attempts::new(Duration::from_secs(1));
        let digest = SegmentDigest([1; 32]);
        for pause in [1, 2, 4, 8, 16, 16] {
            attempts.begin(digest);
            assert!(attempts.is_busy(&digest), "runs");
            attempts.failed(digest);
            tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
            assert!(attempts.is_busy(&digest), "rests {pause} s");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!attempts.is_busy(&digest), "has rested {pause} s");
        }
        assert_eq!(attempts.failures(&digest).0, 6);
        attempts.begin(digest);
        attempts.succeeded(digest);
        assert!(!attempts.is_busy(&digest) && attempts.failures(&digest).0 == 0);
        attempts.begin(digest);
        attempts.reported(digest);
        assert!(attempts.is_busy(&digest), "the catalogue does not know yet");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!attempts.is_busy(&digest));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_tries_again_is_forgotten() {
        let attempts = Attempts::new(Duration::from_secs(1));
        let digest = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            SegmentDigest(bytes)
        };
        for number in 0..CLEAN_AT_MIN {
            attempts.begin(digest(number));
            attempts.failed(digest(number));
        }
        tokio::time::advance(Duration::from_secs(100)).await;
        attempts.begin(digest(CLEAN_AT_MIN));
        assert_eq!(attempts.state.lock().entries.len(), 1);
    }
}
