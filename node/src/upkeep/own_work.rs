//! A node's own work, derived from the applied catalogue: fetch what its slots lack, destroy
//! what was released, report what it has, and say what it cannot make.
//!
//! Deletion has no message: under the digest's lock, and only there, a file is destroyed when the
//! applied catalogue gives this node a Released slot of that digest and no slot in another state
//! (D3).
//!
//! Fetches and destructions run beside each other, a few of each at a time. What failed waits,
//! twice as long each time, and is left out of the plans meanwhile: neither a hung unlink nor any
//! number of segments that cannot be had keeps the rest from being done.

use std::collections::VecDeque;
use std::sync::Arc;

use cairn_core::catalogue::Catalogue;
use cairn_core::work::{self, Destroy, Fetch, NodeWork};
use cairn_types::command::DeclineReason;
use cairn_types::ids::NodeId;
use cairn_types::model::{Liveness, SlotState};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::fetch::{self, FetchError};
use crate::reporter::Said;
use crate::shared::{Calls, Ending, Replicas};
use crate::standing::why_stop;
use crate::store::{Destroyed, StoreError};

/// Catch-up fetches at once: each holds a few MiB.
pub const FETCHES_MAX: usize = 4;
/// Files destroyed at once: one that the disk holds up leaves the others to be done.
const DESTROYS_MAX: usize = 4;
/// Planned per round; the rest is found by the next.
const PLAN_MAX: usize = 256;
/// Reports derived per round.
const DERIVED_REPORTS_MAX: usize = 4096;
/// Times in a row that this node's disk must refuse a replica before it is declined: some seconds.
const REFUSALS_BEFORE_DECLINE: u32 = 3;

/// What is under way, or waits after a failure.
struct Work {
    replicas: Arc<Replicas>,
    calls: Arc<Calls>,
    fetches: Attempts,
    destroys: Attempts,
    /// Planned and to be destroyed, by whoever is free; at most [`PLAN_MAX`].
    released: Mutex<VecDeque<Destroy>>,
    fetchers: Arc<Semaphore>,
    destroyers: Arc<Semaphore>,
}

pub async fn run(replicas: Arc<Replicas>, calls: Arc<Calls>, ending: Arc<Ending>) {
    let work = Arc::new(Work {
        fetches: Attempts::new(replicas.this.upkeep_period()),
        destroys: Attempts::new(replicas.this.upkeep_period()),
        released: Mutex::default(),
        fetchers: Arc::new(Semaphore::new(FETCHES_MAX)),
        destroyers: Arc::new(Semaphore::new(DESTROYS_MAX)),
        replicas,
        calls,
    });
    let replicas = &work.replicas;
    let mut derived: Option<Instant> = None;
    loop {
        replicas.work.wait(replicas.this.upkeep_period()).await;
        let Some(incarnation) = replicas.this.incarnation() else { continue };
        let (node, votes) =
            (replicas.this.id, replicas.member.consensus.may_vote(replicas.this.id.0));
        let stop = |catalogue: &Catalogue| why_stop(catalogue, node, incarnation, votes);
        if let Some(reason) = replicas.member.read(stop) {
            ending.for_good(reason);
            return;
        }
        // A copy: plans over many slots must not hold up apply.
        let catalogue = replicas.member.copy();
        if derived.is_none_or(|at| at.elapsed() >= replicas.this.upkeep_period()) {
            derive_reports(replicas, &catalogue);
            derived = Some(Instant::now());
        }
        if !replicas.store.is_looked_through() {
            // What is not held may be here all the same.
            continue;
        }
        let NodeWork { fetches, destroys } = work::for_node_but(
            &catalogue,
            replicas.this.id,
            PLAN_MAX,
            |digest| replicas.store.holds(*digest) || work.fetches.is_busy(digest),
            |digest| work.destroys.is_busy(digest),
        );
        drop(catalogue);
        if work.released.lock().is_empty() {
            work.released.lock().extend(destroys);
        }
        while !work.released.lock().is_empty()
            && let Ok(permit) = Arc::clone(&work.destroyers).try_acquire_owned()
        {
            let work = Arc::clone(&work);
            replicas.this.env.spawn("destroy segments", async move {
                work.destroy_released().await;
                drop(permit);
                work.replicas.work.ring();
            });
        }
        for fetch in fetches {
            // All busy: the next that ends rings, and the plan is made again.
            let Ok(permit) = Arc::clone(&work.fetchers).try_acquire_owned() else { break };
            work.fetches.begin(fetch.digest);
            let work = Arc::clone(&work);
            replicas.this.env.spawn("fetch segment", async move {
                match work.fetch(&fetch).await {
                    true => work.fetches.succeeded(fetch.digest),
                    false => work.fetches.failed(fetch.digest),
                }
                drop(permit);
                work.replicas.work.ring();
            });
        }
    }
}

