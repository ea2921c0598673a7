//! How a node is removed: its vote moves first, then its record is removed.
//!
//! ```text
//! asked --allowed?--> leaving --members move the vote--> not a voter, committed --> RemoveNode
//!          | no: refused, and nothing has changed
//! ```
//!
//! A node that is removed while the group still needs its vote would take that vote along. For
//! example, of two voters both must agree to go down to one. So the leader moves the vote while the
//! node is still a full member. If it is that node itself, it first hands over leadership. It
//! proposes the removal last. A removal and a change of voters exclude each other for one node
//! ([`Leaving`](crate::shared::leader::Leaving)). If this leader ends in between, the client's next
//! attempt begins again on another leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::voters;
use cairn_proto::wire;
use cairn_types::canary;
use cairn_types::command::{self, Accept, Body, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{NodeId, RequestId};
use cairn_types::model::Admin;
use cairn_types::rights::Subject;
use tokio::time::Instant;
use tonic::Status;

use super::candidates::{HEARD_BEATS, candidates};
use crate::caller::Caller;
use crate::shared::leader::MOVE_DEADLINE;
use crate::shared::{LeaderState, Member};

/// Period of the check whether the vote has moved.
const LOOK: Duration = Duration::from_millis(25);
/// Time limit for handing leadership to another voter before the leader continues without that.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);

/// Removes a node. Only on the leader.
pub async fn remove(
    member: &Member,
    leader: &LeaderState,
    (subject, request): (Subject, RequestId),
    remove: command::RemoveNode,
) -> Result<Arc<Reply>, Status> {
    let command::RemoveNode { node, accept } = remove;
    // Changes that an earlier leader committed count.
    member.read_index(member.this.call_deadline()).await?;
    let body = Body::RemoveNode(command::RemoveNode { node, accept });
    if is_removed(member, node) {
        return member.propose_for(subject, request, body).await;
    }
    let moved = match leave_soon(member, leader, node, accept).await {
        Err(refusal) => return Ok(Arc::new(Reply::Refused(refusal))),
        Ok(_) => move_vote(member, leader, node, accept).await,
    };
    let reply = match moved {
        Ok(()) => {
            let reply = member.propose_for(subject, request, body).await;
            leader.leaving.proposed(node, &reply);
            reply
        }
        Err(stays) => {
            leader.leaving.end(node);
            match stays {
                Stays::Refused(refusal) => Ok(Arc::new(Reply::Refused(refusal))),
                Stays::Passing(status) => Err(status),
            }
        }
    };
    leader.members.ring();
    reply
}

fn is_removed(member: &Member, node: NodeId) -> bool {
    member.read(|catalogue| catalogue.node(node).is_some_and(|it| it.admin == Admin::Removed))
}

/// The voters without this node, if it may leave as far as this leader can tell. Changes nothing.
pub fn leave(
    member: &Member,
    leader: &LeaderState,
    node: NodeId,
    accept: Accept,
) -> Result<BTreeSet<NodeId>, Refusal> {
    member.read(|catalogue| catalogue.may_remove(node, accept))?;
    let status = member.consensus.status();
    let current = status.voters.keys().map(|id| NodeId(*id)).collect();
    if canary!("remove_before_the_vote") {
        return Ok(current);
    }
    voters::leave(&current, &candidates(member, leader, &status), node)
}

/// Like [`leave`]. If the majority is not up, it is repeated for as long as a new leader needs to
/// hear from all nodes.
async fn leave_soon(
    member: &Member,
    leader: &LeaderState,
    node: NodeId,
    accept: Accept,
) -> Result<BTreeSet<NodeId>, Refusal> {
    let beat = Duration::from_millis(member.this.config.timings.heartbeat_ms);
    let end = Instant::now() + HEARD_BEATS * beat;
    loop {
        match leave(member, leader, node, accept) {
            Err(Refusal::NoMajority { .. }) if Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
            }
            answer => return answer,
        }
    }
}

/// The effect of a removal, for an operator who asks before removing.
pub async fn plan(
    member: &Member,
    leader: &LeaderState,
    caller: &Caller,
    node: NodeId,
    accept: Accept,
) -> Result<wire::PlanRemovalReply, Status> {
    caller.read_index(member).await?;
    if !member.consensus.is_leader() {
        return Err(member.not_leader());
    }
    let cost = member.read(|catalogue| catalogue.removal_cost(node));
    let (refused, voters) = match leave_soon(member, leader, node, accept).await {
        Ok(voters) => (None, voters.into_iter().map(|id| id.0).collect()),
        Err(refusal) => (Some(convert::refusal_to_wire(&refusal)), Vec::new()),
    };
    Ok(wire::PlanRemovalReply {
        refused,
        votes: member.consensus.voters().contains_key(&node.0),
        leads: member.this.id == node,
        voters,
        segments: cost.segments,
        bytes: cost.bytes,
        segments_lost: cost.segments_lost,
        bytes_lost: cost.bytes_lost,
    })
}

/// Why a node keeps its vote.
enum Stays {
    Refused(Refusal),
    Passing(Status),
}

/// Waits until the group no longer needs the node's vote.
async fn move_vote(
    member: &Member,
    leader: &LeaderState,
    node: NodeId,
    accept: Accept,
) -> Result<(), Stays> {
    let end = Instant::now() + MOVE_DEADLINE;
    // From here on the node is not chosen as a voter.
    leader.leaving.add(node);
    // The order matters: first no change can make it a voter, then its vote is checked.
    while leader.leaving.is_coming(node) || member.consensus.may_vote(node.0) {
        if !member.consensus.is_leader() {
            return Err(Stays::Passing(member.not_leader()));
        }
        // Others may go down in the meantime.
        let changing = member.consensus.status().going_to.is_some();
        if !changing {
            leave(member, leader, node, accept).map_err(Stays::Refused)?;
        }
        if Instant::now() >= end {
            let text = format!("the vote of node {node} could not be moved in {MOVE_DEADLINE:?}");
            return Err(Stays::Passing(Status::unavailable(text)));
        }
        leader.leaving.add(node);
        leader.members.ring();
        tokio::time::sleep(LOOK).await;
    }
    // It is not a voter and must not become one before the entry is committed.
    leader.leaving.add(node);
    Ok(())
}

/// Offers leadership to the other voter with the longest log. Returns whether this node no longer
/// leads.
pub async fn hand_over(member: &Member, leader: &LeaderState) -> bool {
    let status = member.consensus.status();
    let candidates = candidates(member, leader, &status);
    let fit = candidates.iter().filter(|it| {
        let votes = status.voters.contains_key(&it.id.0);
        it.id != member.this.id && votes && it.up && it.caught_up && !it.removed
    });
    let heir = fit.map(|it| it.id.0).max_by_key(|id| status.matched.get(id).copied().flatten());
    let Some(heir) = heir else { return !member.consensus.is_leader() };
    tracing::info!(to = heir, "handing over leadership");
    member.consensus.transfer_leader(heir).await;
    let end = Instant::now() + HAND_OVER_DEADLINE;
    while member.consensus.is_leader() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
    !member.consensus.is_leader()
}
