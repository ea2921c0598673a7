//! A suspected replica: a reader got wrong bytes, this node's own read failed, or its file is not
//! in its place.
//!
//! The suspicion is only a hint. The node re-reads its file without the page cache. A bad file is
//! kept as evidence in quarantine, and its slot is given up for a new one. Catch-up then fills the
//! new slot from verified blocks (D1, D6). The slot of a segment that the store does not hold is
//! also given up: a Durable slot without a file only makes the counts wrong.

use std::sync::Arc;

use cairn_core::scrub::Known;
use cairn_types::ids::SegmentDigest;
use cairn_types::model::SlotState;
use tokio::sync::oneshot;

use crate::reporter::Said;
use crate::shared::{Member, Replicas};
use crate::store::{Checked, StoreError};

/// Re-reads `digest`. Returns true if it was bad or missing and has been given up.
pub async fn check(replicas: &Arc<Replicas>, digest: SegmentDigest) -> Result<bool, StoreError> {
    if replicas.this.incarnation().is_none() {
        // Before its own registration is applied, this process gives up no slot.
        return Ok(false);
    }
    match replicas.store.quarantine_if_bad(digest).await {
        Ok(Checked::Good) => {
            replicas.ledger.record(digest, Known::Verified(replicas.this.env.wall_ms()));
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

/// Moves the file of `digest` to quarantine if `condition` is true under its lock, and gives up its
/// slot if there is one.
pub async fn set_aside(
    replicas: &Arc<Replicas>,
    digest: SegmentDigest,
    condition: impl FnOnce(&Replicas) -> bool + Send + 'static,
) -> Result<(), StoreError> {
    let owner = Arc::clone(replicas);
    let moved = replicas.store.quarantine_if(digest, move || condition(&owner)).await;
    after_setting_aside(replicas, digest, moved)
}

/// Like [`set_aside`], for a file that was damaged when the store was opened.
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
        // There was no file to move, so a slot of this digest has no file.
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

/// The file of `digest` is no longer in its place, so its slot needs a new one.
fn give_up(replicas: &Replicas, digest: SegmentDigest, why: &'static str) {
    let node = replicas.this.id;
    let slot = replicas.member.read(|catalogue| {
        let segment = catalogue.segment_by_digest(&digest)?;
        segment.live_slot_on(node).map(|slot| (segment.id, slot.epoch))
    });
    tracing::warn!(%digest, why, gives_up_slot = slot.is_some(), "a replica is given up");
    // The next file of this digest is a new one.
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

/// Starts a check of `digest` in the background, unless one is running already.
pub fn raise(replicas: &Arc<Replicas>, digest: SegmentDigest) {
    drop(begin(replicas, digest));
}

/// A read failed with `error`. Raises a suspicion if the error concerns the replica here.
pub fn raise_for(replicas: &Arc<Replicas>, digest: SegmentDigest, error: &StoreError) {
    match error {
        StoreError::Damaged { .. } => raise(replicas, digest),
        StoreError::NotHeld(_) if is_durable(&replicas.member, &digest) => raise(replicas, digest),
        _ => {}
    }
}

/// Starts a check of `digest` and returns a receiver for its result. `None` if one is running
/// already, or too many are. The check continues when no task waits for it. If it stopped between
/// quarantine and report, it would leave a slot `Durable` without a file.
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
        // The caller may have gone.
        let _ = done.send(checked);
    });
    Some(result)
}
