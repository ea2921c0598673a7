//! The scrub of this node: what it was asked for, and how far it is. `upkeep::scrub` does the work.

use std::collections::VecDeque;
use std::time::Duration;

use cairn_core::scrub::Totals;
use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

use crate::wake::Wake;

/// Bad replicas that are remembered with their times.
const FAULTS_MAX: usize = 16;
/// An operator that forgets a pause has it end by itself.
pub const PAUSE_MAX: Duration = Duration::from_secs(7 * 86_400);

#[derive(Default)]
pub struct Scrub {
    state: Mutex<State>,
    changed: Wake,
    /// Held while an answer to an operator is made.
    pub answering: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Counts what operators asked for.
    asked: u64,
    totals: Totals,
    bytes_per_s: u64,
    faults: VecDeque<Fault>,
}

/// A bad or missing replica, and the wall time at which the scrub found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub digest: SegmentDigest,
    pub at_ms: u64,
}

impl Scrub {
    /// An operator has asked for something: what was planned is out of date.
    pub fn ask(&self) {
        self.state.lock().asked += 1;
        self.changed.ring();
    }

    pub fn asked(&self) -> u64 {
        self.state.lock().asked
    }

    /// Waits, until somebody asks for something at most.
    pub async fn wait(&self, at_most: Duration) {
        self.changed.wait(at_most).await;
    }

    /// The result of a plan.
    pub fn planned(&self, totals: Totals, bytes_per_s: u64) {
        let mut state = self.state.lock();
        (state.totals, state.bytes_per_s) = (totals, bytes_per_s);
    }

    /// Totals and bytes a second of the last plan.
    pub fn plan(&self) -> (Totals, u64) {
        let state = self.state.lock();
        (state.totals, state.bytes_per_s)
    }

    pub fn found_bad(&self, digest: SegmentDigest, at_ms: u64) {
        let mut state = self.state.lock();
        state.faults.push_back(Fault { digest, at_ms });
        if state.faults.len() > FAULTS_MAX {
            state.faults.pop_front();
        }
    }

    /// The last bad replicas, the newest last.
    pub fn faults(&self) -> Vec<Fault> {
        self.state.lock().faults.iter().copied().collect()
    }
}
