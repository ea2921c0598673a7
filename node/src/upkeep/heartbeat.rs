//! Tells the leader that this process lives and how much room it has.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{Reason, leader_of};
use cairn_proto::wire::HeartbeatRequest;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::ids::{Incarnation, NodeId};
use tokio::time::Instant;

use crate::shared::leader::Pulse;
use crate::shared::{Calls, Ending, LeaderState, Replicas};

/// A goodbye without an answer is repeated after this pause.
const GOODBYE_PAUSE: Duration = Duration::from_millis(50);

pub async fn run(
    calls: Arc<Calls>,
    replicas: Arc<Replicas>,
    leader: Arc<LeaderState>,
    ending: Arc<Ending>,
) {
    let period = calls.this.heartbeat_period();
    for turn in 0_usize.. {
        if let Some(incarnation) = calls.this.incarnation()
            && !ending.says_goodbye()
        {
            beat(&calls, &replicas, &leader, &ending, incarnation, turn).await;
        }
        tokio::time::sleep(period).await;
    }
}

/// The process stops in order. The leader learns that this node is down from now on, so that it is
/// not used in plans. Best effort, bounded by the caller.
pub async fn goodbye(calls: &Calls, ending: &Ending) {
    let Some(incarnation) = calls.this.incarnation() else { return };
    ending.begin_goodbye();
    // This node is still the leader, so there is no other node to tell.
    if calls.member.consensus.is_leader() {
        return;
    }
    let message = HeartbeatRequest {
        node: calls.this.id.0,
        incarnation: incarnation.0,
        available_bytes: 0,
        bytes_in_flight: 0,
        stops: true,
        trouble: None,
        audit_damaged: false,
    };
    loop {
        let other =
            calls.member.consensus.leader().filter(|(leader, _)| *leader != calls.this.id.0);
        if let Some((leader, address)) = other {
            let mut client = AdminClient::new(calls.transport(&address));
            let call = client.heartbeat(calls.request(Some(NodeId(leader)), message));
            match tokio::time::timeout(calls.this.call_deadline(), call).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) => tracing::debug!(%status, "goodbye refused"),
                Err(_) => tracing::debug!(%address, "goodbye not answered"),
            }
        }
        tokio::time::sleep(GOODBYE_PAUSE).await;
    }
}

async fn beat(
    calls: &Calls,
    replicas: &Replicas,
    state: &LeaderState,
    ending: &Ending,
    incarnation: Incarnation,
    turn: usize,
) {
    let (available_bytes, bytes_in_flight) = replicas.room().await;
    let trouble = calls.member.health.trouble();
    let audit_damaged = calls.this.trail.is_damaged();
    let leader = calls.member.consensus.leader();
    if leader.as_ref().is_some_and(|(leader, _)| *leader == calls.this.id.0) {
        let at = Instant::now();
        let stops = false;
        let pulse = Pulse {
            incarnation,
            at,
            available_bytes,
            bytes_in_flight,
            stops,
            trouble,
            audit_damaged,
        };
        state.heartbeats.record(calls.this.id, pulse);
        return;
    }
    let message = HeartbeatRequest {
        node: calls.this.id.0,
        incarnation: incarnation.0,
        available_bytes,
        bytes_in_flight,
        stops: false,
        trouble: Some(trouble),
        audit_damaged,
    };
    // openraft sends nothing to a node that was removed while it was away. The leader that this
    // node still knows may know better. If it knows none, any peer is asked.
    let target = match leader {
        Some((leader, address)) => Some((Some(NodeId(leader)), address)),
        None => {
            let peer = calls.peers.in_turn(&calls.this.config.address, turn);
            peer.map(|address| (None, address))
        }
    };
    let Some((leader, address)) = target else { return };
    if let Some((leader, address)) = tell(calls, ending, leader, &address, message).await {
        tell(calls, ending, Some(leader), &address, message).await;
    }
}

/// Sends a heartbeat to a node that may lead. Returns the leader that it names instead.
async fn tell(
    calls: &Calls,
    ending: &Ending,
    leader: Option<NodeId>,
    address: &str,
    message: HeartbeatRequest,
) -> Option<(NodeId, String)> {
    let mut client = AdminClient::new(calls.transport(address));
    let call = client.heartbeat(calls.request(leader, message));
    match tokio::time::timeout(calls.this.call_deadline(), call).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) if Reason::of(&status) == Some(Reason::StaleIdentity) => {
            ending.accuse(status.message().to_owned());
        }
        Ok(Err(status)) => {
            tracing::debug!(%address, %status, "heartbeat refused");
            return leader_of(&status).filter(|(_, other)| other != address);
        }
        Err(_) => tracing::debug!(%address, "heartbeat not answered"),
    }
    None
}
