//! The nodes as input for the pure choice of voters: data of the catalogue and of the leader's
//! heartbeats.

use std::time::Duration;

use cairn_core::voters::Candidate;
use cairn_types::ids::NodeId;
use cairn_types::model::{Admin, Duty, Liveness, Node};

use crate::raft::RaftStatus;
use crate::shared::{LeaderState, Member};

/// A learner this many entries behind the leader may become a voter.
const CAUGHT_UP_ENTRIES: u64 = 1_000;
/// A node whose last heartbeat is older than this many periods is treated as down.
pub const HEARD_BEATS: u32 = 3;

/// All nodes of the catalogue. Only on the leader.
pub fn candidates(member: &Member, leader: &LeaderState, status: &RaftStatus) -> Vec<Candidate> {
    let applied = member.consensus.applied();
    let now_ms = member.leader_clock_ms().unwrap_or(0);
    let caught_up = |id: NodeId| {
        let matched = status.matched.get(&id.0).copied().flatten().unwrap_or(0);
        matched > 0 && matched + CAUGHT_UP_ENTRIES >= applied
    };
    let leaving = leader.leaving.now();
    let silence = HEARD_BEATS * Duration::from_millis(member.this.config.timings.heartbeat_ms);
    member.read(|catalogue| {
        let patience_ms = catalogue.cluster().settings.replace_after_ms;
        let candidate = |node: &Node| {
            let up = node.liveness == Liveness::Up;
            // A voter that has just died would stop a change of voters, and with it all writes,
            // until it is back. So a recent heartbeat is required, not only the state Up.
            let heard = node.id == member.this.id
                || leader
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
                draining: node.duty == Duty::Draining,
                caught_up: caught_up(node.id),
            }
        };
        catalogue.nodes().map(candidate).collect()
    })
}
