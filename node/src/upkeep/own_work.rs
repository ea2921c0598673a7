//! A node's own work, derived from the applied catalogue: fetch missing replicas of its slots,
//! destroy released files, report its replicas, and decline replicas that it cannot make.
//!
//! Deletion has no message. A file is destroyed only under the digest's lock, and only when the
//! applied catalogue gives this node a Released slot of that digest and no slot in another state
//! (D3).
//!
//! Fetches and destructions run in parallel, a few of each at a time. Failed work waits, twice as
//! long each time, and is left out of the plans meanwhile. So neither a hung unlink nor any number
//! of unavailable segments blocks the rest.

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
/// Files destroyed at once. A slow removal does not block the others.
const DESTROYS_MAX: usize = 4;
/// Planned per round. The next round finds the rest.
const PLAN_MAX: usize = 256;
/// Reports derived per round.
const DERIVED_REPORTS_MAX: usize = 4096;
/// Times in a row that this node's disk must refuse a replica before it is declined: some seconds.
const REFUSALS_BEFORE_DECLINE: u32 = 3;

/// Work in progress, or waiting after a failure.
struct Work {
    replicas: Arc<Replicas>,
    calls: Arc<Calls>,
    fetches: Attempts,
    destroys: Attempts,
    /// Files to be destroyed, taken by the next free worker. At most [`PLAN_MAX`].
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
        // A copy, because plans over many slots must not delay apply.
        let catalogue = replicas.member.copy();
        if derived.is_none_or(|at| at.elapsed() >= replicas.this.upkeep_period()) {
            derive_reports(replicas, &catalogue);
            derived = Some(Instant::now());
        }
        if !replicas.store.is_looked_through() {
            // A segment that is not held may still have a file here.
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
            // All fetchers are busy. The next one that ends rings, and the plan is made again.
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
    /// Returns whether it succeeded.
    async fn fetch(&self, fetch: &Fetch) -> bool {
        let (replicas, digest) = (&self.replicas, fetch.digest);
        let error = match fetch::segment(replicas, &self.calls, fetch).await {
            Ok(()) => {
                replicas.say_durable(fetch.segment, fetch.epoch, digest);
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

    /// Why another node should make this replica. `None` if this node should keep trying.
    fn why_decline(&self, fetch: &Fetch, error: &FetchError) -> Option<DeclineReason> {
        let (failures, since) = self.fetches.failures(&fetch.digest);
        let reason = match error {
            FetchError::Store(StoreError::NoSpace { .. } | StoreError::NoInodes) => {
                DeclineReason::Full
            }
            FetchError::Store(StoreError::Io { .. }) => DeclineReason::Disk,
            // Another node may reach a source that this one does not reach, if any source is up.
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

    /// Destroys released files until the queue is empty.
    async fn destroy_released(&self) {
        loop {
            // A separate statement, so that the lock is not held while the disk works.
            let next = self.released.lock().pop_front();
            let Some(destroy) = next else { return };
            self.destroys.begin(destroy.digest);
            match self.destroy(&destroy).await {
                true => self.destroys.reported(destroy.digest),
                false => self.destroys.failed(destroy.digest),
            }
        }
    }

    /// Returns whether it succeeded.
    async fn destroy(&self, destroy: &Destroy) -> bool {
        let Destroy { digest, slots } = destroy;
        let (member, node) = (Arc::clone(&self.replicas.member), self.replicas.this.id);
        let digest = *digest;
        // D3 is checked again under the digest's lock.
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

/// Assigned slots whose file is here are reported. This also repeats reports that were lost. A file
/// of another length than the record's is none of them: the record's length is a false claim.
fn derive_reports(replicas: &Replicas, catalogue: &Catalogue) {
    let found = catalogue
        .slots_on(replicas.this.id, SlotState::Assigned)
        .filter(|(segment, _)| {
            replicas.store.len_of(segment.digest) == Some(segment.form.raw_len().into())
        })
        .take(DERIVED_REPORTS_MAX);
    for (segment, slot) in found {
        replicas.reporter.say(Said::Durable, segment.id, slot.epoch);
    }
}
