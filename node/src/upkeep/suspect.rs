//! A replica under suspicion: somebody read wrong bytes, this node's own read failed, or its file
//! is not where it should be.
//!
//! The suspicion is only a hint. The node re-reads its file past the page cache; if it is bad it
//! is kept as evidence in quarantine and the slot is given up for a new one, which catch-up then
//! fills from verified blocks (D1, D6). What the store does not hold at all is given up as well: a
//! slot that stays Durable without a file counts for nothing but numbers.

use std::sync::Arc;

use cairn_types::ids::SegmentDigest;
use cairn_types::model::SlotState;
use tokio::sync::oneshot;

use crate::reporter::Said;
use crate::shared::{Member, Replicas};
use crate::store::{Checked, StoreError};

/// Re-reads `digest`; true where it was bad or missing and has been given up.
pub async fn check(replicas: &Arc<Replicas>, digest: SegmentDigest) -> Result<bool, StoreError> {
    if replicas.this.incarnation().is_none() {
        // Before its own registration is applied this process gives nothing up.
        return Ok(false);
    }
    match replicas.store.quarantine_if_bad(digest).await {
        Ok(Checked::Good) => {
            replicas.ledger.record_verified(digest, replicas.this.env.wall_ms());
            Ok(false)
        }
        Ok(Checked::Bad) => {
            replicas.counters.suspects_confirmed.add(1);
            replicas.counters.segments_quarantined.add(1);
            give_up(replicas, digest, "bad");
            Ok(true)
        }
        Ok(Checked::Gone) => {
            replicas.counters.suspects_confirmed.add(1);
            give_up(replicas, digest, "missing");
            Ok(true)
        }
        Err(StoreError::NotHeld(_)) => give_up_absent(replicas, digest).await,
        Err(error) => Err(error),
    }
}

/// Moves the file of `digest` to quarantine if `condition` holds under its lock, and gives up the
/// slot it may have had.
pub async fn set_aside(
    replicas: &Arc<Replicas>,
    digest: SegmentDigest,
    condition: impl FnOnce(&Replicas) -> bool + Send + 'static,
) -> Result<(), StoreError> {
    let owner = Arc::clone(replicas);
    let moved = replicas.store.quarantine_if(digest, move || condition(&owner)).await;
    after_setting_aside(replicas, digest, moved)
}

/// As [`set_aside`], for a file that was damaged when the store was opened.
pub async fn set_damaged_aside(
    replicas: &Arc<Replicas>,
    digest: SegmentDigest,
) -> Result<(), StoreError> {
    let moved = replicas.store.quarantine_damaged(digest).await;
    after_setting_aside(replicas, digest, moved)
}

fn after_setting_aside(
    replicas: &Replicas,
    digest: SegmentDigest,
    moved: Result<bool, StoreError>,
) -> Result<(), StoreError> {
    match moved {
        Ok(true) => {
            replicas.counters.segments_quarantined.add(1);
            give_up(replicas, digest, "set aside");
        }
        Ok(false) => {}
        // There was no file to move: whatever slot there is has none.
        Err(StoreError::NotHeld(_)) => give_up(replicas, digest, "missing"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Gives the slot of `digest` up if it is Durable and the store does not hold the segment.
async fn give_up_absent(replicas: &Replicas, digest: SegmentDigest) -> Result<bool, StoreError> {
    let lacks_file =
        is_durable(&replicas.member, &digest) && replicas.store.is_absent(digest).await?;
    if lacks_file {
        give_up(replicas, digest, "missing");
    }
    Ok(lacks_file)
}

/// The file of `digest` is not in its place any more: its slot needs a new one.
fn give_up(replicas: &Replicas, digest: SegmentDigest, why: &'static str) {
    let node = replicas.this.id;
    let slot = replicas.member.read(|catalogue| {
        let segment = catalogue.segment_by_digest(&digest)?;
        segment.live_slot_on(node).map(|slot| (segment.id, slot.epoch))
    });
    tracing::warn!(%digest, why, gives_up_slot = slot.is_some(), "a replica is given up");
    // The next file of this digest is another one.
    replicas.ledger.forget(digest);
    if let Some((segment, epoch)) = slot {
        replicas.reporter.say(Said::Lost, segment, epoch);
    }
}

fn is_durable(member: &Member, digest: &SegmentDigest) -> bool {
    let node = member.this.id;
    member.read(|catalogue| {
        let segment = catalogue.segment_by_digest(digest);
        let slot = segment.and_then(|segment| segment.live_slot_on(node));
        slot.is_some_and(|slot| slot.state == SlotState::Durable)
    })
}

/// Starts a check of `digest` by itself, unless one runs already.
pub fn raise(replicas: &Arc<Replicas>, digest: SegmentDigest) {
    drop(begin(replicas, digest));
}

/// A read failed with `error`: raises a suspicion if that says something about the replica here.
pub fn raise_for(replicas: &Arc<Replicas>, digest: SegmentDigest, error: &StoreError) {
    match error {
        StoreError::Damaged { .. } => raise(replicas, digest),
        StoreError::NotHeld(_) if is_durable(&replicas.member, &digest) => raise(replicas, digest),
        _ => {}
    }
}

/// Starts a check of `digest`, and gives where its result will be; `None` while one runs already,
/// or too many. The check goes on when nobody waits for it: one that was broken off between
/// quarantine and report would leave a slot `Durable` with no file behind it.
pub fn begin(
    replicas: &Arc<Replicas>,
    digest: SegmentDigest,
) -> Option<oneshot::Receiver<Result<bool, StoreError>>> {
    let checking = replicas.store.begin_check(digest)?;
    let (done, result) = oneshot::channel();
    let owner = Arc::clone(replicas);
    replicas.this.env.spawn("check suspect", async move {
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
