//! Between nodes: joining, hello, reports, heartbeats; and a node's own status.

use std::sync::Arc;

use cairn_core::catalogue::Catalogue;
use cairn_core::command::{Body, Reply};
use cairn_core::ids::{Incarnation, NodeId, RequestId};
use cairn_core::model::Admin;
use cairn_proto::envelope::{FEATURE_LEVEL, Reason, refuse};
use cairn_proto::{convert, wire};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::heard::Pulse;
use crate::shared::Shared;

pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Commands one node sends the leader about itself.
fn is_a_nodes_own(body: &Body) -> bool {
    matches!(
        body,
        Body::Register { .. }
            | Body::Inventory { .. }
            | Body::Durable { .. }
            | Body::Lost { .. }
            | Body::Removed { .. }
    )
}

#[tonic::async_trait]
impl wire::admin_server::Admin for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinReply>, Status> {
        let node = request.into_inner().node.ok_or_else(|| Status::invalid_argument("no node"))?;
        let node = convert::new_node_from_wire(node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let reply = self.shared.propose(RequestId(0), Body::AllocateNode(node)).await?;
        match &*reply {
            Reply::NodeAllocated { node } => {
                self.shared.steward.ring();
                Ok(Response::new(wire::JoinReply {
                    cluster: self.shared.cluster.0.to_be_bytes().to_vec().into(),
                    lineage: self.shared.lineage.0.into(),
                    node: node.0,
                }))
            }
            Reply::Refused(refusal) => Err(Status::failed_precondition(refusal.to_string())),
            other => Err(Status::internal(format!("unexpected reply to a join: {other:?}"))),
        }
    }

    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloReply>, Status> {
        let request = request.into_inner();
        let shared = &self.shared;
        let refused = hello_refusal(shared, &request).unwrap_or_default();
        Ok(Response::new(wire::HelloReply {
            cluster: shared.cluster.0.to_be_bytes().to_vec().into(),
            lineage: shared.lineage.0.into(),
            node: shared.node.0,
            refused,
        }))
    }

    async fn report(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let command = request
            .into_inner()
            .command
            .ok_or_else(|| Status::invalid_argument("no command"))?;
        let command = convert::command_from_wire(command)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !is_a_nodes_own(&command.body) {
            return Err(Status::permission_denied("not a report"));
        }
        let reply = self.shared.propose(command.request, command.body).await?;
        Ok(Response::new(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&reply)) }))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatReply>, Status> {
        let request = request.into_inner();
        let Some(leader_clock_ms) = self.shared.leader_clock_ms() else {
            return Err(self.shared.not_leader());
        };
        let pulse = Pulse {
            incarnation: Incarnation(request.incarnation),
            at: Instant::now(),
            available_bytes: request.available_bytes,
            bytes_in_flight: request.bytes_in_flight,
        };
        self.shared.heard.record(NodeId(request.node), pulse);
        Ok(Response::new(wire::HeartbeatReply { leader_clock_ms }))
    }

    async fn node_status(
        &self,
        _request: Request<wire::NodeStatusRequest>,
    ) -> Result<Response<wire::NodeStatusReply>, Status> {
        Ok(Response::new(node_status(&self.shared).await))
    }
}

/// Why the directory that says hello must not come back, as far as this node has applied.
fn hello_refusal(shared: &Shared, request: &wire::HelloRequest) -> Option<String> {
    let node = NodeId(request.node);
    shared.read(|catalogue| {
        let record = catalogue.node(node)?;
        if record.admin == Admin::Removed {
            return Some(format!("node {node} was removed from the cluster"));
        }
        if request.cookie != record.cookie.0.to_be_bytes().as_slice() {
            return Some(format!("node {node} is registered with another data directory"));
        }
        let nonce = record.nonce.0.to_be_bytes();
        let known = request.nonces.iter().any(|said| *said == nonce.as_slice());
        if record.incarnation != Incarnation(0) && !known {
            return Some(format!("the data directory of node {node} is older than its registration"));
        }
        None
    })
}

/// Whether a Raft message from `sender` may be heeded: a node that runs on a copied or rolled
/// back directory carries a nonce the catalogue does not know. A record older than the sender's
/// registration proves nothing, so only a removed node is refused on the record alone.
pub fn admit_raft(catalogue: &Catalogue, sender: NodeId) -> Result<(), Status> {
    let record = catalogue.node(sender);
    if record.is_some_and(|record| record.admin == Admin::Removed) {
        let text = format!("node {sender} was removed from the cluster");
        return Err(refuse(Reason::StaleIdentity, text));
    }
    Ok(())
}

pub async fn node_status(shared: &Shared) -> wire::NodeStatusReply {
    let (leader, leader_address) = shared.consensus.leader().unwrap_or_default();
    let held = shared.store.stats();
    let available_bytes = shared.store.room().await.map_or(0, |room| room.available);
    let counters = &shared.counters;
    let usage = crate::process::usage();
    let node = shared.node;
    let fetches_pending = shared.read(|catalogue| catalogue.node_tally(node).assigned);
    wire::NodeStatusReply {
        node: node.0,
        incarnation: shared.incarnation().map_or(0, |incarnation| incarnation.0),
        cluster: shared.cluster.0.to_be_bytes().to_vec().into(),
        lineage: shared.lineage.0.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: FEATURE_LEVEL,
        applied_index: shared.consensus.applied(),
        term: shared.consensus.term(),
        leader,
        leader_address,
        segments_held: held.segments_held,
        bytes_held: held.bytes_held,
        segments_received: counters.segments_received.get(),
        bytes_received: counters.bytes_received.get(),
        bytes_served: counters.bytes_served.get(),
        segments_fetched: counters.segments_fetched.get(),
        bytes_fetched: counters.bytes_fetched.get(),
        available_bytes,
        total_bytes: shared.config.capacity_bytes,
        cpu_ms: usage.cpu_ms,
        rss_peak_bytes: usage.rss_peak_bytes,
        registered: shared.incarnation().is_some(),
        segments_quarantined: counters.segments_quarantined.get(),
        fetches_pending,
    }
}
