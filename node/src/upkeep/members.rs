//! The leader's upkeep of Raft membership. Every node of the catalogue is at least a learner, so
//! every node holds the applied catalogue. A pure function chooses the voters, one change at a
//! time. Removed nodes leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cairn_core::voters::{self, Change};
use cairn_types::ids::{Incarnation, NodeId};
use cairn_types::model::{Admin, Node};

use super::candidates::candidates;
use super::leaving;
use crate::raft::ChangeError;
use crate::shared::{Calls, Ending, LeaderState, Member};

pub async fn run(calls: Arc<Calls>, leader: Arc<LeaderState>, ending: Arc<Ending>) {
    loop {
        leader.members.wait(calls.this.upkeep_period()).await;
        remember_peers(&calls, &ending).await;
        if !calls.member.consensus.is_leader() {
            continue;
        }
        match round(&calls.member, &leader).await {
            Ok(false) => {}
            // One change at a time, without a pause between them.
            Ok(true) => leader.members.ring(),
            Err(error) => {
                tracing::debug!(%error, "membership change not done; tried again later");
            }
        }
    }
}

/// The addresses that a restart will send its hello to. This node's own address is left out.
/// Another node may use the address that this node had before it moved.
async fn remember_peers(calls: &Calls, ending: &Ending) {
    let own = &calls.this.config.address;
    let addresses = calls.member.read(|catalogue| {
        catalogue
            .nodes()
            // A node that never registered was not called back, so its address is not confirmed.
            .filter(|record| record.admin != Admin::Removed && is_registered(record))
            .filter(|record| record.address != *own)
            .map(|record| record.address.clone())
            .collect::<Vec<_>>()
    });
    if !addresses.is_empty() {
        let remembered = calls.peers.remember(&calls.this.env, &calls.this.disk, addresses).await;
        if let Err(failed) = remembered {
            ending.fatal(failed.to_string());
        }
    }
}

/// Makes at most one change. Returns whether there was one.
async fn round(member: &Member, leader: &LeaderState) -> Result<bool, String> {
    // A leader that has not applied all entries may not know a member yet.
    let fresh = member.read_index(member.this.call_deadline()).await;
    fresh.map_err(|status| status.message().to_owned())?;
    let status = member.consensus.status();
    let members: BTreeMap<&u64, &String> = status.voters.iter().chain(&status.learners).collect();
    let text = |error: ChangeError| error.to_string();
    let (wanted, removed): (BTreeMap<u64, String>, BTreeSet<u64>) = member.read(|catalogue| {
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
                return member
                    .consensus
                    .set_address(*id, address)
                    .await
                    .map(|()| true)
                    .map_err(text);
            }
            None => {
                tracing::info!(node = id, address, "adding a Raft learner");
                return member
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
        return member.consensus.change_voters(voters).await.map(|()| true).map_err(text);
    }
    let current: BTreeSet<NodeId> = status.voters.keys().map(|id| NodeId(*id)).collect();
    let candidates = candidates(member, leader, &status);
    if let Some(change) = voters::next_change(&current, &candidates) {
        // A leader that loses its own vote would leave the others without a leader until an
        // election.
        if change.removes(member.this.id) && leaving::hand_over(member, leader).await {
            return Ok(false);
        }
        tracing::info!(?change, "changing Raft voters");
        return change_voters(member, leader, &current, change).await.map(|()| true);
    }
    for id in removed {
        if members.contains_key(&id) && !current.contains(&NodeId(id)) {
            tracing::info!(node = id, "removing a Raft learner");
            let gone = member.consensus.remove_learners(BTreeSet::from([id])).await;
            return gone.map(|()| true).map_err(text);
        }
    }
    Ok(false)
}

fn is_registered(node: &Node) -> bool {
    node.incarnation != Incarnation(0)
}

/// Adds a voter, removes one, or replaces one, in one joint change. So the old majority and the new
/// one are enough. Adding the newcomer first would need three votes of four, and one of the four
/// may be dead. Refused if the removal of the newcomer began after the change was chosen.
async fn change_voters(
    member: &Member,
    leader: &LeaderState,
    current: &BTreeSet<NodeId>,
    change: Change,
) -> Result<(), String> {
    let next = change.applied_to(current);
    let newcomers = next.difference(current).copied().collect();
    let _coming = leader
        .leaving
        .begin_change(newcomers)
        .map_err(|node| format!("node {node} is being removed: it does not become a voter"))?;
    let next = next.into_iter().map(|id| id.0).collect();
    member.consensus.change_voters(next).await.map_err(|error| error.to_string())
}
