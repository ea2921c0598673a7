//! Clients' commands and linearizable reads.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::{Catalogue, ListQuery, UsageQuery};
use cairn_core::placement::{self, Loads};
use cairn_host::envelope::{Reason, about, refuse};
use cairn_host::token::TOKEN_HEADER;
use cairn_proto::wire;
use cairn_types::canary;
use cairn_types::command::{self, Accept, Body, Command, Refusal, Reply, Sender};
use cairn_types::convert;
use cairn_types::ids::{Address, CheckpointId, Namespace, NodeId, RequestId, SegmentDigest};
use cairn_types::limits::{
    BATCH_SEGMENTS_MAX, OPEN_UPLOADS_MAX, OPEN_UPLOADS_PER_SUBJECT_MAX, WATCHERS_MAX,
};
use cairn_types::rights::{Right, Subject};
use futures::Stream;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::forward::Forwards;
use super::listing::listed;
use super::seal::Seals;
use super::{draining, labels, marks, retention, shown, tokens, usage, watch};
use crate::admission::{Lane, Peer};
use crate::caller::{Caller, nobody};
use crate::doors::wants_token;
use crate::shared::{LeaderState, Shared, Verdict};
use crate::upkeep::leaving;

/// A read waits this long for a leader when the caller names no deadline, and never longer than
/// the second.
const READ_DEADLINE: Duration = Duration::from_secs(5);
const READ_DEADLINE_MAX: Duration = Duration::from_secs(30);
/// The leader holds a command back this long at most.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A Stage whose targets went stale between planning and apply is planned again so many times.
const PLANS_MAX: u32 = 3;
/// A checkpoint of so many segments and parts is resolved where the call is served, in about a third
/// of a millisecond; a larger one on a copy of the catalogue, beside the async threads.
const RESOLVED_SEGMENTS_MAX: u64 = 65_536;
const RESOLVED_PARTS_MAX: usize = 1024;
/// Entries of one `List` page.
const LIST_MAX: u32 = 1000;

pub struct Service {
    shared: Arc<Shared>,
    planned: Mutex<Planned>,
    seals: Arc<Seals>,
    forwards: Forwards,
    watchers: Lane,
}

impl Service {
    pub fn new(shared: Arc<Shared>) -> Self {
        let seals = Seals::new(Arc::clone(&shared.replicas), Arc::clone(&shared.calls));
        let watchers = shared.lanes.open("watchers", WATCHERS_MAX);
        Self {
            watchers,
            shared,
            planned: Mutex::default(),
            seals: Arc::new(seals),
            forwards: Forwards::default(),
        }
    }

