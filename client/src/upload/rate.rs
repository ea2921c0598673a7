//! An upper limit on what uploads send: bytes a second, over all puts that share a [`Rate`].
//!
//! Chunks take their time slots in the order in which they ask. While there is a limit, one segment
//! is sent at a time: many streams that share a slow line would each look stalled to its node.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// What may be sent at once after a pause: as much as the limit allows in this time.
const BURST: Duration = Duration::from_millis(250);

/// A limit on the bytes that uploads send, all replicas counted. It may be changed while they run.
#[derive(Debug)]
pub struct Rate {
    slots: Mutex<Slots>,
    /// Segments that are sent while there is a limit.
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Slots {
    bytes_per_second: Option<NonZeroU64>,
    /// When the next byte may go.
    next: Instant,
}

/// The right to send a segment; none is needed without a limit.
pub(super) type Turn = Option<OwnedSemaphorePermit>;

impl Rate {
    /// The least limit: at a lower one, a block of each of a segment's replicas takes longer than
    /// nodes wait for it.
    pub const MIN: u64 = 1 << 20;

    /// `None` sets no limit. One below [`Rate::MIN`] is raised to it.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Arc<Self> {
        let bytes_per_second = bytes_per_second.map(at_least_min);
        let slots = Mutex::new(Slots { bytes_per_second, next: Instant::now() });
        Arc::new(Self { slots, turn: Arc::new(Semaphore::new(1)) })
    }

    /// Takes effect with the next chunk of each stream.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        self.slots.lock().bytes_per_second = bytes_per_second.map(at_least_min);
    }

    pub fn bytes_per_second(&self) -> Option<NonZeroU64> {
        self.slots.lock().bytes_per_second
    }

    /// Waits until a segment may be sent.
    pub(super) async fn turn(&self) -> Turn {
        match self.bytes_per_second() {
            // The semaphore is never closed.
            Some(_) => self.turn.clone().acquire_owned().await.ok(),
            None => None,
        }
    }

    /// Waits until `bytes` may be sent.
    pub(super) async fn take(&self, bytes: u64) {
        let until = self.slots.lock().take(Instant::now(), bytes);
        if let Some(until) = until {
            sleep_until(until).await;
        }
    }
}

fn at_least_min(bytes_per_second: NonZeroU64) -> NonZeroU64 {
    bytes_per_second.max(NonZeroU64::new(Rate::MIN).unwrap_or(NonZeroU64::MIN))
}

impl Slots {
    /// When these bytes may go; `None` for at once.
    fn take(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let slot = self.next.max(earliest);
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.get());
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        // Bytes that would take longer than the clock goes on: as good as now plus an hour.
        self.next = slot.checked_add(takes).unwrap_or(now + Duration::from_secs(3600));
        (slot > now).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(count: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(count << 20)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_all_streams_together_keep_to_the_limit() {
        let rate = Rate::new(mib(10));
        let started = Instant::now();
        let stream = || async {
            for _ in 0..50 {
                rate.take(1 << 20).await;
            }
        };
        tokio::join!(stream(), stream());
        // 100 MiB at 10 MiB/s; the last chunk does not wait for its own time.
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(9_600) && took <= Duration::from_secs(10),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_made_up_for() {
        let rate = Rate::new(mib(10));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        for _ in 0..20 {
            rate.take(1 << 20).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(1_600), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits_and_a_new_limit_holds_at_once() {
        let rate = Rate::new(None);
        let started = Instant::now();
        let turns = [rate.turn().await, rate.turn().await];
        assert!(turns.iter().all(Option::is_none));
        rate.take(u64::MAX).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        rate.set(mib(2));
        let _turn = rate.turn().await;
        for _ in 0..4 {
            rate.take(1 << 20).await;
        }
        assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
        rate.set(NonZeroU64::new(1));
        assert_eq!(rate.bytes_per_second(), NonZeroU64::new(Rate::MIN));
    }
}
