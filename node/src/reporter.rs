//! This node's reports about its replicas, queued until the leader has answered them. The loop that
//! sends them is `upkeep::report`.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_types::command::DeclineReason;
use cairn_types::ids::{Epoch, SegmentId};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use parking_lot::Mutex;

use crate::wake::Wake;

/// The kind of a report, most urgent first. A bad replica must stop counting even while uploads
/// keep the queue full. (A Lost report moves the slot's epoch. A queued Durable of the old epoch is
/// then void, and a new one is derived again.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    Lost,
    Declined(DeclineReason),
    Removed,
    Durable,
}

pub type Replica = (SegmentId, Epoch);

#[derive(Default)]
pub struct Reporter {
    pending: Mutex<BTreeSet<(Said, Replica)>>,
    wake: Wake,
}

impl Reporter {
    /// Queues one report. The queue is a set over this node's slots, so it is bounded by them.
    pub fn say(&self, said: Said, segment: SegmentId, epoch: Epoch) {
        self.pending.lock().insert((said, (segment, epoch)));
        self.wake.ring();
    }

    /// Waits until a report is queued, at most for `most`.
    pub async fn wait(&self, most: Duration) {
        self.wake.wait(most).await;
    }

    /// Reports not answered yet.
    pub fn pending(&self) -> usize {
        self.pending.lock().len()
    }

    /// The next batch of one kind. It stays in the queue until it is answered.
    pub fn next_batch(&self) -> Option<(Said, Vec<Replica>)> {
        let pending = self.pending.lock();
        let (said, _) = pending.first()?;
        let said = *said;
        let batch = pending
            .iter()
            .take_while(|(kind, _)| *kind == said)
            .take(BATCH_SEGMENTS_MAX)
            .map(|(_, replica)| *replica)
            .collect();
        Some((said, batch))
    }

    pub fn answered(&self, said: Said, batch: &[Replica]) {
        let mut pending = self.pending.lock();
        for replica in batch {
            pending.remove(&(said, *replica));
        }
    }
}
