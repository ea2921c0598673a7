//! Clients' commands and linearizable reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::canary;
use cairn_core::catalogue::{Catalogue, Checkpoint, ListQuery};
use cairn_core::command::{Body, Command, Refusal, Reply};
use cairn_core::ids::{Address, CheckpointId, Namespace, NodeId, RequestId, SegmentDigest, Step};
use cairn_core::limits::BATCH_SEGMENTS_MAX;
use cairn_core::model::Liveness;
use cairn_core::placement::{self, Loads};
use cairn_proto::{convert, wire};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::hold;
use crate::shared::Shared;

/// A read waits this long for a leader when the caller names no deadline, and never longer than
/// the second.
const READ_DEADLINE: Duration = Duration::from_secs(5);
const READ_DEADLINE_MAX: Duration = Duration::from_secs(30);
/// The leader holds a command back this long at most.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A Stage whose targets went stale between planning and apply is planned again so many times.
const PLANS_MAX: u32 = 3;
/// Entries of one `List` page.
const LIST_MAX: u32 = 1000;

pub struct Service {
    shared: Arc<Shared>,
    planned: Mutex<Planned>,
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, planned: Mutex::default() }
    }

    /// Proposes `command`; fills a Stage's targets and plans again if they went stale.
    async fn execute_command(
        &self,
        mut command: Command,
        exclude: &BTreeSet<NodeId>,
    ) -> Result<Arc<Reply>, Status> {
        let shared = &self.shared;
        for _ in 0..PLANS_MAX {
            if let Body::Stage { checkpoint, segments, .. } = &mut command.body {
                let checkpoint = *checkpoint;
                let planned = shared.read(|catalogue| {
                    let upload = catalogue
                        .checkpoint(checkpoint)
                        .ok_or(Refusal::UnknownCheckpoint(checkpoint))?;
                    let mut planned = self.planned.lock();
                    planned.refresh(shared, catalogue);
                    let loads = &mut planned.loads;
                    placement::plan_stage(catalogue, loads, upload, segments, exclude)
                });
                if let Err(refusal) = planned {
                    return Ok(Arc::new(Reply::Refused(refusal)));
                }
            }
            let reply = shared.propose(command.request, command.body.clone()).await?;
            if reply.refusal() != Some(&Refusal::BadTargets) {
                return Ok(reply);
            }
        }
        Ok(Arc::new(Reply::Refused(Refusal::BadTargets)))
    }

    async fn linearizable(&self, deadline_ms: u64) -> Result<u64, Status> {
        if canary!("stale_read") {
            return Ok(self.shared.consensus.applied());
        }
        let deadline = match deadline_ms {
            0 => READ_DEADLINE,
            ms => Duration::from_millis(ms).min(READ_DEADLINE_MAX),
        };
        self.shared.read_index(deadline).await
    }
}

/// The planner's loads, and up to which heartbeat they are current: a fresh heartbeat already
/// contains what was planned before it.
#[derive(Default)]
struct Planned {
    loads: Loads,
    heard: BTreeMap<NodeId, Instant>,
}

impl Planned {
    fn refresh(&mut self, shared: &Shared, catalogue: &Catalogue) {
        for node in catalogue.nodes() {
            let pulse = shared.heard.of(node.id);
            let Some(pulse) = pulse.filter(|pulse| pulse.incarnation == node.incarnation) else {
                continue;
            };
            if self.heard.insert(node.id, pulse.at) != Some(pulse.at) {
                self.loads.observe(node.id, pulse.available_bytes, pulse.bytes_in_flight);
            }
        }
    }
}

/// Commands a client may send; the rest are the cluster's own.
fn is_clients(body: &Body) -> bool {
    matches!(
        body,
        Body::Begin { .. }
            | Body::Stage { .. }
            | Body::SealPart { .. }
            | Body::Renew { .. }
            | Body::Delete { .. }
            | Body::SetPolicy { .. }
            | Body::RemoveNode { .. }
    )
}

