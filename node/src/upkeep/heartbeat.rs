//! Tells the leader, wherever it is, that this process lives and how much room it has.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{Incarnation, NodeId};
use cairn_proto::envelope::{Reason, leader_of};
use cairn_proto::wire::HeartbeatRequest;
use cairn_proto::wire::admin_client::AdminClient;
use tokio::time::Instant;

use crate::heard::Pulse;
use crate::shared::Shared;

pub async fn run(shared: Arc<Shared>) {
    let period = Duration::from_millis(shared.config.timings.heartbeat_ms);
    for turn in 0_usize.. {
        if let Some(incarnation) = shared.incarnation() {
            beat(&shared, incarnation, turn).await;
        }
        tokio::time::sleep(period).await;
    }
}

async fn beat(shared: &Shared, incarnation: Incarnation, turn: usize) {
    let (available_bytes, bytes_in_flight) = shared.room().await;
    let leader = shared.consensus.leader();
    if leader.as_ref().is_some_and(|(leader, _)| *leader == shared.node.0) {
        let at = Instant::now();
        let pulse = Pulse { incarnation, at, available_bytes, bytes_in_flight };
        shared.heard.record(shared.node, pulse);
        return;
    }
    let message = HeartbeatRequest {
        node: shared.node.0,
        incarnation: incarnation.0,
        available_bytes,
        bytes_in_flight,
    };
    // Consensus tells nothing to a node that was removed while it was away: whom it takes for the
    // leader may know better, and where it knows of none, any peer.
    let target = match leader {
        Some((leader, address)) => Some((Some(NodeId(leader)), address)),
        None => {
            let peer = shared.peers.in_turn(&shared.config.address, turn);
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
    match tokio::time::timeout(shared.call_deadline(), call).await {
        Ok(Ok(_)) => {}
        Ok(Err(status)) if Reason::of(&status) == Some(Reason::StaleIdentity) => {
            (shared.banish)(status.message().to_owned());
        }
        Ok(Err(status)) => {
            tracing::debug!(%address, %status, "heartbeat refused");
            return leader_of(&status).filter(|(_, other)| other != address);
        }
        Err(_) => tracing::debug!(%address, "heartbeat not answered"),
    }
    None
}
