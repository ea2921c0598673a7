//! Tells the leader, wherever it is, that this process lives and how much room it has.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{Reason, leader_of};
use cairn_proto::wire::HeartbeatRequest;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::ids::{Incarnation, NodeId};
use tokio::time::Instant;

use crate::shared::Shared;
use crate::shared::leader::Pulse;

/// A goodbye that nobody takes is said again after this.
const GOODBYE_PAUSE: Duration = Duration::from_millis(50);

pub async fn run(shared: Arc<Shared>) {
    let period = Duration::from_millis(shared.this.config.timings.heartbeat_ms);
    for turn in 0_usize.. {
        if let Some(incarnation) = shared.this.incarnation()
            && !shared.ending.says_goodbye()
        {
            beat(&shared, incarnation, turn).await;
        }
        tokio::time::sleep(period).await;
    }
}

/// The process stops in order: the leader hears that this node is down from now on, so that nobody
/// plans with it. Best effort, and bounded by the caller.
pub async fn goodbye(shared: &Shared) {
    let Some(incarnation) = shared.this.incarnation() else { return };
    shared.ending.begin_goodbye();
    // Nobody has taken over: there is nobody to tell.
    if shared.member.consensus.is_leader() {
        return;
    }
    let message = HeartbeatRequest {
        node: shared.this.id.0,
        incarnation: incarnation.0,
        available_bytes: 0,
        bytes_in_flight: 0,
        stops: true,
        trouble: None,
    };
    loop {
        let other =
            shared.member.consensus.leader().filter(|(leader, _)| *leader != shared.this.id.0);
        if let Some((leader, address)) = other {
            let mut client = AdminClient::new(shared.transport(&address));
            let call = client.heartbeat(shared.call(Some(NodeId(leader)), message));
            match tokio::time::timeout(shared.this.call_deadline(), call).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) => tracing::debug!(%status, "goodbye refused"),
                Err(_) => tracing::debug!(%address, "goodbye not answered"),
            }
        }
        tokio::time::sleep(GOODBYE_PAUSE).await;
    }
}

async fn beat(shared: &Shared, incarnation: Incarnation, turn: usize) {
    let (available_bytes, bytes_in_flight) = shared.room().await;
    let trouble = shared.member.health.trouble();
    let leader = shared.member.consensus.leader();
    if leader.as_ref().is_some_and(|(leader, _)| *leader == shared.this.id.0) {
        let at = Instant::now();
        let stops = false;
        let pulse = Pulse { incarnation, at, available_bytes, bytes_in_flight, stops, trouble };
        shared.leader.heartbeats.record(shared.this.id, pulse);
        return;
    }
    let message = HeartbeatRequest {
        node: shared.this.id.0,
        incarnation: incarnation.0,
        available_bytes,
        bytes_in_flight,
        stops: false,
        trouble: Some(trouble),
    };
    // Consensus tells nothing to a node that was removed while it was away: whom it takes for the
    // leader may know better, and where it knows of none, any peer.
    let target = match leader {
        Some((leader, address)) => Some((Some(NodeId(leader)), address)),
        None => {
            let peer = shared.peers.in_turn(&shared.this.config.address, turn);
            peer.map(|address| (None, address))
        }
    };
    let Some((leader, address)) = target else { return };
    if let Some((leader, address)) = tell(shared, leader, &address, message).await {
        tell(shared, Some(leader), &address, message).await;
    }
}

/// Sends a heartbeat to whoever may lead; gives the leader that it names instead.
async fn tell(
    shared: &Shared,
    leader: Option<NodeId>,
    address: &str,
    message: HeartbeatRequest,
) -> Option<(NodeId, String)> {
    let mut client = AdminClient::new(shared.transport(address));
    let call = client.heartbeat(shared.call(leader, message));
    match tokio::time::timeout(shared.this.call_deadline(), call).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) if Reason::of(&status) == Some(Reason::StaleIdentity) => {
            shared.ending.accuse(status.message().to_owned());
        }
        Ok(Err(status)) => {
            tracing::debug!(%address, %status, "heartbeat refused");
            return leader_of(&status).filter(|(_, other)| other != address);
        }
        Err(_) => tracing::debug!(%address, "heartbeat not answered"),
    }
    None
}
