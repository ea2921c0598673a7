//! How long a peer may keep a stream waiting.
//!
//! A stream holds a permit, buffers, and perhaps reserved space, so its peer has to move bytes. No
//! single wait is longer than the grace. All waits together are no longer than the grace plus the
//! time that its bytes take at the slowest allowed speed. Time that this node's disk takes does not
//! count.

use std::time::Duration;

use tokio::time::Instant;

/// The slowest allowed speed of a stream, bytes a second. At it 32 MiB take 17 minutes.
const FLOOR_BYTES_PER_S: u64 = 32 << 10;

#[derive(Debug)]
pub struct Pace {
    grace: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub fn new(grace: Duration) -> Self {
        Self { grace, waited: Duration::ZERO, bytes: 0 }
    }

    /// Bytes have moved.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// Waits for the peer. `None` if that takes too long.
    pub async fn wait<T>(&mut self, peer: impl Future<Output = T>) -> Option<T> {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / FLOOR_BYTES_PER_S);
        let left = (self.grace + earned).saturating_sub(self.waited).min(self.grace);
        let began = Instant::now();
        let came = tokio::time::timeout(left, peer).await;
        self.waited += began.elapsed();
        came.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    async fn takes(pace: &mut Pace, seconds: u64) -> bool {
        pace.wait(tokio::time::sleep(Duration::from_secs(seconds))).await.is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stands_still_loses_its_place() {
        let mut pace = Pace::new(GRACE);
        pace.moved(1 << 30);
        assert!(takes(&mut pace, 9).await);
        assert!(!takes(&mut pace, 11).await, "however much it moved before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_below_the_floor_loses_its_place_and_one_above_it_does_not() {
        let mut drips = Pace::new(GRACE);
        let mut fast = Pace::new(GRACE);
        for turn in 0..100 {
            fast.moved(10 * FLOOR_BYTES_PER_S as usize);
            assert!(takes(&mut fast, 9).await, "{turn}");
        }
        let mut turns = 0;
        while takes(&mut drips, 9).await {
            drips.moved(1);
            turns += 1;
        }
        assert_eq!(turns, 1, "one byte each nine seconds");
    }
}
