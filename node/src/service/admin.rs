//! Between nodes: joining, hello, reports, heartbeats; and a node's own status.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::{self, Reason, refuse};
use cairn_proto::wire;
use cairn_proto::wire::admin_client::AdminClient;
use cairn_types::command::{self, Body, NODE_KEYS_LEVEL, Reply, Sender};
use cairn_types::convert;
use cairn_types::ids::{Incarnation, NodeId, RequestId, check_host_port};
use cairn_types::model::{Admin, Liveness};
use cairn_types::rights::Right;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{audit, quarantine, ready, scrub};
use crate::caller::Caller;
use crate::shared::leader::Pulse;
use crate::shared::{Calls, LeaderState, Shared};
use crate::speech;
use crate::standing::{self, Standing};

/// A hello waits this long for a leader's word; less than its caller waits.
const HELLO_READ: Duration = Duration::from_secs(1);

/// A node that registers is called back within this time: less than it waits for its answer.
const CALL_BACK: Duration = Duration::from_secs(1);

pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Refuses who may not operate every namespace. A token is looked at again by everything
    /// committed; a key's holder sees to a node also while that is cut off.
    async fn may_operate<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let caller = Caller::of(request);
        caller.check_everywhere(Right::Operate)?;
        match caller.token() {
            Some(_) => caller.read_index(&self.shared.member).await,
            None => Ok(()),
        }
    }

    /// Refuses a report that its node has not signed. A leader that finds no key looks again once
    /// all that is committed is applied here.
    async fn must_be_signed(
        &self,
        body: &Body,
        request: &Request<wire::ExecuteRequest>,
    ) -> Result<(), Status> {
        let member = &self.shared.member;
        let Some(node) = speech::node_of(body) else { return Ok(()) };
        let recorded = || member.read(|catalogue| catalogue.node(node).and_then(|it| it.key));
        let mut key = recorded();
        let level = member.read(|catalogue| catalogue.cluster().feature_level);
        if key.is_none() && level >= NODE_KEYS_LEVEL && member.consensus.is_leader() {
            member.read_index(member.this.call_deadline()).await?;
            key = recorded();
        }
        let (command, headers) = (&request.get_ref().command, request.metadata());
        self.shared.calls.speech.check_report(key, body, command, headers)
    }
}

#[tonic::async_trait]
impl wire::admin_server::Admin for Service {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinReply>, Status> {
        let node = request.into_inner().node.ok_or_else(|| Status::invalid_argument("no node"))?;
        let mut node = convert::new_node_from_wire(node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let level = self.shared.member.read(|catalogue| catalogue.cluster().feature_level);
        if level < NODE_KEYS_LEVEL {
            // An older build in the cluster does not know the field.
            node.key = None;
        }
        let reply = self.shared.member.propose(RequestId(0), Body::AllocateNode(node)).await?;
        match &*reply {
            Reply::NodeAllocated { node } => {
                self.shared.leader.members.ring();
                Ok(Response::new(wire::JoinReply {
                    cluster: self.shared.this.cluster.0.to_be_bytes().to_vec().into(),
                    lineage: self.shared.this.lineage.0.into(),
                    node: node.0,
                }))
            }
            Reply::Refused(refusal) => Err(cairn_proto::refused::refusal_status(refusal)),
            other => Err(Status::internal(format!("unexpected reply to a join: {other:?}"))),
        }
    }

    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloReply>, Status> {
        let request = request.into_inner();
        let shared = &self.shared;
        // Whether a nonce is old can only be told from a view that is not older still.
        let fresh = shared.member.read_index(HELLO_READ).await.is_ok();
        let votes = shared.member.consensus.may_vote(request.node);
        let refused = shared.member.read(|catalogue| {
            standing::hello_refusal(catalogue, &request, fresh, votes).unwrap_or_default()
        });
        Ok(Response::new(wire::HelloReply {
            cluster: shared.this.cluster.0.to_be_bytes().to_vec().into(),
            lineage: shared.this.lineage.0.into(),
            node: shared.this.id.0,
            refused,
            promise: shared
                .member
                .consensus
                .promise_of(request.node)
                .map(|promise| promise.to_wire()),
            fresh,
            leader_address: shared
                .member
                .consensus
                .leader()
                .map_or(String::new(), |(_, address)| address),
        }))
    }

