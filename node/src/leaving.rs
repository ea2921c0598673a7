//! How a node leaves: its vote goes first, then its record.
//!
//! ```text
//! asked --may it?--> leaving --members move the vote--> not a voter, committed --> RemoveNode
//!          | no: refused, and nothing has changed
//! ```
//!
//! A node that is removed while the group still needs its vote would take that vote along: of two
//! voters both must agree to be one. So the leader moves the vote while the node is a member in
//! full, hands over leadership first if it is that node itself, and proposes the removal last.
//! A removal and a change of voters exclude each other for one node ([`Leaving`]): a removed node
//! that becomes a voter is down for good, and its vote may be needed for every later change.
//! Where this leader ends on the way, the client's next try begins again with another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::voters;
use cairn_proto::wire;
use cairn_types::canary;
use cairn_types::command::{self, Accept, Body, Refusal, Reply};
use cairn_types::convert;
use cairn_types::ids::{NodeId, RequestId};
use cairn_types::model::Admin;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use crate::shared::{Member, Shared};
use crate::upkeep::members;

/// A vote that has not moved by then stays where it is: a membership change takes two entries and
/// a majority that answers.
const MOVE_DEADLINE: Duration = Duration::from_secs(20);
/// How often it is looked whether the vote has moved.
const LOOK: Duration = Duration::from_millis(25);
/// Leadership is offered to another voter for so long before the leader goes without.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);

/// Nodes whose vote is to go elsewhere, and nodes that are becoming voters. Soft: it ends with
/// this process.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<Moves>);

#[derive(Debug, Default)]
struct Moves {
    /// Until when the vote is being moved; afterwards the node is a member as before.
    leaving: BTreeMap<NodeId, Instant>,
    /// Removals that were proposed without an answer: until then they may still be committed.
    in_doubt: BTreeMap<NodeId, Instant>,
    /// The new voters of the change that is under way.
    coming: BTreeSet<NodeId>,
}

/// A change of voters under way: the removal of a new voter waits for its end.
#[must_use]
pub struct Coming<'a>(&'a Leaving);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.0.lock().coming.clear();
    }
}

impl Leaving {
    pub fn now(&self) -> BTreeSet<NodeId> {
        self.0.lock().now()
    }

    /// Begins a change by which `newcomers` become voters, one change at a time. An error names a
    /// newcomer whose removal has begun: it must not get a vote.
    pub fn begin_change(&self, newcomers: BTreeSet<NodeId>) -> Result<Coming<'_>, NodeId> {
        let mut moves = self.0.lock();
        if let Some(node) = moves.now().intersection(&newcomers).next() {
            return Err(*node);
        }
        moves.coming = newcomers;
        Ok(Coming(self))
    }

    fn is_coming(&self, node: NodeId) -> bool {
        self.0.lock().coming.contains(&node)
    }

    fn add(&self, node: NodeId) {
        self.0.lock().leaving.insert(node, Instant::now() + MOVE_DEADLINE);
    }

    /// Nothing was proposed by this try.
    fn end(&self, node: NodeId) {
        self.0.lock().leaving.remove(&node);
    }

    /// A removal was proposed. Only a reply ends it: without one it may be committed yet, so the
    /// node gets no vote until the deadline.
    fn proposed<T, E>(&self, node: NodeId, reply: &Result<T, E>) {
        let mut moves = self.0.lock();
        moves.leaving.remove(&node);
        match reply {
            Ok(_) => moves.in_doubt.remove(&node),
            Err(_) => moves.in_doubt.insert(node, Instant::now() + MOVE_DEADLINE),
        };
    }
}

impl Moves {
    fn now(&mut self) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.leaving.retain(|_, until| now < *until);
        self.in_doubt.retain(|_, until| now < *until);
        self.leaving.keys().chain(self.in_doubt.keys()).copied().collect()
    }
}

/// Removes a node; on the leader.
pub async fn remove(
    shared: &Arc<Shared>,
    request: RequestId,
    node: NodeId,
    accept: Accept,
) -> Result<Arc<Reply>, Status> {
    // What an earlier leader has committed counts.
    shared.member.read_index(shared.this.call_deadline()).await?;
    let body = Body::RemoveNode(command::RemoveNode { node, accept });
    if is_removed(&shared.member, node) {
        return shared.member.propose(request, body).await;
    }
    let moved = match leave_soon(shared, node, accept).await {
        Err(refusal) => return Ok(Arc::new(Reply::Refused(refusal))),
        Ok(_) => move_vote(shared, node, accept).await,
    };
    let reply = match moved {
        Ok(()) => {
            let reply = shared.member.propose(request, body).await;
            shared.leaving.proposed(node, &reply);
            reply
        }
        Err(stays) => {
            shared.leaving.end(node);
            match stays {
                Stays::Refused(refusal) => Ok(Arc::new(Reply::Refused(refusal))),
                Stays::Passing(status) => Err(status),
            }
        }
    };
    shared.members.ring();
    reply
}

fn is_removed(member: &Member, node: NodeId) -> bool {
    member.read(|catalogue| catalogue.node(node).is_some_and(|it| it.admin == Admin::Removed))
}

/// Who would vote without a node, if it may go as far as this leader can tell; changes nothing.
pub fn leave(shared: &Shared, node: NodeId, accept: Accept) -> Result<BTreeSet<NodeId>, Refusal> {
    shared.member.read(|catalogue| catalogue.may_remove(node, accept))?;
    let status = shared.member.consensus.status();
    let current = status.voters.keys().map(|id| NodeId(*id)).collect();
    if canary!("remove_before_the_vote") {
        return Ok(current);
    }
    voters::leave(&current, &members::candidates(shared, &status), node)
}

