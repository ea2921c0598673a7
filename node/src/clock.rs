//! Cluster time on a leader: the applied value plus the leader's own monotonic time since it began
//! to lead (DESIGN section 3). Without a leader it does not advance. This file also computes the
//! wall-clock label of commits, which does not depend on one clock alone.

use std::time::Duration;

use cairn_types::canary;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Upper limit for the time counted between two reads of the clock. A leader reads it at least once
/// a second. A longer interval means a clock that jumped or a process that was paused, and neither
/// may end a grace of an hour.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// A commit's label is at most this far ahead of the voters' median clock. Clocks synchronised by
/// NTP differ by far less.
pub const WALL_AHEAD_MAX_MS: i64 = 10_000;

/// The label that a leader gives to a commit: its own clock, but not far ahead of the voters'
/// median. `ahead_ms` says how far the clocks of the other voters are ahead of this one. For an
/// even number of clocks the earlier of the two middle ones counts. A label in the future is worse
/// than one in the past, because a namespace's labels never decrease.
pub fn label_ms(own_ms: u64, ahead_ms: impl IntoIterator<Item = i64>) -> u64 {
    if canary!("label_by_own_clock") {
        return own_ms;
    }
    let median_ms = median_ahead_ms(ahead_ms);
    own_ms.saturating_add_signed(median_ms.saturating_add(WALL_AHEAD_MAX_MS).min(0))
}

/// How far the voters' median clock is ahead of this node's clock. This node's clock is one of
/// those counted.
pub fn median_ahead_ms(others_ahead_ms: impl IntoIterator<Item = i64>) -> i64 {
    let mut all: Vec<i64> = others_ahead_ms.into_iter().collect();
    all.push(0);
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}

/// Whether a wall clock is too far from the voters' median.
pub fn is_wrong(ahead_ms: i64) -> bool {
    ahead_ms.unsigned_abs() > WALL_AHEAD_MAX_MS.unsigned_abs()
}

/// The origin of cluster time in one leadership.
#[derive(Debug, Clone, Copy)]
struct Base {
    term: u64,
    leading_since: Instant,
    /// Cluster time was `clock_ms` when `counted` was zero.
    clock_ms: u64,
    counted: Duration,
    looked: Instant,
}

#[derive(Debug, Default)]
pub struct ClusterClock {
    base: Mutex<Option<Base>>,
}

impl ClusterClock {
    /// Cluster time at this node's time `now`, for the leader of `term` whose catalogue has applied
    /// `applied_ms`.
    pub fn now_ms(&self, now: Instant, term: u64, applied_ms: u64) -> u64 {
        let mut base = self.base.lock();
        let current = match &mut *base {
            Some(current) if current.term == term => current,
            _ => base.insert(Base {
                term,
                leading_since: now,
                clock_ms: applied_ms,
                counted: Duration::ZERO,
                looked: now,
            }),
        };
        current.counted += now.duration_since(current.looked).min(LOOK_MAX);
        // Another caller may have read the clock later but taken the lock earlier.
        current.looked = current.looked.max(now);
        let counted =
            if canary!("clock_runs_fast") { current.counted * 2 } else { current.counted };
        let computed_ms = current.clock_ms + as_ms(counted);
        if applied_ms > computed_ms {
            // A new leader that had not applied all entries began with too low a time. The time
            // continues from the applied value. Otherwise it would stand still until it reached
            // that value.
            (current.counted, current.clock_ms) = (Duration::ZERO, applied_ms);
        }
        computed_ms.max(applied_ms)
    }

    /// How long the leader of `term` has led at `now`, by this clock.
    pub fn led_for(&self, now: Instant, term: u64) -> Duration {
        match *self.base.lock() {
            Some(base) if base.term == term => now.duration_since(base.leading_since),
            _ => Duration::ZERO,
        }
    }
}

/// Allows an action at most once in a period.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub fn claim(&self, period: Duration) -> bool {
        let mut last = self.0.lock();
        let may = last.is_none_or(|last| last.elapsed() >= period);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn cluster_time_goes_on_from_what_a_late_apply_taught() {
        let clock = ClusterClock::default();
        assert_eq!(clock.now_ms(Instant::now(), 1, 100), 100);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(clock.now_ms(Instant::now(), 1, 100), 150);
        assert_eq!(clock.now_ms(Instant::now(), 1, 10_000), 10_000);
        tokio::time::advance(Duration::from_millis(7)).await;
        assert_eq!(clock.now_ms(Instant::now(), 1, 10_000), 10_007);
        assert_eq!(clock.led_for(Instant::now(), 1), Duration::from_millis(57));
        assert_eq!(clock.now_ms(Instant::now(), 2, 9_000), 9_000);
    }

    #[test]
    fn cluster_time_goes_by_the_nodes_own_clock() {
        let (clock, began) = (ClusterClock::default(), Instant::now());
        let at = |ms: u64| began + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(at(0), 1, 100), 100);
        assert_eq!(clock.now_ms(at(9_500), 1, 100), 9_600);
        assert_eq!(clock.now_ms(at(9_000), 1, 100), 9_600, "it does not go back");
        assert_eq!(clock.now_ms(at(9_500), 1, 100), 9_600, "nor is any time counted twice");
        assert_eq!(clock.led_for(at(9_500), 1), Duration::from_millis(9_500));
    }

    #[tokio::test(start_paused = true)]
    async fn jump_of_a_day_counts_as_seconds() {
        let clock = ClusterClock::default();
        assert_eq!(clock.now_ms(Instant::now(), 1, 100), 100);
        for second in 1..=20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(clock.now_ms(Instant::now(), 1, 100), 100 + second * 1_000);
        }
        tokio::time::advance(Duration::from_secs(86_400)).await;
        for _ in 0..1_000 {
            assert_eq!(clock.now_ms(Instant::now(), 1, 100), 30_100);
        }
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(clock.now_ms(Instant::now(), 1, 100), 31_600);
    }

    #[test]
    fn label_is_never_far_ahead_of_the_voters_median() {
        const YEAR_MS: i64 = 365 * 86_400_000;
        let now = 1_800_000_000_000;
        let bound = WALL_AHEAD_MAX_MS as u64;
        assert_eq!(label_ms(now, []), now, "a sole voter has its own clock");
        assert_eq!(label_ms(now, [20, -700]), now);
        // The leader's clock is a year ahead of both others.
        let ahead = now + YEAR_MS as u64;
        assert_eq!(label_ms(ahead, [-YEAR_MS, -YEAR_MS]), now + bound);
        // Another voter's clock is wrong, the leader's is not.
        assert_eq!(label_ms(now, [YEAR_MS, 0]), now);
        assert_eq!(label_ms(now, [-YEAR_MS, 0]), now);
        // A leader whose clock is behind does not label ahead of it.
        assert_eq!(label_ms(now, [YEAR_MS, YEAR_MS]), now);
        assert_eq!(label_ms(ahead, [-YEAR_MS]), now + bound);
        assert_eq!(label_ms(5, [i64::MIN, i64::MIN]), 0);
    }
}