    /// A client's command, on the leader.
    async fn lead(
        &self,
        caller: &Caller,
        request: wire::ExecuteRequest,
    ) -> Result<wire::ExecuteReply, Status> {
        let wire::ExecuteRequest { command, wait_ms, exclude, .. } = request;
        let mut command = self.shared.member.decode_command(&command)?;
        if !matches!(command.body.sender(), Sender::Client | Sender::Operator) {
            return Err(Status::permission_denied("this command is the cluster's own"));
        }
        if command.request == RequestId(0) {
            return Err(Status::invalid_argument("a client's command carries a request id"));
        }
        if !self.shared.member.consensus.is_leader() {
            return Err(self.shared.member.not_leader());
        }
        // Whatever the command says of its subject: what the caller has proven counts.
        command.subject = caller.subject();
        if let Some(reply) = self.may_lead(&command).await? {
            return Ok(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&reply)) });
        }
        let (name, began) = (command.body.name(), Instant::now());
        let reply = self.lead_command(command, wait_ms, exclude).await;
        self.shared.waits.command(name, began);
        Ok(wire::ExecuteReply { reply: Some(convert::reply_to_wire(&*reply?)) })
    }

    /// Refuses a command before any work is done for it, or gives the reply that its request has
    /// already. What is not a token's is a key holder's, who manages tokens always and does all else
    /// only where none is required.
    async fn may_lead(&self, command: &Command) -> Result<Option<Arc<Reply>>, Status> {
        let Command { subject, request, body, .. } = command;
        if *subject == Subject::None {
            return Err(nobody());
        }
        let manages_tokens =
            matches!(body, Body::SetIssuer(_) | Body::RevokeToken(_) | Body::RequireTokens(_));
        let member = &self.shared.member;
        if subject.token().is_none()
            && !manages_tokens
            && member.read(|catalogue| catalogue.cluster().tokens_required)
        {
            return Err(wants_token());
        }
        match member.verdict(subject, *request, body).await? {
            Verdict::Allowed => Ok(None),
            Verdict::Answered(reply) => Ok(Some(reply)),
            Verdict::Refused(refusal) => Err(refusal_status(&refusal)),
        }
    }

    async fn lead_command(
        &self,
        command: Command,
        wait_ms: u64,
        exclude: Vec<u64>,
    ) -> Result<Arc<Reply>, Status> {
        if let Body::RemoveNode(remove) = command.body {
            let (member, leader) = (&self.shared.member, &self.shared.leader);
            let asked = (command.subject, command.request);
            return leaving::remove(member, leader, asked, remove).await;
        }
        if let Err(refusal) = retention::check(&command.body) {
            return Ok(Arc::new(Reply::Refused(refusal)));
        }
        let rings = matches!(
            command.body,
            Body::SealPart(_)
                | Body::DropPart(_)
                | Body::Close(_)
                | Body::Delete(_)
                | Body::SetPolicy(_)
                | Body::ConfirmRetention(_)
                | Body::SetDuty(_)
        );
        let moves_votes = matches!(command.body, Body::SetDuty(_));
        let exclude = exclude.into_iter().map(NodeId).collect();
        let reply = if matches!(command.body, Body::SealPart(_)) {
            let hold = Duration::from_millis(wait_ms).min(HOLD_MAX);
            self.seals.seal(command, hold).await?
        } else {
            self.execute_command(command, &exclude).await?
        };
        if rings {
            self.shared.leader.steward.ring();
        }
        if moves_votes {
            self.shared.leader.members.ring();
        }
        Ok(reply)
    }

    /// Proposes `command`; fills a Stage's targets and plans again if they went stale.
    async fn execute_command(
        &self,
        mut command: Command,
        exclude: &BTreeSet<NodeId>,
    ) -> Result<Arc<Reply>, Status> {
        let shared = &self.shared;
        if let Body::Begin(begin) = &command.body {
            shared.member.read(|catalogue| check_room(catalogue, &command.subject, begin))?;
        }
        for _ in 0..PLANS_MAX {
            if let Body::Stage(command::Stage { checkpoint, segments, .. }) = &mut command.body {
                let checkpoint = *checkpoint;
                let planned = shared.member.read(|catalogue| {
                    let upload = catalogue
                        .checkpoint(checkpoint)
                        .ok_or(Refusal::UnknownCheckpoint(checkpoint))?;
                    let mut planned = self.planned.lock();
                    planned.refresh(&shared.leader, catalogue);
                    let loads = &mut planned.loads;
                    placement::plan_stage(catalogue, loads, upload, segments, exclude)
                });
                if let Err(refusal) = planned {
                    return Ok(Arc::new(Reply::Refused(refusal)));
                }
            }
            let Command { request, subject, body, .. } = command.clone();
            let reply = shared.member.propose_for(subject, request, body).await?;
            if reply.refusal() != Some(&Refusal::BadTargets) {
                return Ok(reply);
            }
        }
        Ok(Arc::new(Reply::Refused(Refusal::BadTargets)))
    }

    /// Waits until reads here are linearizable, and asks again whether the caller's token is good.
    async fn linearizable_for(&self, caller: &Caller, deadline_ms: u64) -> Result<u64, Status> {
        let index = self.linearizable(deadline_ms).await?;
        let wall_ms = self.shared.member.median_wall_ms();
        self.shared.member.read(|catalogue| caller.check_current(catalogue, wall_ms))?;
        Ok(index)
    }

    async fn linearizable(&self, deadline_ms: u64) -> Result<u64, Status> {
        if canary!("stale_read") {
            return Ok(self.shared.member.consensus.applied());
        }
        let deadline = match deadline_ms {
            0 => READ_DEADLINE,
            ms => Duration::from_millis(ms).min(READ_DEADLINE_MAX),
        };
        let began = Instant::now();
        let index = self.shared.member.read_index(deadline).await;
        self.shared.waits.reads.observe(began.elapsed().as_secs_f64());
        index
    }
}

