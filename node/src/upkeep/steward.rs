//! The leader's steward: gets the cluster's needs from the pure planner and proposes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_core::placement::Loads;
use cairn_core::steward::{self, Cursor, Heartbeat, Observations};
use cairn_types::command::{self, Body, Reply};
use cairn_types::ids::{NodeId, RequestId};

use crate::shared::{LeaderState, Member};

pub async fn run(member: Arc<Member>, leader: Arc<LeaderState>) {
    let mut greeted_term = None;
    let mut cursor = Cursor::default();
    loop {
        leader.steward.wait(member.this.upkeep_period()).await;
        if !member.consensus.is_leader() {
            greeted_term = None;
            continue;
        }
        let term = member.consensus.term();
        if greeted_term != Some(term) {
            // Every open lease gets a full term before anything may expire.
            match member.propose(RequestId(0), Body::LeaderStarted(command::LeaderStarted)).await {
                Ok(reply) => match reply.refusal() {
                    None => {
                        greeted_term = Some(term);
                        cursor = Cursor::default();
                    }
                    Some(refusal) => tracing::debug!(%refusal, "cannot greet as leader yet"),
                },
                Err(status) => tracing::debug!(%status, "cannot greet as leader yet"),
            }
            continue;
        }
        round(&member, &leader, term, &mut cursor).await;
    }
}

/// One look, and the proposals that follow from it.
async fn round(member: &Member, leader: &LeaderState, term: u64, cursor: &mut Cursor) {
    let Some(now_ms) = member.leader_clock_ms() else { return };
    let leading_ms = as_ms(member.led_for(term));
    let mut loads = Loads::default();
    let mut heartbeats = BTreeMap::new();
    member.read(|catalogue| {
        for node in catalogue.nodes() {
            let Some(pulse) = leader.heartbeats.of(node.id) else { continue };
            let age_ms = if pulse.stops { u64::MAX } else { as_ms(pulse.at.elapsed()) };
            heartbeats.insert(node.id, Heartbeat { incarnation: pulse.incarnation, age_ms });
            if pulse.incarnation == node.incarnation {
                loads.observe(node.id, pulse.bytes_for_slots(), pulse.bytes_in_flight);
            }
        }
    });
    let status = member.consensus.status();
    let members = status.voters.keys().chain(status.learners.keys());
    let members = members.map(|id| NodeId(*id)).collect();
    let hastened = leader.hastened.list();
    let wall_ms = member.label_ms();
    let seen = Observations { now_ms, wall_ms, leading_ms, heartbeats, members, hastened };
    // A look at tens of thousands of segments must not delay the leader's heartbeats so long that
    // it loses its leadership.
    let mut at = std::mem::take(cursor);
    let look =
        move |catalogue: &Catalogue| (steward::plan(catalogue, &seen, &mut loads, &mut at), at);
    let (plan, at) = member.walk(look).await;
    leader.retention_runs.set(term, at.retention.waiting().collect());
    *cursor = at;
    let mut more = !plan.is_empty();
    for body in plan {
        tracing::debug!(?body, "steward proposes");
        match member.propose(RequestId(0), body).await {
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
        // The next round follows at once and does the work above this round's limits.
        leader.steward.ring();
        tokio::task::yield_now().await;
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
