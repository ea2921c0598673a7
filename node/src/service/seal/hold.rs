//! Holding a `SealPart` back while reports are still in flight (DESIGN section 4.5).
//!
//! The last part's seal is refused at apply if a segment lacks its W replicas. Reports trail the
//! client's own acknowledgements by a batch, so the leader waits for them instead of sending the
//! client round and round.

use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_types::ids::{CheckpointId, SegmentId};
use tokio::time::Instant;

use crate::shared::Member;

/// Of the segments that lack replicas, as many are looked at before others get their turn.
const STEP_MAX: usize = 1024;

/// Waits until nothing of `checkpoint` lacks replicas, or `deadline`.
///
/// The one walk over its segments runs beside the async threads. From then on one of those that
/// lack is watched; the next one only once that one has its replicas. So an entry that is applied
/// meanwhile costs one look, however many segments there are.
pub async fn until_durable(
    member: &Member,
    checkpoint: CheckpointId,
    part: u32,
    deadline: Instant,
) {
    let walk = move |catalogue: &Catalogue| catalogue.lacking_if_sealed(checkpoint, part);
    let mut lacking: Vec<SegmentId> = member.walk(walk).await;
    while !lacking.is_empty() && Instant::now() < deadline && member.consensus.is_leader() {
        let next = member.consensus.applied() + 1;
        let found = member.read(|catalogue| {
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
        let applied = member.consensus.wait_for_applied(next);
        let _ = tokio::time::timeout(left.min(Duration::from_millis(500)), applied).await;
    }
}
