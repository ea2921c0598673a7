//! Holding a `SealPart` back while reports are still in flight (DESIGN section 4.5).
//!
//! The last part's seal is refused at apply if a segment lacks its W replicas. Reports trail the
//! client's own acknowledgements by a batch, so the leader waits for them instead of sending the
//! client round and round.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Lane;
use cairn_types::ids::{CheckpointId, SegmentId};
use tokio::time::Instant;

use crate::shared::Shared;

/// Of the segments that lack replicas, as many are looked at before others get their turn.
const STEP_MAX: usize = 1024;

/// Waits until nothing of `checkpoint` lacks replicas, or `deadline`.
///
/// The one walk over its segments runs beside the async threads. From then on one of those that
/// lack is watched; the next one only once that one has its replicas. So an entry that is applied
/// meanwhile costs one look, however many segments there are.
pub async fn until_durable(
    shared: &Shared,
    checkpoint: CheckpointId,
    part: u32,
    deadline: Instant,
) {
    let state = Arc::clone(&shared.state);
    let walk = move || {
        let catalogue = state.read().catalogue.clone();
        catalogue.lacking_if_sealed(checkpoint, part)
    };
    let mut lacking: Vec<SegmentId> = shared.env.blocking(Lane::Walk, walk).await;
    while !lacking.is_empty() && Instant::now() < deadline && shared.consensus.is_leader() {
        let next = shared.consensus.applied() + 1;
        let found = shared.read(|catalogue| {
            let step = lacking.iter().rev().take(STEP_MAX);
            let lacks = |id: &SegmentId| !catalogue.still_lacking(checkpoint, &[*id]).is_empty();
            step.take_while(|id| !lacks(id)).count()
        });
        lacking.truncate(lacking.len() - found);
        if found == STEP_MAX {
            tokio::task::yield_now().await;
            continue;
        }
        if lacking.is_empty() {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let applied = shared.consensus.wait_for_applied(next);
        let _ = tokio::time::timeout(left.min(Duration::from_millis(500)), applied).await;
    }
}
