//! A replica under suspicion: somebody read wrong bytes, or this node's own read failed.
//!
//! The suspicion is only a hint. The node re-reads its file past the page cache; if it is bad it
//! is kept as evidence in quarantine and the slot is given up for a new one, which catch-up then
//! fills from a verified source (D1, D6).

use std::sync::Arc;

use cairn_core::ids::SegmentDigest;
use tokio::sync::oneshot;

use crate::report::Said;
use crate::shared::Shared;
use crate::store::StoreError;

/// Re-reads `digest`; true where it was bad and has been given up.
pub async fn check(shared: &Arc<Shared>, digest: SegmentDigest) -> Result<bool, StoreError> {
    if shared.incarnation().is_none() {
        // Before its own registration is applied this process gives nothing up.
        return Ok(false);
    }
    match shared.store.quarantine_if_bad(digest).await {
        Ok(false) => {
            shared.ledger.record_verified(digest, shared.env.wall_ms());
            Ok(false)
        }
        Ok(true) => {
            shared.counters.suspects_confirmed.add(1);
            give_up(shared, digest);
            Ok(true)
        }
        Err(StoreError::NotHeld(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves the file of `digest` to quarantine if `condition` holds under its lock, and gives up the
/// slot it may have had.
pub async fn set_aside(
    shared: &Arc<Shared>,
    digest: SegmentDigest,
    condition: impl FnOnce(&Shared) -> bool + Send + 'static,
) -> Result<(), StoreError> {
    let owner = Arc::clone(shared);
    match shared.store.quarantine_if(digest, move || condition(&owner)).await {
        Ok(true) => give_up(shared, digest),
        Ok(false) | Err(StoreError::NotHeld(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// As [`set_aside`], for a file that was damaged when the store was opened.
pub async fn set_damaged_aside(
    shared: &Arc<Shared>,
    digest: SegmentDigest,
) -> Result<(), StoreError> {
    match shared.store.quarantine_damaged(digest).await {
        Ok(true) => give_up(shared, digest),
        Ok(false) | Err(StoreError::NotHeld(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The file of `digest` was set aside: its slot needs a new one.
fn give_up(shared: &Shared, digest: SegmentDigest) {
    shared.counters.segments_quarantined.add(1);
    let node = shared.node;
    let slot = shared.read(|catalogue| {
        let segment = catalogue.segment_by_digest(&digest)?;
        segment.live_slot_on(node).map(|slot| (segment.id, slot.epoch))
    });
    tracing::warn!(%digest, gives_up_slot = slot.is_some(), "a file was set aside");
    if let Some((segment, epoch)) = slot {
        shared.reporter.say(Said::Lost, segment, epoch);
    }
}

/// Starts a check of `digest` by itself, unless one runs already.
pub fn raise(shared: &Arc<Shared>, digest: SegmentDigest) {
    drop(begin(shared, digest));
}

/// Starts a check of `digest`, and gives where its result will be; `None` while one runs already,
/// or too many. The check goes on when nobody waits for it: one that was broken off between
/// quarantine and report would leave a slot `Durable` with no file behind it.
pub fn begin(
    shared: &Arc<Shared>,
    digest: SegmentDigest,
) -> Option<oneshot::Receiver<Result<bool, StoreError>>> {
    let checking = shared.store.begin_check(digest)?;
    let (done, result) = oneshot::channel();
    let owner = Arc::clone(shared);
    shared.env.spawn("check suspect", async move {
        let _checking = checking;
        let checked = check(&owner, digest).await;
        if let Err(error) = &checked {
            tracing::warn!(%digest, %error, "cannot check a suspected replica");
        }
        // Whoever asked may have gone.
        let _ = done.send(checked);
    });
    Some(result)
}
