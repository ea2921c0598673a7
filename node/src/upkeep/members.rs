//! The leader's care for Raft membership: every node of the catalogue is at least a learner, so
//! every node holds the applied catalogue; voters are chosen by a pure function, one change at a
//! time; removed nodes leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::voters::{self, Candidate, Change};
use cairn_types::ids::{Incarnation, NodeId};
use cairn_types::model::{Admin, Liveness, Node};

use crate::leaving;
use crate::raft::{ChangeError, RaftStatus};
use crate::shared::Shared;

/// A learner this many entries behind the leader may become a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// A node whose last heartbeat is older than so many periods is not counted on.
pub const HEARD_BEATS: u32 = 3;

pub async fn run(shared: Arc<Shared>) {
    loop {
        shared.members.wait(shared.this.upkeep_period()).await;
        remember_peers(&shared).await;
        if !shared.member.consensus.is_leader() {
            continue;
        }
        match round(&shared).await {
            Ok(false) => {}
            // One change at a time, but no pause between them.
            Ok(true) => shared.members.ring(),
            Err(error) => {
                tracing::debug!(%error, "membership change not done; tried again later");
            }
        }
    }
}

/// The addresses a restart will say hello to. Where this node was registered before it moved,
/// another one may be by now.
async fn remember_peers(shared: &Arc<Shared>) {
    let own = &shared.this.config.address;
    let addresses = shared.member.read(|catalogue| {
        catalogue
            .nodes()
            // One that never registered was not called back: nobody knows whether it is there.
            .filter(|record| record.admin != Admin::Removed && is_registered(record))
            .filter(|record| record.address != *own)
            .map(|record| record.address.clone())
            .collect::<Vec<_>>()
    });
    if !addresses.is_empty() {
        let remembered =
            shared.peers.remember(&shared.this.env, &shared.this.disk, addresses).await;
        if let Err(failed) = remembered {
            (shared.fatal)(failed.to_string());
        }
    }
}

/// One change at the most; whether there was one.
async fn round(shared: &Arc<Shared>) -> Result<bool, String> {
    // A leader that has not applied everything may not know a member yet.
    let fresh = shared.member.read_index(shared.this.call_deadline()).await;
    fresh.map_err(|status| status.message().to_owned())?;
    let status = shared.member.consensus.status();
    let members: BTreeMap<&u64, &String> = status.voters.iter().chain(&status.learners).collect();
    let text = |error: ChangeError| error.to_string();
    let (wanted, removed): (BTreeMap<u64, String>, BTreeSet<u64>) =
        shared.member.read(|catalogue| {
            let mut wanted = BTreeMap::new();
            let mut removed = BTreeSet::new();
            for node in catalogue.nodes() {
                if node.admin == Admin::Removed {
                    removed.insert(node.id.0);
                } else if is_registered(node) {
                    wanted.insert(node.id.0, node.address.clone());
                }
            }
            (wanted, removed)
        });
    for (id, address) in &wanted {
        match members.get(id) {
            Some(known) if *known == address => {}
            Some(_) => {
                tracing::info!(node = id, address, "a Raft member has a new address");
                return shared
                    .member
                    .consensus
                    .set_address(*id, address)
                    .await
                    .map(|()| true)
                    .map_err(text);
            }
            None => {
                tracing::info!(node = id, address, "adding a Raft learner");
                return shared
                    .member
                    .consensus
                    .add_learner(*id, address)
                    .await
                    .map(|()| true)
                    .map_err(text);
            }
        }
    }
    if let Some(voters) = status.going_to {
        // A change that a former leader left half done is finished first.
        return shared.member.consensus.change_voters(voters).await.map(|()| true).map_err(text);
    }
    let current: BTreeSet<NodeId> = status.voters.keys().map(|id| NodeId(*id)).collect();
    let candidates = candidates(shared, &status);
    if let Some(change) = voters::next_change(&current, &candidates) {
        // A leader that loses its own vote would leave the others to elect one after a silence.
        if change.removes(shared.this.id) && leaving::hand_over(shared).await {
            return Ok(false);
        }
        tracing::info!(?change, "changing Raft voters");
        return change_voters(shared, &current, change).await.map(|()| true);
    }
    for id in removed {
        if members.contains_key(&id) && !current.contains(&NodeId(id)) {
            tracing::info!(node = id, "removing a Raft learner");
            let gone = shared.member.consensus.remove_learners(BTreeSet::from([id])).await;
            return gone.map(|()| true).map_err(text);
        }
    }
    Ok(false)
}

fn is_registered(node: &Node) -> bool {
    node.incarnation != Incarnation(0)
}

/// What the pure choice of voters looks at.
pub fn candidates(shared: &Shared, status: &RaftStatus) -> Vec<Candidate> {
    let applied = shared.member.consensus.applied();
    let now_ms = shared.member.leader_clock_ms().unwrap_or(0);
    let caught_up = |id: NodeId| {
        let matched = status.matched.get(&id.0).copied().flatten().unwrap_or(0);
        matched > 0 && matched + CAUGHT_UP_ENTRIES >= applied
    };
    let leaving = shared.leaving.now();
    let silence = HEARD_BEATS * Duration::from_millis(shared.this.config.timings.heartbeat_ms);
    shared.member.read(|catalogue| {
        let patience_ms = catalogue.cluster().settings.replace_after_ms;
        let candidate = |node: &Node| {
            let up = node.liveness == Liveness::Up;
            // A change of voters that needs one who has just died stops all writes until that one
            // is back: heard of late, not only not yet given up.
            let heard = node.id == shared.this.id
                || shared
                    .heartbeats
                    .of(node.id)
                    .is_some_and(|it| !it.stops && it.at.elapsed() < silence);
            Candidate {
                id: node.id,
                host: node.host.clone(),
                rack: node.rack.clone(),
                up: up && heard,
                removed: node.admin == Admin::Removed || leaving.contains(&node.id),
                long_down: !up && now_ms >= node.liveness_since_ms.saturating_add(patience_ms),
                caught_up: caught_up(node.id),
            }
        };
        catalogue.nodes().map(candidate).collect()
    })
}

/// One voter more, one less, or one for another: in one joint change, so that the old majority
/// and the new one are enough. To take the newcomer in first would ask for three of four, of
/// which one may be dead. Refused where the removal of the newcomer began after the change was
/// chosen.
async fn change_voters(
    shared: &Shared,
    current: &BTreeSet<NodeId>,
    change: Change,
) -> Result<(), String> {
    let next = change.applied_to(current);
    let newcomers = next.difference(current).copied().collect();
    let _coming = shared
        .leaving
        .begin_change(newcomers)
        .map_err(|node| format!("node {node} is being removed: it does not become a voter"))?;
    let next = next.into_iter().map(|id| id.0).collect();
    shared.member.consensus.change_voters(next).await.map_err(|error| error.to_string())
}
