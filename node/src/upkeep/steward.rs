//! The leader's steward: asks the pure planner what the cluster needs and proposes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::command::{Body, Reply};
use cairn_core::ids::RequestId;
use cairn_core::placement::Loads;
use cairn_core::steward::{self, Observations, Silence};

use crate::shared::Shared;

pub async fn run(shared: Arc<Shared>) {
    let mut greeted_term = None;
    loop {
        shared.steward.wait(shared.upkeep_period()).await;
        if !shared.consensus.is_leader() {
            greeted_term = None;
            continue;
        }
        let term = shared.consensus.term();
        if greeted_term != Some(term) {
            // Every open lease gets a full term before anything may expire.
            match shared.propose(RequestId(0), Body::LeaderStarted).await {
                Ok(_) => greeted_term = Some(term),
                Err(status) => tracing::debug!(%status, "cannot greet as leader yet"),
            }
            continue;
        }
        round(&shared, term).await;
    }
}

/// One look and what it calls for.
async fn round(shared: &Arc<Shared>, term: u64) {
    let Some(now_ms) = shared.leader_clock_ms() else { return };
    let led_for = shared.clock.led_for(term);
    let (plan, mut more) = shared.read(|catalogue| {
        let mut loads = Loads::default();
        let mut silences = BTreeMap::new();
        for (id, node) in catalogue.nodes() {
            let silence = shared.heard.silence(*id, node.incarnation, led_for);
            let silent_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            silences.insert(*id, Silence { incarnation: node.incarnation, silent_ms });
            let pulse = shared.heard.of(*id);
            loads.observe(*id, pulse.map_or(node.capacity_bytes, |pulse| pulse.available_bytes));
        }
        let observations = Observations { now_ms, silences };
        let plan = steward::plan(catalogue, &observations, &mut loads);
        let more = !plan.is_empty();
        (plan, more)
    });
    for body in plan {
        tracing::debug!(?body, "steward proposes");
        match shared.propose(RequestId(0), body).await {
            Ok(reply) => {
                if let Reply::Refused(refusal) = &*reply {
                    tracing::debug!(%refusal, "steward's proposal refused");
                    more = false;
                }
            }
            Err(status) => {
                tracing::debug!(%status, "steward's proposal not taken");
                return;
            }
        }
    }
    if more {
        // What one round's bounds left over is done by the next, at once.
        shared.steward.ring();
        tokio::task::yield_now().await;
    }
}
