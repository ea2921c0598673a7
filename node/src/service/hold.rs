//! Holding a `SealPart` back while reports are still in flight (DESIGN section 4.5).
//!
//! The last part's seal is refused at apply if a segment lacks its W replicas. Reports trail the
//! client's own acknowledgements by a batch, so the leader waits for them instead of sending the
//! client round and round.

use std::time::Duration;

use cairn_core::ids::{CheckpointId, SegmentId};
use tokio::time::Instant;

use crate::shared::Shared;

/// Waits until nothing of `checkpoint` lacks replicas, or `deadline`.
pub async fn until_durable(
    shared: &Shared,
    checkpoint: CheckpointId,
    part: u32,
    deadline: Instant,
) {
    let mut lacking: Vec<SegmentId> =
        shared.read(|catalogue| catalogue.lacking_if_sealed(checkpoint, part));
    while !lacking.is_empty() && Instant::now() < deadline && shared.consensus.is_leader() {
        let next = shared.consensus.applied() + 1;
        let left = deadline.saturating_duration_since(Instant::now());
        let applied = shared.consensus.wait_for_applied(next);
        let _ = tokio::time::timeout(left.min(Duration::from_millis(500)), applied).await;
        lacking = shared.read(|catalogue| catalogue.still_lacking(checkpoint, &lacking));
    }
}
