//! Cluster time on a leader: the applied value plus the leader's own monotonic time since it
//! began to lead (DESIGN section 3). Without a leader it stands still.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// One leadership's origin of time.
#[derive(Debug, Clone, Copy)]
struct Base {
    term: u64,
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
        let mut base = self.base.lock();
        let current = match *base {
            Some(current) if current.term == term => current,
            _ => *base.insert(Base { term, since: Instant::now(), clock_ms: applied_ms }),
        };
        (current.clock_ms + elapsed_ms(current.since)).max(applied_ms)
    }

    /// How long the leader of `term` has led, as far as this clock saw.
    pub fn led_for(&self, term: u64) -> Duration {
        match *self.base.lock() {
            Some(base) if base.term == term => base.since.elapsed(),
            _ => Duration::ZERO,
        }
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
}
