//! Queries of the catalogue: checkpoints, locations of segments, nodes. And the few commands that
//! are not part of an upload.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_host::envelope::Reason;
use cairn_proto::wire;
use cairn_types::command::{self, Accept, Body, NewDuty, Refusal};
use cairn_types::convert;
use cairn_types::ids::{Address, CheckpointId, Namespace, NodeId, SegmentDigest, SegmentId, Step};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use cairn_types::manifest::Manifest;
use cairn_types::model::{CheckpointInfo, Policy, PolicyChange, Slot, SlotState};
use tokio::time::timeout;
use tonic::{Response, Status};

use crate::answers;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;
use crate::status::{ClusterStatus, NodeInfo, NodeStatus};

/// Most voters that are accepted from one node's answer.
const VOTERS_NAMED_MAX: usize = 16;

/// A leader moves the node's vote before it answers, and may first hand over leadership.
const REMOVAL_WAIT: Duration = Duration::from_secs(20);

/// The location of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedSegment {
    pub digest: SegmentDigest,
    /// `None` if the catalogue has no record of it.
    pub id: Option<SegmentId>,
    pub len: u32,
    /// Live slots.
    pub slots: Vec<Slot>,
}

impl LocatedSegment {
    /// Whether at least `quorum` replicas count, by these records of the nodes.
    pub(crate) fn has_counting(&self, nodes: &BTreeMap<NodeId, NodeInfo>, quorum: u32) -> bool {
        let counts = |slot: &&Slot| {
            slot.state == SlotState::Durable
                && nodes.get(&slot.node).is_some_and(|node| node.up && node.inventoried)
        };
        self.id.is_some() && self.slots.iter().filter(counts).count() >= quorum as usize
    }
}

/// The effect of a node's removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalPlan {
    /// The reason for a refusal, if it would be refused.
    pub refused: Option<Refusal>,
    /// Whether the node votes now, and leads.
    pub votes: bool,
    pub leads: bool,
    /// The voters without it.
    pub voters: Vec<NodeId>,
    /// Segments in use that are durable on it. Their replicas are made elsewhere.
    pub segments: u64,
    pub bytes: u64,
    /// Those of them without another replica on a living node.
    pub segments_lost: u64,
    pub bytes_lost: u64,
}

/// What a drain of a node would move, and where to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainPlan {
    /// The reason for a refusal, if it would be refused.
    pub refused: Option<Refusal>,
    /// Whether the node votes now, and leads.
    pub votes: bool,
    pub leads: bool,
    /// Replicas in use on it, and their stored bytes.
    pub segments: u64,
    pub bytes: u64,
    /// What each other node would get.
    pub targets: Vec<(NodeId, Share)>,
    /// What has no place now, and why: an example of each kind of reason.
    pub obstacles: Vec<(Refusal, Share)>,
    /// Replicas that were looked at: a plan places no more than a few hundred thousand.
    pub looked_at: u64,
}

/// Some of the segments, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    pub segments: u64,
    pub bytes: u64,
}

/// All information about one checkpoint.
#[derive(Debug, Clone)]
pub struct Shown {
    pub info: CheckpointInfo,
    /// One per part.
    pub manifests: Vec<Manifest>,
    /// Each distinct segment that the manifests name, by digest.
    pub segments: Vec<LocatedSegment>,
    /// The checkpoint of its namespace with which it shares most. `None` if it shares nothing with those
    /// that were compared, and with nodes of an older build.
    pub shared: Option<SharedMost>,
}

/// The checkpoint that names most of another one's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedMost {
    pub checkpoint: CheckpointId,
    pub step: Step,
    /// Raw bytes of the segments that both name.
    pub bytes: u64,
    /// How many checkpoints were compared: the nearest ones.
    pub compared: u64,
}

impl Client {
    /// The checkpoint an address names now.
    pub fn resolve<'a>(&'a self, address: &'a Address) -> Answer<'a, CheckpointInfo> {
        Box::pin(async move { Ok(self.resolve_with(address, false).await?.0) })
    }