    async fn report(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let command = self.shared.member.decode_command(&request.get_ref().command)?;
        if command.body.sender() != Sender::Node {
            return Err(Status::permission_denied("not a report"));
        }
        self.must_be_signed(&command.body, &request).await?;
        if let Body::Declined(command::Declined { node, reason, replicas, .. }) = &command.body {
            let (count, reason) = (replicas.len(), reason.text());
            tracing::warn!(%node, count, reason, "a node cannot make replicas it was given");
        }
        let registers = hear_address(&self.shared.calls, &command.body);
        call_back(&self.shared.calls, &self.shared.leader, &command.body).await?;
        let reply = self.shared.member.propose(command.request, command.body).await?;
        if let Some(node) = registers {
            self.shared.leader.members.ring();
            // Registered or refused: either way what it said is of no more use.
            self.shared.calls.peers.is_at_home(node);
        }
        Ok(Response::new(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&reply)) }))
    }

    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let Some(leader_clock_ms) = self.shared.member.leader_clock_ms() else {
            return Err(self.shared.member.not_leader());
        };
        let (node, incarnation) = (NodeId(request.node), Incarnation(request.incarnation));
        let votes = self.shared.member.consensus.may_vote(node.0);
        let standing = self
            .shared
            .member
            .read(|catalogue| standing::of_heartbeat(catalogue, node, incarnation, votes));
        match standing {
            Standing::Current => self.shared.member.read(|catalogue| {
                self.shared.calls.speech.check_headers(catalogue, node, &metadata)
            })?,
            Standing::NotYet => return Ok(Response::new(wire::HeartbeatReply { leader_clock_ms })),
            Standing::Void(text) => return Err(refuse(Reason::StaleIdentity, text)),
        }
        let pulse = Pulse {
            incarnation,
            at: Instant::now(),
            available_bytes: request.available_bytes,
            bytes_in_flight: request.bytes_in_flight,
            stops: request.stops,
            trouble: request.trouble.unwrap_or_default(),
            audit_damaged: request.audit_damaged,
        };
        self.shared.leader.heartbeats.record(node, pulse);
        if request.stops {
            // At once: the caller waits for it, so that after its end everybody knows.
            let changes = vec![(node, incarnation, Liveness::Down)];
            self.shared
                .member
                .propose(RequestId(0), Body::SetLiveness(command::SetLiveness { changes }))
                .await?;
        }
        Ok(Response::new(wire::HeartbeatReply { leader_clock_ms }))
    }

    async fn node_status(
        &self,
        request: Request<wire::NodeStatusRequest>,
    ) -> Result<Response<wire::NodeStatusReply>, Status> {
        let mut status = node_status(&self.shared).await;
        if !Caller::of(&request).reads_everything() {
            status = without_totals(status);
        }
        Ok(Response::new(status))
    }

    async fn list_quarantine(
        &self,
        request: Request<wire::ListQuarantineRequest>,
    ) -> Result<Response<wire::ListQuarantineReply>, Status> {
        self.may_operate(&request).await?;
        quarantine::list(&self.shared.replicas, request.into_inner()).await.map(Response::new)
    }

    async fn restore(
        &self,
        request: Request<wire::RestoreRequest>,
    ) -> Result<Response<wire::RestoreReply>, Status> {
        self.may_operate(&request).await?;
        quarantine::restore(&self.shared.replicas, &self.shared.calls, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn scrub(
        &self,
        request: Request<wire::ScrubRequest>,
    ) -> Result<Response<wire::ScrubReply>, Status> {
        self.may_operate(&request).await?;
        scrub::answer(&self.shared.replicas, request.into_inner()).await.map(Response::new)
    }

    async fn audit(
        &self,
        request: Request<wire::AuditRequest>,
    ) -> Result<Response<wire::AuditReply>, Status> {
        let caller = Caller::of(&request);
        caller.read_index(&self.shared.member).await?;
        audit::page(&self.shared, caller, request.into_inner()).await.map(Response::new)
    }

    async fn check_audit(
        &self,
        request: Request<wire::AuditCheckRequest>,
    ) -> Result<Response<wire::AuditCheckReply>, Status> {
        self.may_operate(&request).await?;
        audit::check(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn ask_slot(
        &self,
        request: Request<wire::AskSlotRequest>,
    ) -> Result<Response<wire::AskSlotReply>, Status> {
        quarantine::give_slot(&self.shared.member, request.into_inner()).await.map(Response::new)
    }
}

/// A node that registers for the first time, or from another address, must be there: an address
/// that only it believes in would take a learner's and then a voter's place for nothing.
async fn call_back(calls: &Calls, leader: &LeaderState, body: &Body) -> Result<(), Status> {
    let Body::Register(command::Register { node, address, .. }) = body else { return Ok(()) };
    check_host_port(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
    if !calls.member.consensus.is_leader() {
        return Err(calls.member.not_leader());
    }
    let is_known = calls.member.read(|catalogue| {
        catalogue
            .node(*node)
            .is_none_or(|record| record.incarnation != Incarnation(0) && record.address == *address)
    });
    if is_known {
        leader.joining.is_reached(*node);
        return Ok(());
    }
    let mut client = AdminClient::new(calls.transport(address));
    let call = client.node_status(calls.request(Some(*node), wire::NodeStatusRequest {}));
    let problem = match tokio::time::timeout(CALL_BACK, call).await {
        Ok(Ok(_)) => {
            leader.joining.is_reached(*node);
            return Ok(());
        }
        // Any server may listen there and say what it likes.
        Ok(Err(status)) => envelope::said(status.message()),
        Err(_) => format!("no answer within {CALL_BACK:?}"),
    };
    if leader.joining.is_not_reached(*node, address, &problem) {
        tracing::warn!(%node, address, problem, "a node cannot be called back, and stays outside");
    }
    let text = format!("node {node} cannot be called back at {address}: {problem}");
    Err(refuse(Reason::Unreached, text))
}

/// Remembers where a node says it is that may not be able to register yet, for elections. Which
/// node registers, if one does.
fn hear_address(calls: &Calls, body: &Body) -> Option<NodeId> {
    let Body::Register(command::Register { node, cookie, nonce, address, .. }) = body else {
        return None;
    };
    if check_host_port(address).is_err() {
        return Some(*node);
    }
    let standing = calls.member.read(|catalogue| {
        let record = catalogue.node(*node)?;
        let may_be = record.admin != Admin::Removed
            && record.cookie == *cookie
            && !catalogue.is_superseded(*node, *nonce);
        may_be.then(|| (record.incarnation, record.address == *address))
    });
    match standing {
        Some((_, true)) => calls.peers.is_at_home(*node),
        Some((registered, false)) => calls.peers.announce(*node, registered, address),
        None => {}
    }
    Some(*node)
}

/// For those who may not know how much others store.
fn without_totals(status: wire::NodeStatusReply) -> wire::NodeStatusReply {
    wire::NodeStatusReply {
        segments_held: 0,
        bytes_held: 0,
        segments_received: 0,
        bytes_received: 0,
        bytes_served: 0,
        segments_fetched: 0,
        bytes_fetched: 0,
        segments_quarantined: 0,
        fetches_pending: 0,
        ..status
    }
}

pub async fn node_status(shared: &Shared) -> wire::NodeStatusReply {
    let (leader, leader_address) = shared.member.consensus.leader().unwrap_or_default();
    let held = shared.replicas.store.stats();
    let (available_bytes, _) = shared.replicas.room().await;
    let counters = &shared.counters;
    let usage = (shared.usage)();
    let node = shared.this.id;
    let fetches_pending = shared.member.read(|catalogue| catalogue.node_tally(node).assigned);
    let voters = shared.member.consensus.voters();
    let voters = shared.member.read(|catalogue| {
        let voter = |(id, address): (u64, String)| {
            let record = catalogue.node(NodeId(id));
            let (host, rack) =
                record.map(|record| (record.host.clone(), record.rack.clone())).unwrap_or_default();
            wire::Voter { node: id, address, host, rack }
        };
        voters.into_iter().map(voter).collect()
    });
    let silence = shared.member.consensus.contact().silence;
    wire::NodeStatusReply {
        address: shared.this.config.address.clone(),
        unfit: ready::why_not(&shared.member).unwrap_or_default(),
        silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
        voters,
        node: node.0,
        incarnation: shared.this.incarnation().map_or(0, |incarnation| incarnation.0),
        cluster: shared.this.cluster.0.to_be_bytes().to_vec().into(),
        lineage: shared.this.lineage.0.into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: shared.this.config.feature_level,
        applied_index: shared.member.consensus.applied(),
        term: shared.member.consensus.term(),
        leader,
        audit_records: shared.this.trail.place().head.count,
        audit_damage: shared.this.trail.damage(),
        leader_address,
        segments_held: held.segments_held,
        bytes_held: held.bytes_held,
        segments_received: counters.segments_received.get(),
        bytes_received: counters.bytes_received.get(),
        bytes_served: counters.bytes_served.get(),
        segments_fetched: counters.segments_fetched.get(),
        bytes_fetched: counters.bytes_fetched.get(),
        available_bytes,
        total_bytes: shared.this.config.capacity_bytes,
        cpu_ms: usage.cpu_ms,
        rss_peak_bytes: usage.rss_peak_bytes,
        registered: shared.this.incarnation().is_some(),
        segments_quarantined: counters.segments_quarantined.get(),
        fetches_pending,
        trouble: Some(shared.member.health.trouble()),
    }
}