#[tonic::async_trait]
impl wire::catalogue_server::Catalogue for Service {
    async fn execute(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let wire::ExecuteRequest { command, wait_ms, exclude } = request.into_inner();
        let command = command.ok_or_else(|| Status::invalid_argument("no command"))?;
        let command = convert::command_from_wire(command)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !is_clients(&command.body) {
            return Err(Status::permission_denied("this command is the cluster's own"));
        }
        if command.request == RequestId(0) {
            return Err(Status::invalid_argument("a client's command carries a request id"));
        }
        if !self.shared.consensus.is_leader() {
            return Err(self.shared.not_leader());
        }
        if let Body::SealPart { checkpoint, part, .. } = command.body {
            let hold = Duration::from_millis(wait_ms).min(HOLD_MAX);
            hold::until_durable(&self.shared, checkpoint, part, Instant::now() + hold).await;
        }
        let rings = matches!(command.body, Body::SealPart { .. } | Body::Delete { .. });
        let exclude = exclude.into_iter().map(NodeId).collect();
        let reply = self.execute_command(command, &exclude).await?;
        if rings {
            self.shared.steward.ring();
        }
        Ok(Response::new(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&reply)) }))
    }

    async fn resolve(
        &self,
        request: Request<wire::ResolveRequest>,
    ) -> Result<Response<wire::ResolveReply>, Status> {
        let request = request.into_inner();
        let address: Address = parse(&request.address)?;
        self.linearizable(request.deadline_ms).await?;
        let shared = &self.shared;
        let catalogue = shared.copy();
        let info = catalogue.resolve(&address).map_err(|refusal| refusal_status(&refusal))?;
        let nodes = node_infos(shared, &catalogue);
        let checkpoint = Some(convert::info_to_wire(&info));
        Ok(Response::new(wire::ResolveReply { checkpoint, nodes }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListReply>, Status> {
        let request = request.into_inner();
        let parse_namespace = |text: &str| -> Result<Option<Namespace>, Status> {
            if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
        };
        let limit = if request.limit == 0 { LIST_MAX } else { request.limit.min(LIST_MAX) };
        let query = ListQuery {
            prefix: request.prefix,
            include_open: request.open,
            after: parse_namespace(&request.after_namespace)?
                .map(|name| (name, Step(request.after_step), CheckpointId(request.after_id))),
            // One more than asked for tells whether there are more.
            limit: limit as usize + 1,
        };
        self.linearizable(request.deadline_ms).await?;
        // Durability costs a walk over each checkpoint's segments: not under the lock.
        let catalogue = self.shared.copy();
        let mut found = catalogue.list(&query);
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let entry = |record: &Arc<Checkpoint>| {
            let mut info = catalogue.info(record);
            // A listing is about checkpoints; `Resolve` gives the parts of one.
            info.parts.clear();
            convert::info_to_wire(&info)
        };
        let checkpoints = found.iter().map(entry).collect();
        Ok(Response::new(wire::ListReply { checkpoints, more }))
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateReply>, Status> {
        let request = request.into_inner();
        if request.digests.len() > BATCH_SEGMENTS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} digests in one call, {BATCH_SEGMENTS_MAX} at most",
                request.digests.len()
            )));
        }
        let digests: Vec<SegmentDigest> = request
            .digests
            .iter()
            .map(|bytes| convert::digest_from_wire("digest", bytes))
            .collect::<Result<_, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.linearizable(request.deadline_ms).await?;
        let segments = self
            .shared
            .read(|catalogue| digests.iter().map(|digest| located(catalogue, *digest)).collect());
        Ok(Response::new(wire::LocateReply { segments }))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        let index = self.linearizable(request.into_inner().deadline_ms).await?;
        let shared = &self.shared;
        let summary = shared.copy().summary();
        let (nodes, cluster) =
            shared.read(|catalogue| (node_infos(shared, catalogue), catalogue.cluster().clone()));
        let (leader, leader_address) = shared.consensus.leader().unwrap_or_default();
        Ok(Response::new(wire::StatusReply {
            cluster: cluster.id.0.to_be_bytes().to_vec().into(),
            lineage: cluster.lineage.0.into(),
            clock_ms: cluster.clock_ms,
            applied_index: index,
            term: shared.consensus.term(),
            leader,
            leader_address,
            nodes,
            checkpoints_committed: summary.checkpoints_committed,
            checkpoints_open: summary.checkpoints_open,
            segments: summary.segments,
            segment_bytes: summary.segment_bytes,
            segments_below: summary.segments_below,
            bytes_below: summary.bytes_below,
            segments_unavailable: summary.segments_unavailable,
            segments_unreferenced: summary.segments_unreferenced,
            bytes_unreferenced: summary.bytes_unreferenced,
            nodes_can_be_lost: summary.nodes_can_be_lost,
            racks_can_be_lost: summary.racks_can_be_lost,
            feature_level: cluster.feature_level,
            segments_short_of_racks: summary.segments_short_of_racks,
            voters: u32::try_from(shared.consensus.voters().len()).unwrap_or(u32::MAX),
            settings: Some(convert::settings_to_wire(&cluster.settings)),
        }))
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Status>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Status::invalid_argument(error.to_string()))
}

/// A read's refusal as a status that carries it whole.
fn refusal_status(refusal: &Refusal) -> Status {
    convert::refusal_status(refusal)
}

fn located(catalogue: &Catalogue, digest: SegmentDigest) -> wire::Located {
    match catalogue.segment_by_digest(&digest) {
        None => wire::Located::default(),
        Some(segment) => wire::Located {
            segment: segment.id.0,
            len: segment.len,
            slots: segment.live_slots().map(convert::slot_to_wire).collect(),
        },
    }
}

fn node_infos(shared: &Shared, catalogue: &Catalogue) -> Vec<wire::NodeInfo> {
    let voters = shared.consensus.voters();
    let info = |node: &cairn_core::model::Node| {
        let id = node.id;
        let tally = catalogue.node_tally(id);
        let pulse = shared.heard.of(id).filter(|_| shared.consensus.is_leader());
        wire::NodeInfo {
            id: id.0,
            host: node.host.clone(),
            rack: node.rack.clone(),
            address: node.address.clone(),
            up: node.liveness == Liveness::Up,
            removed: node.admin == cairn_core::model::Admin::Removed,
            inventoried: node.inventoried,
            capacity_bytes: node.capacity_bytes,
            incarnation: node.incarnation.0,
            voter: voters.contains_key(&id.0),
            replicas_durable: tally.durable,
            replicas_assigned: tally.assigned,
            replicas_released: tally.released,
            bytes_durable: tally.bytes_live,
            available_bytes: pulse.map_or(0, |pulse| pulse.available_bytes),
            liveness_since_ms: node.liveness_since_ms,
        }
    };
    catalogue.nodes().map(info).collect()
}