/// Refuses an upload when too many are open, of all or of the subject.
fn check_room(
    catalogue: &Catalogue,
    subject: &Subject,
    begin: &command::Begin,
) -> Result<(), Status> {
    if !catalogue.has_room_for(begin, OPEN_UPLOADS_MAX) {
        let text = format!("uploads open at once: limit {OPEN_UPLOADS_MAX}");
        return Err(refuse(Reason::Busy, text));
    }
    let most = OPEN_UPLOADS_PER_SUBJECT_MAX;
    match subject.token() {
        Some(token) if !catalogue.has_room_of(token, begin, most) => {
            let text = format!("uploads of {} open at once: limit {most}", token.name);
            Err(refuse(Reason::Busy, text))
        }
        _ => Ok(()),
    }
}

/// The planner's loads, and up to which heartbeat they are current.
#[derive(Default)]
struct Planned {
    loads: Loads,
    heard: BTreeMap<NodeId, Instant>,
}

impl Planned {
    fn refresh(&mut self, leader: &LeaderState, catalogue: &Catalogue) {
        self.loads.settle();
        for node in catalogue.nodes() {
            let pulse = leader.heartbeats.of(node.id);
            let Some(pulse) = pulse.filter(|pulse| pulse.incarnation == node.incarnation) else {
                continue;
            };
            if self.heard.insert(node.id, pulse.at) != Some(pulse.at) {
                self.loads.observe(node.id, pulse.bytes_for_slots(), pulse.bytes_in_flight);
            }
        }
    }
}

#[tonic::async_trait]
impl wire::catalogue_server::Catalogue for Service {
    async fn execute(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let caller = Caller::of(&request);
        let token = request.metadata().get(TOKEN_HEADER).cloned();
        let request = request.into_inner();
        if request.forward && !self.shared.member.consensus.is_leader() {
            let Shared { calls, counters, .. } = &*self.shared;
            let forwarded = self.forwards.execute(calls, counters, token, request).await;
            return forwarded.map(Response::new);
        }
        self.lead(&caller, request).await.map(Response::new)
    }

