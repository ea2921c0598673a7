//! Scrub: every replica on this node is read again within a cycle, past the page cache, and compared
//! with the digest that the catalogue holds.
//!
//! ```text
//!   plan (pure) ──► next replica ──► its turn: bytes / rate ──► nobody reads or writes, 2 s at most
//!                                                                        │
//!   verified: the ledger knows when  ◄── good ── suspect::check ◄────────┘
//!   quarantine, slot given up, fetched from a verified source  ◄── bad
//! ```
//!
//! Its position is the ledger's times: a restart goes on where it was, and a lost ledger begins anew.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::scrub::{self, Cycle, Plan, Replica};
use cairn_host::seam::Lane;
use cairn_types::canary;
use cairn_types::ids::SegmentDigest;
use tokio::time::{Instant, sleep};

use super::{compare, suspect};
use crate::shared::Replicas;

/// Replicas of one plan. Each plan asks the ledger about every replica.
const PLAN_MAX: usize = 16_384;
/// A plan is made anew after this time, or a fiftieth of a cycle.
const PLAN_AGE: Duration = Duration::from_secs(3_600);
/// Replicas looked up at a time.
const PAGE: usize = 1_024;
/// So long a replica's turn waits for clients and other nodes to have their bytes.
const YIELD_MAX: Duration = Duration::from_secs(2);
const YIELD_STEP: Duration = Duration::from_millis(50);
/// The scrub is faster for so long after a bad replica.
const HURRY_MS: u64 = 86_400_000;

/// Runs for as long as the node. `busy`: whether clients or other nodes read or write here.
pub async fn run(replicas: Arc<Replicas>, busy: impl Fn() -> bool + Send + 'static) {
    if replicas.this.config.timings.scrub_ms == 0 {
        return;
    }
    loop {
        let pause = pause(&replicas);
        if !pause.is_zero() || !compare::is_inventoried(&replicas.member) {
            replicas.scrub.wait(pause.max(replicas.this.upkeep_period()).min(PLAN_AGE)).await;
            continue;
        }
        let asked = replicas.scrub.asked();
        let plan = plan(&replicas).await;
        if plan.totals.ripe == 0 {
            complete(&replicas);
            replicas.scrub.wait(look_again(&replicas)).await;
            continue;
        }
        let until = Instant::now() + look_again(&replicas);
        for (digest, bytes) in plan.next {
            let turn = Duration::from_millis(scrub::wait_ms(bytes, plan.bytes_per_s));
            replicas.scrub.wait(turn).await;
            if replicas.scrub.asked() != asked {
                break;
            }
            let patience = Instant::now() + YIELD_MAX;
            while busy() && Instant::now() < patience {
                sleep(YIELD_STEP).await;
            }
            read(&replicas, digest, bytes).await;
            if Instant::now() > until {
                break;
            }
        }
    }
}

/// Asks the ledger about every replica here, and plans.
pub async fn plan(replicas: &Arc<Replicas>) -> Plan {
    let owner = Arc::clone(replicas);
    let plan = move || {
        let now_ms = owner.this.env.wall_ms();
        let orders = owner.ledger.scrub_orders();
        let cycle = Cycle {
            period_ms: owner.this.config.timings.scrub_ms.max(1),
            pass_since_ms: orders.pass_since_ms,
            hurry: orders.bad_ms.is_some_and(|at| now_ms.saturating_sub(at) < HURRY_MS),
        };
        let mut after = None;
        let pages = std::iter::from_fn(|| {
            let page = owner.store.held_after(after, PAGE);
            after = page.last().map(|(digest, _)| *digest).or(after);
            (!page.is_empty()).then_some(page)
        });
        let replicas = pages.flatten().map(|(digest, bytes)| {
            let known = owner.ledger.known(digest);
            Replica { digest, bytes, known }
        });
        scrub::plan(replicas, &cycle, now_ms, PLAN_MAX)
    };
    let plan = replicas.this.env.blocking(Lane::Walk, plan).await;
    replicas.scrub.planned(plan.totals, plan.bytes_per_s);
    plan
}

async fn read(replicas: &Arc<Replicas>, digest: SegmentDigest, bytes: u64) {
    let checked = match canary!("scrub_without_reading") {
        true => {
            let known = scrub::Known::Verified(replicas.this.env.wall_ms());
            replicas.ledger.record(digest, known);
            Ok(false)
        }
        false => suspect::check(replicas, digest).await,
    };
    match checked {
        Ok(bad) => {
            replicas.counters.segments_scrubbed.add(1);
            replicas.counters.bytes_scrubbed.add(bytes);
            if bad {
                let now_ms = replicas.this.env.wall_ms();
                replicas.counters.scrub_bad.add(1);
                replicas.scrub.found_bad(digest, now_ms);
                let mut orders = replicas.ledger.scrub_orders();
                orders.bad_ms = Some(now_ms);
                replicas.ledger.set_scrub_orders(orders);
            }
        }
        // It stays ripe. The others of this plan have their turns before it.
        Err(error) => tracing::warn!(%digest, %error, "the scrub cannot read a replica"),
    }
}

/// Nothing is ripe: a pass is over.
fn complete(replicas: &Replicas) {
    let now_ms = replicas.this.env.wall_ms();
    let mut orders = replicas.ledger.scrub_orders();
    if orders.pass_since_ms.take().is_some() {
        tracing::info!("the scrub has read every replica");
    }
    orders.complete_ms = Some(now_ms);
    replicas.ledger.set_scrub_orders(orders);
}

fn pause(replicas: &Replicas) -> Duration {
    let until = replicas.ledger.scrub_orders().paused_until_ms.unwrap_or(0);
    Duration::from_millis(until.saturating_sub(replicas.this.env.wall_ms()))
}

/// How long a plan is good for: soon enough to see what ripens.
fn look_again(replicas: &Replicas) -> Duration {
    let part = Duration::from_millis(replicas.this.config.timings.scrub_ms / 50);
    part.clamp(replicas.this.upkeep_period(), PLAN_AGE)
}
