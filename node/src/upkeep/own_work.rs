//! A node's own work, derived from the applied catalogue: fetch what its slots lack, destroy
//! what was released, report what it has.
//!
//! Deletion has no message: under the digest's lock, and only there, a file is destroyed when the
//! applied catalogue gives this node a Released slot of that digest and no slot in another state
//! (D3).

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_core::ids::SegmentDigest;
use cairn_core::model::SlotState;
use cairn_core::work::{self, Destroy, NodeWork};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

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
    let fetchers = Arc::new(Semaphore::new(FETCHES_MAX));
    loop {
        shared.work.wait(shared.upkeep_period()).await;
        if shared.incarnation().is_none() {
            continue;
        }
        if is_removed(&shared) {
            (shared.fatal)(format!("node {} was removed from the cluster", shared.node));
            return;
        }
        derive_reports(&shared);
        let node = shared.node;
        let NodeWork { fetches, destroys } =
            shared.read(|catalogue| work::for_node(catalogue, node, PLAN_MAX));
        for destroy in destroys {
            destroy_released(&shared, destroy).await;
        }
        for fetch in fetches {
            if shared.store.holds(fetch.digest) || !fetching.lock().insert(fetch.digest) {
                continue;
            }
            let Ok(permit) = Arc::clone(&fetchers).acquire_owned().await else { return };
            let (owner, fetching) = (Arc::clone(&shared), Arc::clone(&fetching));
            shared.env.spawn("fetch segment", async move {
                let digest = fetch.digest;
                match fetch::segment(&owner, &fetch).await {
                    Ok(()) => owner.reporter.say(Said::Durable, fetch.segment, fetch.epoch),
                    Err(error) => tracing::debug!(%digest, %error, "fetch failed; tried again later"),
                }
                fetching.lock().remove(&digest);
                drop(permit);
            });
        }
    }
}

fn is_removed(shared: &Shared) -> bool {
    shared.read(|catalogue| {
        catalogue
            .node(shared.node)
            .is_some_and(|record| record.admin == cairn_core::model::Admin::Removed)
    })
}

/// Assigned slots whose file is here are reported: whatever report was lost is found again.
fn derive_reports(shared: &Shared) {
    let node = shared.node;
    let found: Vec<_> = shared.read(|catalogue| {
        catalogue
            .slots_on(node, SlotState::Assigned)
            .filter(|(segment, _)| shared.store.holds(segment.digest))
            .map(|(segment, slot)| (segment.id, slot.epoch))
            .take(DERIVED_REPORTS_MAX)
            .collect()
    });
    for (segment, epoch) in found {
        shared.reporter.say(Said::Durable, segment, epoch);
    }
}

async fn destroy_released(shared: &Arc<Shared>, destroy: Destroy) {
    let Destroy { digest, slots } = destroy;
    let (owner, node) = (Arc::clone(shared), shared.node);
    // D3, asked again under the digest's lock.
    let allowed =
        move || owner.read(|catalogue| work::may_destroy(catalogue, node, &digest));
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
