//! A bell for a loop: many tasks may ring it, and the loop wakes at least once. Waiters wake in
//! order. One ring is remembered, so that a ring between two waits is not lost.

use std::time::Duration;

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Wake(Notify);

impl Wake {
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring, `period` at most.
    pub async fn wait(&self, period: Duration) {
        let _ = tokio::time::timeout(period, self.0.notified()).await;
    }

    /// Waits for a ring.
    pub async fn heard(&self) {
        self.0.notified().await;
    }
}
