//! Counters of this node's data plane, for `/metrics`, `NodeStatus` and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes are raw segment bytes as they were sent.
#[derive(Debug, Default)]
pub struct Counters {
    /// From clients.
    pub segments_received: Counter,
    pub bytes_received: Counter,
    /// To clients and other nodes.
    pub bytes_served: Counter,
    /// By catch-up, from other nodes.
    pub segments_fetched: Counter,
    pub bytes_fetched: Counter,
    pub segments_recovered: Counter,
    pub segments_destroyed: Counter,
    pub segments_quarantined: Counter,
    pub suspects_confirmed: Counter,
    /// Replicas that the scrub has read, and those of them that were bad or gone.
    pub segments_scrubbed: Counter,
    pub bytes_scrubbed: Counter,
    pub scrub_bad: Counter,
    /// Sources that gave this node wrong bytes when it fetched from them.
    pub sources_suspected: Counter,
    /// Clients' commands passed on to the leader.
    pub commands_forwarded: Counter,
    pub reports_sent: Counter,
    pub reports_refused: Counter,
}