    async fn execute_forwarded(
        &self,
        request: Request<wire::ExecuteRequest>,
    ) -> Result<Response<wire::ExecuteReply>, Status> {
        let caller = Caller::of(&request);
        self.lead(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn plan_removal(
        &self,
        request: Request<wire::PlanRemovalRequest>,
    ) -> Result<Response<wire::PlanRemovalReply>, Status> {
        let caller = Caller::of(&request);
        caller.check_everywhere(Right::Operate)?;
        let asked = request.into_inner();
        let accept =
            Accept { data_loss: asked.accept_data_loss, fewer_hosts: asked.accept_fewer_hosts };
        let (member, leader) = (&self.shared.member, &self.shared.leader);
        leaving::plan(member, leader, &caller, NodeId(asked.node), accept).await.map(Response::new)
    }

    async fn plan_drain(
        &self,
        request: Request<wire::PlanDrainRequest>,
    ) -> Result<Response<wire::PlanDrainReply>, Status> {
        let caller = Caller::of(&request);
        caller.check_everywhere(Right::Operate)?;
        let node = NodeId(request.into_inner().node);
        let (member, leader) = (&self.shared.member, &self.shared.leader);
        draining::plan(member, leader, &caller, node).await.map(Response::new)
    }

    async fn plan_time_repair(
        &self,
        request: Request<wire::PlanTimeRepairRequest>,
    ) -> Result<Response<wire::PlanTimeRepairReply>, Status> {
        let caller = Caller::of(&request);
        let wire::PlanTimeRepairRequest { namespace, to_ms } = request.into_inner();
        let namespace = parse(&namespace)?;
        caller.check(Right::Operate, &namespace)?;
        labels::plan_repair(&self.shared.member, &caller, namespace, to_ms).await.map(Response::new)
    }

    async fn show_policy(
        &self,
        request: Request<wire::ShowPolicyRequest>,
    ) -> Result<Response<wire::ShowPolicyReply>, Status> {
        let caller = Caller::of(&request);
        let wire::ShowPolicyRequest { namespace, deadline_ms } = request.into_inner();
        let namespace: Namespace = parse(&namespace)?;
        caller.check(Right::Read, &namespace)?;
        self.linearizable_for(&caller, deadline_ms).await?;
        Ok(Response::new(
            self.shared.member.read(|catalogue| retention::policy(catalogue, &namespace)),
        ))
    }

    async fn list_policies(
        &self,
        request: Request<wire::ListPoliciesRequest>,
    ) -> Result<Response<wire::ListPoliciesReply>, Status> {
        let caller = Caller::of(&request);
        let wire::ListPoliciesRequest { prefix, after, deadline_ms } = request.into_inner();
        let name = |text: &str| match text {
            "" => Ok(None),
            text => parse::<Namespace>(text).map(Some),
        };
        let (prefix, after) = (name(&prefix)?, name(&after)?);
        self.linearizable_for(&caller, deadline_ms).await?;
        // Most namespaces say nothing: a page may walk all of them.
        let walk = move |catalogue: &Catalogue| {
            let is_shown = |name: &Namespace| caller.reads(name);
            retention::policies(catalogue, prefix.as_ref(), after.as_ref(), is_shown)
        };
        Ok(Response::new(self.shared.member.walk(walk).await))
    }

    async fn plan_retention(
        &self,
        request: Request<wire::PlanRetentionRequest>,
    ) -> Result<Response<wire::PlanRetentionReply>, Status> {
        let caller = Caller::of(&request);
        let wire::PlanRetentionRequest { namespace, what_if, before_commit } = request.into_inner();
        let what_if = convert::own_policy_from_wire(what_if.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let namespace = parse(&namespace)?;
        caller.check(Right::Read, &namespace)?;
        let planned =
            retention::plan(&self.shared.member, &caller, namespace, what_if, before_commit).await;
        planned.map(Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchReply, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request);
        let permit = self.watchers.take(request.extensions().get::<Peer>().copied())?;
        let wire::WatchRequest { prefix, from, deadline_ms } = request.into_inner();
        let prefix = if prefix.is_empty() { None } else { Some(parse(&prefix)?) };
        let from = convert::cursor_from_wire(&from);
        let from = from.map_err(|error| Status::invalid_argument(error.to_string()))?;
        // A node that is cut off is none to watch at.
        self.linearizable_for(&caller, deadline_ms).await?;
        let watched = watch::watch(&self.shared, caller, prefix, from, permit)?;
        Ok(Response::new(Box::pin(watched)))
    }

    async fn usage(
        &self,
        request: Request<wire::UsageRequest>,
    ) -> Result<Response<wire::UsageReply>, Status> {
        let caller = Caller::of(&request);
        let wire::UsageRequest { prefix, after, deadline_ms } = request.into_inner();
        let after = if after.is_empty() { None } else { Some(parse(&after)?) };
        self.linearizable_for(&caller, deadline_ms).await?;
        let grant = caller.token().map(|token| token.grant.clone());
        let query = UsageQuery { prefix, after, grant };
        let walk = move |catalogue: &Catalogue| usage::usage(catalogue, &query);
        Ok(Response::new(self.shared.member.walk(walk).await))
    }

    async fn list_refs(
        &self,
        request: Request<wire::ListRefsRequest>,
    ) -> Result<Response<wire::ListRefsReply>, Status> {
        let caller = Caller::of(&request);
        let wire::ListRefsRequest { namespace, deadline_ms } = request.into_inner();
        let namespace: Namespace = parse(&namespace)?;
        caller.check(Right::Read, &namespace)?;
        self.linearizable_for(&caller, deadline_ms).await?;
        Ok(Response::new(self.shared.member.read(|catalogue| marks::refs(catalogue, &namespace))))
    }

    async fn list_holds(
        &self,
        request: Request<wire::ListHoldsRequest>,
    ) -> Result<Response<wire::ListHoldsReply>, Status> {
        let caller = Caller::of(&request);
        let asked = request.into_inner();
        self.linearizable_for(&caller, asked.deadline_ms).await?;
        // All holds of a cluster may be many.
        let walk = move |catalogue: &Catalogue| marks::holds(catalogue, &asked, &caller);
        Ok(Response::new(self.shared.member.walk(walk).await))
    }

    async fn resolve(
        &self,
        request: Request<wire::ResolveRequest>,
    ) -> Result<Response<wire::ResolveReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let address: Address = parse(&request.address)?;
        shown::check_known(&caller, &address.namespace)?;
        self.linearizable_for(&caller, request.deadline_ms).await?;
        let namespace = address.namespace.clone();
        let member = &self.shared.member;
        let small = member.read(|catalogue| {
            if address.selector.walks() {
                return Ok(None);
            }
            let record = shown::resolved(catalogue, &caller, &address)?;
            let is_small = record.segments.len() <= RESOLVED_SEGMENTS_MAX
                && record.parts.len() <= RESOLVED_PARTS_MAX;
            Ok(is_small.then(|| convert::info_to_wire(&catalogue.info(record))))
        });
        let small = small.map_err(|refusal| refusal_status(&refusal))?;
        let checkpoint = match small {
            Some(checkpoint) => checkpoint,
            None => {
                let asking = caller.clone();
                let walk = move |catalogue: &Catalogue| {
                    let record = shown::resolved(catalogue, &asking, &address)?;
                    Ok(convert::info_to_wire(&catalogue.info(record)))
                };
                let found = member.walk(walk).await;
                found.map_err(|refusal| refusal_status(&refusal))?
            }
        };
        let checkpoint = shown::without_sharing(caller.token(), checkpoint);
        // Of others' checkpoints: for those who may read the namespace.
        let shared = match request.with_shared && caller.reads(&namespace) {
            true => shown::shared_most(member, CheckpointId(checkpoint.id)).await,
            false => None,
        };
        let nodes = shown::nodes(&self.shared, &caller);
        let checkpoint = Some(checkpoint);
        Ok(Response::new(wire::ResolveReply { checkpoint, nodes, shared }))
    }

    async fn list(
        &self,
        request: Request<wire::ListRequest>,
    ) -> Result<Response<wire::ListReply>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let invalid = |error: convert::ConvertError| Status::invalid_argument(error.to_string());
        let limit = if request.limit == 0 { LIST_MAX } else { request.limit.min(LIST_MAX) };
        let query = ListQuery {
            filter: convert::list_filter_from_wire(&request).map_err(invalid)?,
            prefix: request.prefix,
            after: convert::list_place_from_wire(
                &request.after_namespace,
                request.after_step,
                request.after_id,
            )
            .map_err(invalid)?,
            limit: limit as usize,
            grant: caller.token().map(|token| token.grant.clone()),
        };
        if !canary!("list_of_this_node") {
            self.linearizable_for(&caller, request.deadline_ms).await?;
        }
        // A page may be of a thousand large checkpoints: neither under the lock nor on an async thread.
        let walk = move |catalogue: &Catalogue| listed(catalogue, caller.token(), &query);
        Ok(Response::new(self.shared.member.walk(walk).await))
    }

    async fn locate(
        &self,
        request: Request<wire::LocateRequest>,
    ) -> Result<Response<wire::LocateReply>, Status> {
        let caller = Caller::of(&request);
        let about = about(request.metadata());
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
        let namespace: Option<Namespace> = match request.namespace.as_str() {
            "" => None,
            name => Some(parse(name)?),
        };
        if let Some(namespace) = &namespace {
            shown::check_known(&caller, namespace)?;
        }
        self.linearizable_for(&caller, request.deadline_ms).await?;
        let reply = self.shared.member.read(|catalogue| wire::LocateReply {
            segments: shown::located(catalogue, &caller, about, &digests),
            policy: namespace.map(|name| convert::policy_to_wire(&catalogue.policy(&name))),
        });
        Ok(Response::new(reply))
    }

    async fn hasten(
        &self,
        request: Request<wire::HastenRequest>,
    ) -> Result<Response<wire::HastenReply>, Status> {
        if !self.shared.member.consensus.is_leader() {
            return Err(self.shared.member.not_leader());
        }
        let caller = Caller::of(&request);
        let checkpoint = CheckpointId(request.into_inner().checkpoint);
        if let Some(token) = caller.token() {
            let known = self
                .shared
                .member
                .read(|catalogue| catalogue.known_to(token, checkpoint).map(|_| ()));
            known.map_err(|refusal| refusal_status(&refusal))?;
        }
        self.shared.leader.hastened.ask(checkpoint);
        self.shared.leader.steward.ring();
        Ok(Response::new(wire::HastenReply {}))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusReply>, Status> {
        let caller = Caller::of(&request);
        let index = self.linearizable_for(&caller, request.into_inner().deadline_ms).await?;
        let shared = &self.shared;
        let limited = !caller.reads_everything();
        let mut summary = shared.summaries.at(&shared.member, index).await;
        if limited {
            summary = summary.without_totals();
        }
        let nodes = shown::nodes(&self.shared, &caller);
        let cluster = shared.member.read(|catalogue| catalogue.cluster().clone());
        let (leader, leader_address) = shared.member.consensus.leader().unwrap_or_default();
        let (mut namespaces_ahead, mut first_ahead) = labels::ahead(&shared.member, &summary);
        let (mut namespaces_waiting, mut first_waiting) =
            retention::waiting(&shared.member, &shared.leader);
        if limited {
            let is_shown = |name: &str| name.parse().is_ok_and(|name| caller.reads(&name));
            first_ahead.retain(|it| is_shown(&it.namespace));
            first_waiting.retain(|it| is_shown(&it.namespace));
            (namespaces_ahead, namespaces_waiting) =
                (first_ahead.len() as u64, first_waiting.len() as u64);
        }
        Ok(Response::new(wire::StatusReply {
            // The catalogue has no id yet in the first moment of a cluster.
            cluster: shared.this.cluster.0.to_be_bytes().to_vec().into(),
            lineage: cluster.lineage.0.into(),
            clock_ms: cluster.clock_ms,
            applied_index: index,
            term: shared.member.consensus.term(),
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
            segments_lost: summary.segments_lost,
            segments_unreferenced: summary.segments_unreferenced,
            bytes_unreferenced: summary.bytes_unreferenced,
            nodes_can_be_lost: summary.nodes_can_be_lost,
            racks_can_be_lost: summary.racks_can_be_lost,
            feature_level: cluster.feature_level,
            segments_short_of_racks: summary.segments_short_of_racks,
            voters: u32::try_from(shared.member.consensus.voters().len()).unwrap_or(u32::MAX),
            settings: Some(convert::settings_to_wire(&cluster.settings)),
            namespaces_ahead,
            first_ahead,
            namespaces_waiting,
            first_waiting,
            limited,
            tokens_required: cluster.tokens_required,
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensReply>, Status> {
        let caller = Caller::of(&request);
        let wire::ListTokensRequest { deadline_ms, after } = request.into_inner();
        self.linearizable_for(&caller, deadline_ms).await?;
        self.shared.member.read(|catalogue| tokens::list(catalogue, &after)).map(Response::new)
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
    cairn_proto::refused::refusal_status(refusal)
}
