//! What a drain would move, and what is left of one.

use cairn_core::catalogue::Catalogue;
use cairn_core::drain::{self, Tally};
use cairn_core::placement::Loads;
use cairn_proto::wire;
use cairn_types::command::Refusal;
use cairn_types::convert;
use cairn_types::ids::NodeId;
use tonic::Status;

use crate::caller::Caller;
use crate::shared::{LeaderState, Member};

/// A plan for an operator. Only the leader knows how much room nodes have.
pub(super) async fn plan(
    member: &Member,
    leader: &LeaderState,
    caller: &Caller,
    node: NodeId,
) -> Result<wire::PlanDrainReply, Status> {
    caller.read_index(member).await?;
    if !member.consensus.is_leader() {
        return Err(member.not_leader());
    }
    let loads = member.read(|catalogue| room(leader, catalogue));
    let plan = member.walk(move |catalogue| drain::plan(catalogue, &loads, node)).await;
    let target = |(node, tally): (NodeId, Tally)| wire::DrainTarget {
        node: node.0,
        segments: tally.segments,
        bytes: tally.bytes,
    };
    let obstacle = |(reason, tally): (Refusal, Tally)| wire::DrainObstacle {
        reason: Some(convert::refusal_to_wire(&reason)),
        segments: tally.segments,
        bytes: tally.bytes,
    };
    Ok(wire::PlanDrainReply {
        refused: plan.refused.as_ref().map(convert::refusal_to_wire),
        votes: member.consensus.voters().contains_key(&node.0),
        leads: member.this.id == node,
        segments: plan.held.segments,
        bytes: plan.held.bytes,
        targets: plan.targets.into_iter().map(target).collect(),
        obstacles: plan.obstacles.into_iter().map(obstacle).collect(),
        looked_at: plan.looked_at,
    })
}

/// The room of all nodes, as their last heartbeats told it.
fn room(leader: &LeaderState, catalogue: &Catalogue) -> Loads {
    let mut loads = Loads::default();
    for node in catalogue.nodes() {
        let pulse = leader.heartbeats.of(node.id);
        if let Some(pulse) = pulse.filter(|pulse| pulse.incarnation == node.incarnation) {
            loads.observe(node.id, pulse.bytes_for_slots(), pulse.bytes_in_flight);
        }
    }
    loads
}
