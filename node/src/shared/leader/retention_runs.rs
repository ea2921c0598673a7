//! Runs of retention that wait for a confirmation, as this node's steward found them.

use cairn_core::steward::Waiting;
use parking_lot::Mutex;

/// The runs found, and the term in which this node led at that time.
#[derive(Debug, Default)]
pub struct RetentionRuns {
    found: Mutex<(u64, Vec<Waiting>)>,
}

impl RetentionRuns {
    pub fn set(&self, term: u64, waiting: Vec<Waiting>) {
        *self.found.lock() = (term, waiting);
    }

    /// Those found in this term.
    pub fn of(&self, term: u64) -> Vec<Waiting> {
        let found = self.found.lock();
        if found.0 == term { found.1.clone() } else { Vec::new() }
    }
}