/// [`leave`], where the majority is not up asked again for as long as a new leader needs to hear
/// from everybody.
async fn leave_soon(
    shared: &Shared,
    node: NodeId,
    accept: Accept,
) -> Result<BTreeSet<NodeId>, Refusal> {
    let beat = Duration::from_millis(shared.this.config.timings.heartbeat_ms);
    let end = Instant::now() + members::HEARD_BEATS * beat;
    loop {
        match leave(shared, node, accept) {
            Err(Refusal::NoMajority { .. }) if Instant::now() < end => {
                tokio::time::sleep(LOOK).await;
            }
            answer => return answer,
        }
    }
}

/// What a removal would do, for an operator who asks first.
pub async fn plan(
    shared: &Arc<Shared>,
    node: NodeId,
    accept: Accept,
) -> Result<wire::PlanRemovalReply, Status> {
    shared.member.read_index(shared.this.call_deadline()).await?;
    if !shared.member.consensus.is_leader() {
        return Err(shared.member.not_leader());
    }
    let cost = shared.member.read(|catalogue| catalogue.removal_cost(node));
    let (refused, voters) = match leave_soon(shared, node, accept).await {
        Ok(voters) => (None, voters.into_iter().map(|id| id.0).collect()),
        Err(refusal) => (Some(convert::refusal_to_wire(&refusal)), Vec::new()),
    };
    Ok(wire::PlanRemovalReply {
        refused,
        votes: shared.member.consensus.voters().contains_key(&node.0),
        leads: shared.this.id == node,
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

/// Waits until the group needs the node's vote no more.
async fn move_vote(shared: &Arc<Shared>, node: NodeId, accept: Accept) -> Result<(), Stays> {
    let end = Instant::now() + MOVE_DEADLINE;
    // From here on it is not chosen as a voter.
    shared.leaving.add(node);
    // In this order: once no change makes it a voter, it is seen whether it is one.
    while shared.leaving.is_coming(node) || shared.member.consensus.may_vote(node.0) {
        if !shared.member.consensus.is_leader() {
            return Err(Stays::Passing(shared.member.not_leader()));
        }
        // Others may go down meanwhile.
        let changing = shared.member.consensus.status().going_to.is_some();
        if !changing {
            leave(shared, node, accept).map_err(Stays::Refused)?;
        }
        if Instant::now() >= end {
            let text = format!("the vote of node {node} could not be moved in {MOVE_DEADLINE:?}");
            return Err(Stays::Passing(Status::unavailable(text)));
        }
        shared.leaving.add(node);
        shared.members.ring();
        tokio::time::sleep(LOOK).await;
    }
    // Not a voter, and not to become one before the entry is in.
    shared.leaving.add(node);
    Ok(())
}

/// Offers leadership to the other voter that has the most of the log. Whether this node leads no
/// more.
pub async fn hand_over(shared: &Shared) -> bool {
    let status = shared.member.consensus.status();
    let candidates = members::candidates(shared, &status);
    let fit = candidates.iter().filter(|it| {
        let votes = status.voters.contains_key(&it.id.0);
        it.id != shared.this.id && votes && it.up && it.caught_up && !it.removed
    });
    let heir = fit.map(|it| it.id.0).max_by_key(|id| status.matched.get(id).copied().flatten());
    let Some(heir) = heir else { return !shared.member.consensus.is_leader() };
    tracing::info!(to = heir, "handing over leadership");
    shared.member.consensus.transfer_leader(heir).await;
    let end = Instant::now() + HAND_OVER_DEADLINE;
    while shared.member.consensus.is_leader() && Instant::now() < end {
        tokio::time::sleep(LOOK).await;
    }
    !shared.member.consensus.is_leader()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_removal_has_begun_gets_no_vote() {
        let leaving = Leaving::default();
        leaving.add(NodeId(4));
        let refused = leaving.begin_change(BTreeSet::from([NodeId(4)]));
        assert_eq!(refused.err(), Some(NodeId(4)));
        let other = leaving.begin_change(BTreeSet::from([NodeId(5)]));
        assert!(other.is_ok(), "only that node");
        drop(other);
        tokio::time::sleep(MOVE_DEADLINE).await;
        let again = leaving.begin_change(BTreeSet::from([NodeId(4)]));
        assert!(again.is_ok(), "a removal that was given up ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_without_an_answer_keeps_the_node_from_a_vote() {
        let leaving = Leaving::default();
        let newcomer = || BTreeSet::from([NodeId(4)]);
        leaving.add(NodeId(4));
        leaving.proposed(NodeId(4), &Err::<(), _>("the leader changed"));
        assert_eq!(leaving.begin_change(newcomer()).err(), Some(NodeId(4)), "it may be committed");
        // A second try that proposes nothing knows no more.
        leaving.add(NodeId(4));
        leaving.end(NodeId(4));
        assert_eq!(leaving.begin_change(newcomer()).err(), Some(NodeId(4)));
        tokio::time::sleep(MOVE_DEADLINE).await;
        assert!(leaving.begin_change(newcomer()).is_ok());

        leaving.proposed(NodeId(4), &Err::<(), _>("the leader changed"));
        leaving.proposed(NodeId(4), &Ok::<_, ()>("refused"));
        assert!(leaving.begin_change(newcomer()).is_ok(), "a reply ends it at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_sees_the_change_that_makes_the_node_a_voter() {
        let leaving = Leaving::default();
        let change = leaving.begin_change(BTreeSet::from([NodeId(4)])).unwrap();
        leaving.add(NodeId(4));
        assert!(leaving.is_coming(NodeId(4)), "the removal waits");
        assert!(!leaving.is_coming(NodeId(5)));
        drop(change);
        assert!(!leaving.is_coming(NodeId(4)));
    }
}
