//! A node's own work, derived from the applied catalogue: fetch what its slots lack, destroy
//! what was released, report what it has.
//!
//! Deletion has no message: under the digest's lock, and only there, a file is destroyed when the
//! applied catalogue gives this node a Released slot of that digest and no slot in another state
//! (D3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_core::ids::{Incarnation, SegmentDigest};
use cairn_core::model::{Admin, SlotState};
use cairn_core::work::{self, Destroy, NodeWork};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::fetch;
use crate::report::Said;
use crate::shared::Shared;
use crate::store::Destroyed;

/// Catch-up fetches at once: each holds a few MiB.
const FETCHES_MAX: usize = 4;
/// Planned per round; the rest is found by the next.
const PLAN_MAX: usize = 256;
/// Reports derived per round.
const DERIVED_REPORTS_MAX: usize = 4096;

pub async fn run(shared: Arc<Shared>) {
    let fetching: Arc<Mutex<BTreeSet<SegmentDigest>>> = Arc::default();
    let failed: Arc<Failed> = Arc::default();
    let fetchers = Arc::new(Semaphore::new(FETCHES_MAX));
    let mut derived: Option<Instant> = None;
    loop {
        shared.work.wait(shared.upkeep_period()).await;
        let Some(incarnation) = shared.incarnation() else { continue };
        if let Some(reason) = why_stop(&shared, incarnation) {
            (shared.banish)(reason);
            return;
        }
        // A copy: plans over many slots must not hold up apply.
        let catalogue = shared.copy();
        if derived.is_none_or(|at| at.elapsed() >= shared.upkeep_period()) {
            derive_reports(&shared, &catalogue);
            derived = Some(Instant::now());
        }
        let node = shared.node;
        let NodeWork { fetches, destroys } = work::for_node(&catalogue, node, PLAN_MAX);
        drop(catalogue);
        for destroy in destroys {
            destroy_released(&shared, destroy).await;
        }
        for fetch in fetches {
            if shared.store.holds(fetch.digest) || failed.is_too_early(&fetch.digest) {
                continue;
            }
            // All busy: whoever ends rings, and the plan is made anew.
            let Ok(permit) = Arc::clone(&fetchers).try_acquire_owned() else { break };
            if !fetching.lock().insert(fetch.digest) {
                continue;
            }
            let (owner, fetching) = (Arc::clone(&shared), Arc::clone(&fetching));
            let failed = Arc::clone(&failed);
            shared.env.spawn("fetch segment", async move {
                let digest = fetch.digest;
                match fetch::segment(&owner, &fetch).await {
                    Ok(()) => owner.reporter.say(Said::Durable, fetch.segment, fetch.epoch),
                    Err(error) => {
                        tracing::debug!(%digest, %error, "fetch failed; tried again later");
                        failed.note(digest, owner.upkeep_period());
                    }
                }
                fetching.lock().remove(&digest);
                drop(permit);
                owner.work.ring();
            });
        }
    }
}

/// Why this process must not go on, if it must not.
fn why_stop(shared: &Shared, incarnation: Incarnation) -> Option<String> {
    let node = shared.node;
    shared.read(|catalogue| match catalogue.node(node) {
        Some(record) if record.admin == Admin::Removed => {
            Some(format!("node {node} was removed from the cluster"))
        }
        Some(record) if record.incarnation > incarnation => {
            Some(format!("another process has registered as node {node}"))
        }
        _ => None,
    })
}

/// Segments whose last fetch failed, and from when on they may be tried again.
#[derive(Default)]
struct Failed(Mutex<BTreeMap<SegmentDigest, Instant>>);

impl Failed {
    fn note(&self, digest: SegmentDigest, pause: Duration) {
        let mut failed = self.0.lock();
        let now = Instant::now();
        failed.retain(|_, until| *until > now);
        failed.insert(digest, now + pause);
    }

    fn is_too_early(&self, digest: &SegmentDigest) -> bool {
        self.0.lock().get(digest).is_some_and(|until| *until > Instant::now())
    }
}

/// Assigned slots whose file is here are reported: whatever report was lost is found again.
fn derive_reports(shared: &Shared, catalogue: &Catalogue) {
    let found = catalogue
        .slots_on(shared.node, SlotState::Assigned)
        .filter(|(segment, _)| shared.store.holds(segment.digest))
        .take(DERIVED_REPORTS_MAX);
    for (segment, slot) in found {
        shared.reporter.say(Said::Durable, segment.id, slot.epoch);
    }
}

async fn destroy_released(shared: &Arc<Shared>, destroy: Destroy) {
    let Destroy { digest, slots } = destroy;
    let (owner, node) = (Arc::clone(shared), shared.node);
    // D3, asked again under the digest's lock.
    let allowed = move || owner.read(|catalogue| work::may_destroy(catalogue, node, &digest));
    match shared.store.destroy(digest, allowed).await {
        Ok(Destroyed::Kept) => {}
        Ok(destroyed) => {
            if destroyed == Destroyed::Gone {
                shared.counters.segments_destroyed.add(1);
            }
            for (segment, epoch) in slots {
                shared.reporter.say(Said::Removed, segment, epoch);
            }
        }
        Err(error) => tracing::warn!(%digest, %error, "cannot destroy a released segment"),
    }
}