    /// With whom it shares most, too, if that is asked for.
    fn resolve_with<'a>(
        &'a self,
        address: &'a Address,
        with_shared: bool,
    ) -> Answer<'a, (CheckpointInfo, Option<SharedMost>)> {
        Box::pin(async move {
            let text = address.to_string();
            let reply = self
                .read("resolve checkpoint", |mut stub, identity, deadline_ms| {
                    let address = text.clone();
                    let message = wire::ResolveRequest { address, deadline_ms, with_shared };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.resolve(request).await })
                })
                .await?;
            let malformed = |problem| malformed("resolve checkpoint", problem);
            answers::nodes(&reply.nodes).map_err(malformed)?;
            self.learn_nodes(reply.nodes.into_iter().map(NodeInfo::received).collect());
            let info = reply.checkpoint.ok_or_else(|| malformed("no checkpoint".to_owned()))?;
            let info =
                convert::info_from_wire(info).map_err(|error| malformed(error.to_string()))?;
            answers::resolved(address, &info).map_err(malformed)?;
            let shared = reply.shared.map(|shared| SharedMost {
                checkpoint: CheckpointId(shared.checkpoint),
                step: Step(shared.step),
                bytes: shared.bytes,
                compared: shared.compared,
            });
            if shared.is_some_and(|it| it.bytes > info.segment_bytes) {
                return Err(malformed("it shares more bytes than it has".to_owned()));
            }
            Ok((info, shared))
        })
    }

    /// The locations of segments, in the requested order.
    pub fn locate<'a>(&'a self, digests: &'a [SegmentDigest]) -> Answer<'a, Vec<LocatedSegment>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(digests.len());
            for batch in digests.chunks(BATCH_SEGMENTS_MAX) {
                let reply = self
                    .read("locate segments", |mut stub, identity, deadline_ms| {
                        let digests = batch.iter().map(convert::digest_to_wire).collect();
                        let message =
                            wire::LocateRequest { digests, deadline_ms, ..Default::default() };
                        let request = with_identity(message, &identity);
                        Box::pin(async move { stub.locate(request).await })
                    })
                    .await?;
                if reply.segments.len() != batch.len() {
                    let problem =
                        format!("{} segments instead of {}", reply.segments.len(), batch.len());
                    return Err(malformed("locate segments", problem));
                }
                for (digest, located) in batch.iter().zip(&reply.segments) {
                    answers::located(located)
                        .map_err(|problem| malformed("locate segments", problem))?;
                    let slots = located.slots.iter().map(convert::slot_from_wire);
                    let mut slots = slots
                        .collect::<Result<Vec<_>, _>>()
                        .map_err(|error| malformed("locate segments", error.to_string()))?;
                    if !self.lost.is_empty() {
                        let nodes = self.nodes();
                        let is_left = |node| nodes.get(&node).is_some_and(|it| !self.lost.has(it));
                        slots.retain(|slot| is_left(slot.node));
                    }
                    let id = (located.segment != 0).then_some(SegmentId(located.segment));
                    all.push(LocatedSegment { digest: *digest, id, len: located.len, slots });
                }
            }
            Ok(all)
        })
    }

    /// The policy of a namespace, or the default policy if it has none.
    pub fn policy<'a>(&'a self, namespace: &'a Namespace) -> Answer<'a, Policy> {
        Box::pin(async move {
            let reply = self
                .read("read policy", |mut stub, identity, deadline_ms| {
                    let namespace = namespace.to_string();
                    let message = wire::LocateRequest { digests: vec![], deadline_ms, namespace };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.locate(request).await })
                })
                .await?;
            let policy = reply.policy.unwrap_or_default();
            convert::policy_from_wire(&policy)
                .map_err(|error| malformed("read policy", error.to_string()))
        })
    }

    /// The cluster as any node sees it. Information that only the leader gets from the nodes may be
    /// missing.
    pub fn status<'a>(&'a self) -> Answer<'a, ClusterStatus> {
        self.status_within(self.options.deadline)
    }

    /// [`Client::status`] with its own deadline. `None` means no limit.
    pub fn status_within<'a>(&'a self, deadline: Option<Duration>) -> Answer<'a, ClusterStatus> {
        Box::pin(async move {
            let reply = self
                .read_within("read status", deadline, |mut stub, identity, deadline_ms| {
                    let request = with_identity(wire::StatusRequest { deadline_ms }, &identity);
                    Box::pin(async move { stub.status(request).await })
                })
                .await?;
            answers::nodes(&reply.nodes).map_err(|problem| malformed("read status", problem))?;
            let status = ClusterStatus::received(reply)?;
            self.learn_nodes(status.nodes.clone());
            self.learn_leader(status.leader_address.as_deref());
            self.learn_settings(status.settings.clone());
            Ok(status)
        })
    }

    /// Like [`Client::status`], from the leader if it answers. Only the leader knows how much room
    /// all nodes have.
    pub fn full_status<'a>(&'a self) -> Answer<'a, ClusterStatus> {
        self.full_status_within(self.options.deadline)
    }

    /// [`Client::full_status`] with its own deadline. `None` means no limit.
    pub fn full_status_within<'a>(
        &'a self,
        deadline: Option<Duration>,
    ) -> Answer<'a, ClusterStatus> {
        Box::pin(async move {
            let status = self.status_within(deadline).await?;
            let is_known = status.nodes.iter().any(|node| node.available_bytes.is_some());
            let Some(leader) = status.leader_address.clone().filter(|_| !is_known) else {
                return Ok(status);
            };
            let (mut stub, identity) = self.catalogue_at(&leader);
            let deadline = self.options.call_deadline;
            let deadline_ms = deadline.mul_f32(0.8).as_millis() as u64;
            let request = with_identity(wire::StatusRequest { deadline_ms }, &identity);
            match timeout(deadline, stub.status(request)).await {
                Ok(Ok(reply)) if answers::nodes(&reply.get_ref().nodes).is_ok() => {
                    ClusterStatus::received(reply.into_inner())
                }
                // The answer of any node is used instead.
                _ => Ok(status),
            }
        })
    }

    /// One node's own view and counters. One attempt, because the question is about that node.
    pub fn node_status<'a>(&'a self, address: &'a str) -> Answer<'a, NodeStatus> {
        Box::pin(async move {
            let (mut stub, identity) = self.admin(address);
            let request = with_identity(wire::NodeStatusRequest {}, &identity);
            let patience = self.options.call_deadline;
            let reply = self.of_one_node(address, patience, stub.node_status(request)).await?;
            NodeStatus::received(reply)
        })
    }

    /// The answer of one node to a question about itself.
    pub(crate) async fn of_one_node<T>(
        &self,
        address: &str,
        patience: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, ClientError> {
        let unreachable =
            |last: String| ClientError::Unreachable { endpoints: vec![address.to_owned()], last };
        match timeout(patience, call).await {
            Ok(Ok(response)) => {
                self.learn(address, response.metadata())?;
                Ok(response.into_inner())
            }
            Ok(Err(status)) if Reason::of(&status) == Some(Reason::Key) => {
                let (endpoint, what) = (address.to_owned(), status.message().to_owned());
                Err(ClientError::Key { endpoint, what })
            }
            Ok(Err(status)) => Err(unreachable(status.message().to_owned())),
            Err(_) => Err(unreachable("no answer in time".to_owned())),
        }
    }

    /// The view of every node: of the endpoints, and of the voters that they name. Needs no leader.
    /// Each is asked once, all at the same time, with the time limit `patience`.
    pub async fn views(&self, patience: Duration) -> BTreeMap<String, View> {
        let mut found = BTreeMap::new();
        // The second round asks the voters that the first one named.
        let mut ask: BTreeSet<String> = self.addresses().into_iter().collect();
        for _ in 0..2 {
            let asked = ask.iter().map(|address| async move {
                let answer = timeout(patience, self.node_status(address)).await;
                let silent = || {
                    Err(ClientError::Unreachable {
                        endpoints: vec![address.clone()],
                        last: format!("no answer within {patience:?}"),
                    })
                };
                (address.clone(), answer.unwrap_or_else(|_| silent()))
            });
            found.extend(futures::future::join_all(asked).await);
            let named = found.values().flatten().flat_map(|status| {
                // A cluster has at most five voters, and ten during a change.
                status.voters.iter().take(VOTERS_NAMED_MAX)
            });
            let named = named.map(|voter| voter.address.clone());
            // A node may have answered already under another name.
            let own = found.values().flatten().map(|status| status.address.clone());
            let own: BTreeSet<String> = own.collect();
            ask = named.filter(|at| !found.contains_key(at) && !own.contains(at)).collect();
        }
        found
    }

    /// A checkpoint with its decoded manifests and the places of its segments.
    pub fn show<'a>(&'a self, address: &'a Address) -> Answer<'a, Shown> {
        Box::pin(async move {
            let (info, shared) = self.resolve_with(address, true).await?;
            let manifests = self.manifests(&info).await?;
            let mut digests: Vec<SegmentDigest> = Vec::new();
            for manifest in &manifests {
                digests.extend(manifest.segments.iter().map(|(digest, _)| *digest));
            }
            digests.sort_unstable();
            digests.dedup();
            let segments = self.about(info.id).locate(&digests).await?;
            Ok(Shown { info, manifests, segments, shared })
        })
    }

    /// Removes a node from the cluster, once the cluster no longer needs its vote and its replicas.
    /// This is final: its id never returns.
    pub async fn remove_node(&self, node: NodeId, accept: Accept) -> Result<(), ClientError> {
        self.execute(Body::RemoveNode(command::RemoveNode { node, accept }), REMOVAL_WAIT)
            .await
            .map(|_| ())
    }

    /// The effect of [`Client::remove_node`] now.
    pub fn plan_removal(&self, node: NodeId, accept: Accept) -> Answer<'_, RemovalPlan> {
        Box::pin(async move {
            let message = wire::PlanRemovalRequest {
                node: node.0,
                accept_data_loss: accept.data_loss,
                accept_fewer_hosts: accept.fewer_hosts,
            };
            let reply = self
                .read("plan removal", |mut stub, identity, _| {
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.plan_removal(request).await })
                })
                .await?;
            let refused = reply.refused.map(convert::refusal_from_wire).transpose();
            Ok(RemovalPlan {
                refused: refused.map_err(|error| malformed("plan removal", error.to_string()))?,
                votes: reply.votes,
                leads: reply.leads,
                voters: reply.voters.into_iter().map(NodeId).collect(),
                segments: reply.segments,
                bytes: reply.bytes,
                segments_lost: reply.segments_lost,
                bytes_lost: reply.bytes_lost,
            })
        })
    }

    /// Drains a node, says that it is in maintenance, or lets it serve again.
    ///
    /// # Errors
    /// Refused for a node that is not in service, and a drain also where too few hosts would be
    /// left for it to end.
    pub async fn set_duty(&self, node: NodeId, duty: NewDuty) -> Result<(), ClientError> {
        let body = Body::SetDuty(command::SetDuty { node, duty });
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }

    /// What a drain of a node would do now.
    pub fn plan_drain(&self, node: NodeId) -> Answer<'_, DrainPlan> {
        Box::pin(async move {
            let message = wire::PlanDrainRequest { node: node.0 };
            let reply = self
                .read("plan drain", |mut stub, identity, _| {
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.plan_drain(request).await })
                })
                .await?;
            let refusal = |sent| {
                convert::refusal_from_wire(sent)
                    .map_err(|error| malformed("plan drain", error.to_string()))
            };
            let target = |it: wire::DrainTarget| {
                (NodeId(it.node), Share { segments: it.segments, bytes: it.bytes })
            };
            let obstacle = |it: wire::DrainObstacle| {
                let share = Share { segments: it.segments, bytes: it.bytes };
                Ok((refusal(it.reason.unwrap_or_default())?, share))
            };
            Ok(DrainPlan {
                refused: reply.refused.map(refusal).transpose()?,
                votes: reply.votes,
                leads: reply.leads,
                segments: reply.segments,
                bytes: reply.bytes,
                targets: reply.targets.into_iter().map(target).collect(),
                obstacles: reply
                    .obstacles
                    .into_iter()
                    .map(obstacle)
                    .collect::<Result<_, ClientError>>()?,
                looked_at: reply.looked_at,
            })
        })
    }

    /// Changes a namespace's policy.
    pub async fn set_policy(
        &self,
        namespace: &Namespace,
        change: PolicyChange,
    ) -> Result<(), ClientError> {
        let body = Body::SetPolicy(command::SetPolicy::new(namespace.clone(), change));
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }
}

/// One node's own view, or the reason why it gave no answer.
pub type View = Result<NodeStatus, ClientError>;

pub(crate) fn malformed(what: &str, problem: String) -> ClientError {
    ClientError::Malformed { what: what.to_owned(), problem }
}