impl Work {
    /// Whether it went well.
    async fn fetch(&self, fetch: &Fetch) -> bool {
        let (replicas, digest) = (&self.replicas, fetch.digest);
        let error = match fetch::segment(replicas, &self.calls, fetch).await {
            Ok(()) => {
                replicas.reporter.say(Said::Durable, fetch.segment, fetch.epoch);
                return true;
            }
            Err(error) => error,
        };
        tracing::debug!(%digest, %error, "fetch failed; tried again later");
        if fetch.awaited
            && let Some(reason) = self.why_decline(fetch, &error)
        {
            let reason_text = reason.text();
            tracing::warn!(%digest, %error, reason = reason_text, "a replica is declined");
            replicas.reporter.say(Said::Declined(reason), fetch.segment, fetch.epoch);
        }
        false
    }

    /// Why others had better make this replica, if they had.
    fn why_decline(&self, fetch: &Fetch, error: &FetchError) -> Option<DeclineReason> {
        let (failures, since) = self.fetches.failures(&fetch.digest);
        let reason = match error {
            FetchError::Store(StoreError::NoSpace { .. } | StoreError::NoInodes) => {
                DeclineReason::Full
            }
            FetchError::Store(StoreError::Io { .. }) => DeclineReason::Disk,
            // Another node may reach what this one does not, if there is anything to be reached.
            FetchError::NoSource | FetchError::Source { .. } => {
                let (replace_after_ms, is_up) = self.replicas.member.read(|catalogue| {
                    let up = |node: &NodeId| catalogue.node(*node).map(|it| it.liveness);
                    let is_up = fetch.sources.iter().any(|node| up(node) == Some(Liveness::Up));
                    (catalogue.cluster().settings.replace_after_ms, is_up)
                });
                let is_long = since.elapsed().as_millis() >= u128::from(replace_after_ms);
                return (is_up && is_long).then_some(DeclineReason::NoSource);
            }
            FetchError::NotWanted | FetchError::Store(_) => return None,
        };
        (failures + 1 >= REFUSALS_BEFORE_DECLINE).then_some(reason)
    }

    /// Takes from the released ones until there are none.
    async fn destroy_released(&self) {
        loop {
            // A statement of its own: the lock is not held while the disk works.
            let next = self.released.lock().pop_front();
            let Some(destroy) = next else { return };
            self.destroys.begin(destroy.digest);
            match self.destroy(&destroy).await {
                true => self.destroys.reported(destroy.digest),
                false => self.destroys.failed(destroy.digest),
            }
        }
    }

    /// Whether it went well.
    async fn destroy(&self, destroy: &Destroy) -> bool {
        let Destroy { digest, slots } = destroy;
        let (member, node) = (Arc::clone(&self.replicas.member), self.replicas.this.id);
        let digest = *digest;
        // D3, asked again under the digest's lock.
        let allowed = move || member.read(|catalogue| work::may_destroy(catalogue, node, &digest));
        match self.replicas.store.destroy(digest, allowed).await {
            Ok(Destroyed::Kept) => {}
            Ok(destroyed) => {
                self.replicas.ledger.forget(digest);
                if destroyed == Destroyed::Gone {
                    self.replicas.counters.segments_destroyed.add(1);
                }
                for (segment, epoch) in slots {
                    self.replicas.reporter.say(Said::Removed, *segment, *epoch);
                }
            }
            Err(error) => {
                tracing::warn!(%digest, %error, "cannot destroy a released segment");
                return false;
            }
        }
        true
    }
}

/// Assigned slots whose file is here are reported: whatever report was lost is found again.
fn derive_reports(replicas: &Replicas, catalogue: &Catalogue) {
    let found = catalogue
        .slots_on(replicas.this.id, SlotState::Assigned)
        .filter(|(segment, _)| replicas.store.holds(segment.digest))
        .take(DERIVED_REPORTS_MAX);
    for (segment, slot) in found {
        replicas.reporter.say(Said::Durable, segment.id, slot.epoch);
    }
}
