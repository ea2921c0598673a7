//! Checkpoints that clients wait for: soft state of the leader, never in Raft.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_types::ids::CheckpointId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A client that waits repeats its request within a second or two.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Checkpoints that are hastened at a time. This bounds the steward's work in a round.
const CHECKPOINTS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct Hastened {
    until: Mutex<BTreeMap<CheckpointId, Instant>>,
}

impl Hastened {
    /// Remembers that a client waits for the checkpoint. Above the limit it is not remembered, and
    /// the client asks again.
    pub fn ask(&self, checkpoint: CheckpointId) {
        let now = Instant::now();
        let mut until = self.until.lock();
        until.retain(|_, until| now < *until);
        if until.len() < CHECKPOINTS_MAX || until.contains_key(&checkpoint) {
            until.insert(checkpoint, now + REMEMBERED);
        }
    }

    pub fn list(&self) -> BTreeSet<CheckpointId> {
        let now = Instant::now();
        let until = self.until.lock();
        until.iter().filter(|(_, until)| now < **until).map(|(id, _)| *id).collect()
    }
}
