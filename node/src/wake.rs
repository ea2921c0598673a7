//! A bell for a loop: many may ring it, the loop hears at least once. Wakes in order and
//! remembers one ring, so that none is lost between two waits.

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
