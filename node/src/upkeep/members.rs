//! The leader's care for Raft membership: every node of the catalogue is at least a learner, so
//! every node holds the applied catalogue; voters are chosen by a pure function, one change at a
//! time; removed nodes leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::NodeId;
use cairn_core::model::Admin;
use cairn_core::voters::{self, Change};

use crate::shared::Shared;

/// A learner this many entries behind the leader may become a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

pub async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.upkeep_period()).await;
        remember_peers(&shared).await;
        if shared.consensus.is_leader()
            && let Err(error) = round(&shared).await
        {
            tracing::debug!(%error, "membership change not done; tried again later");
        }
    }
}

/// The addresses a restart will say hello to.
async fn remember_peers(shared: &Arc<Shared>) {
    let node = shared.node;
    let addresses = shared.read(|catalogue| {
        catalogue
            .nodes()
            .values()
            .filter(|record| record.id != node && record.admin != Admin::Removed)
            .map(|record| record.address.clone())
            .collect::<Vec<_>>()
    });
    if !addresses.is_empty() {
        shared.peers.remember(&shared.env, shared.store.disk(), addresses).await;
    }
}

/// One change at the most.
async fn round(shared: &Arc<Shared>) -> Result<(), String> {
    let members: BTreeMap<u64, String> = shared.consensus.members();
    let (wanted, removed): (BTreeMap<u64, String>, BTreeSet<u64>) = shared.read(|catalogue| {
        let mut wanted = BTreeMap::new();
        let mut removed = BTreeSet::new();
        for (id, node) in catalogue.nodes() {
            if node.admin == Admin::Removed {
                removed.insert(id.0);
            } else {
                wanted.insert(id.0, node.address.clone());
            }
        }
        (wanted, removed)
    });
    for (id, address) in &wanted {
        if members.get(id) != Some(address) {
            tracing::info!(node = id, address, "adding or moving a Raft learner");
            return shared.consensus.set_member(*id, address.clone()).await;
        }
    }
    let current: BTreeSet<NodeId> = shared.consensus.voters().into_iter().map(NodeId).collect();
    let progress = shared.consensus.progress();
    let applied = shared.consensus.applied();
    let caught_up: BTreeSet<NodeId> = progress
        .iter()
        .filter(|(_, matched)| matched.unwrap_or(0) + CAUGHT_UP_ENTRIES >= applied)
        .map(|(id, _)| NodeId(*id))
        .collect();
    let now_ms = shared.leader_clock_ms().unwrap_or(0);
    let change =
        shared.read(|catalogue| voters::next_change(catalogue, &current, &caught_up, now_ms));
    if let Some(change) = change {
        tracing::info!(?change, "changing Raft voters");
        let mut next: BTreeSet<u64> = current.iter().map(|id| id.0).collect();
        match change {
            Change::Add(node) => {
                next.insert(node.0);
            }
            Change::Replace { remove, add } => {
                next.remove(&remove.0);
                next.insert(add.0);
            }
            Change::Remove(node) => {
                next.remove(&node.0);
            }
        }
        return shared.consensus.change_voters(next).await;
    }
    for id in removed {
        if members.contains_key(&id) && !current.contains(&NodeId(id)) {
            tracing::info!(node = id, "removing a Raft learner");
            return shared.consensus.remove_member(id).await;
        }
    }
    Ok(())
}

/// How long a membership change may take before the next look.
pub const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
