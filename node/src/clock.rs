//! Cluster time on a leader: the applied value plus the leader's own monotonic time since it
//! began to lead (DESIGN section 3). Without a leader it stands still.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One leadership's origin of time.
#[derive(Debug, Clone, Copy)]
struct Base {
    term: u64,
    leading_since: Instant,
    /// Cluster time was `clock_ms` at `since`.
    since: Instant,
    clock_ms: u64,
}

#[derive(Debug, Default)]
pub struct ClusterClock {
    base: Mutex<Option<Base>>,
}

impl ClusterClock {
    /// Cluster time now, for the leader of `term` whose catalogue has applied `applied_ms`.
    pub fn now_ms(&self, term: u64, applied_ms: u64) -> u64 {
        let now = Instant::now();
        let mut base = self.base.lock();
        let current = match &mut *base {
            Some(current) if current.term == term => current,
            _ => base.insert(Base { term, leading_since: now, since: now, clock_ms: applied_ms }),
        };
        let computed_ms = current.clock_ms + elapsed_ms(current.since);
        if applied_ms > computed_ms {
            // A fresh leader that had not applied all yet began too low: time goes on from what
            // it has learned, it does not stand still until it would have got there.
            (current.since, current.clock_ms) = (now, applied_ms);
        }
        computed_ms.max(applied_ms)
    }

    /// How long the leader of `term` has led, as far as this clock saw.
    pub fn led_for(&self, term: u64) -> Duration {
        match *self.base.lock() {
            Some(base) if base.term == term => base.leading_since.elapsed(),
            _ => Duration::ZERO,
        }
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn cluster_time_goes_on_from_what_a_late_apply_taught() {
        let clock = ClusterClock::default();
        assert_eq!(clock.now_ms(1, 100), 100);
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(clock.now_ms(1, 100), 150);
        assert_eq!(clock.now_ms(1, 10_000), 10_000);
        tokio::time::advance(Duration::from_millis(7)).await;
        assert_eq!(clock.now_ms(1, 10_000), 10_007);
        assert_eq!(clock.led_for(1), Duration::from_millis(57));
        assert_eq!(clock.now_ms(2, 9_000), 9_000);
    }
}
