//! What the catalogue knows: checkpoints, where segments are, nodes; and the few commands that
//! are not an upload.

use std::time::Duration;

use cairn_core::command::{Body, DeleteReason};
use cairn_core::ids::{Address, CheckpointId, Namespace, NodeId, SegmentDigest, SegmentId, Step};
use cairn_core::limits::BATCH_SEGMENTS_MAX;
use cairn_core::model::{CheckpointInfo, PolicyChange, Slot};
use cairn_proto::manifest::Manifest;
use cairn_proto::{convert, wire};
use tokio::time::timeout;

use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// Checkpoints of one `List` page.
const LIST_PAGE: u32 = 500;

/// Where a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedSegment {
    pub digest: SegmentDigest,
    /// `None` where the catalogue has no record of it.
    pub id: Option<SegmentId>,
    pub len: u32,
    /// Live slots.
    pub slots: Vec<Slot>,
}

/// A place in a listing: the last checkpoint of a page.
pub type ListPlace = (Namespace, Step, CheckpointId);

/// Everything about one checkpoint.
#[derive(Debug, Clone)]
pub struct Shown {
    pub info: CheckpointInfo,
    /// One a part.
    pub manifests: Vec<Manifest>,
    /// Each distinct segment that the manifests name, by digest.
    pub segments: Vec<LocatedSegment>,
}

impl Client {
    /// The checkpoint an address names now.
    pub fn resolve<'a>(&'a self, address: &'a Address) -> Answer<'a, CheckpointInfo> {
        Box::pin(async move {
            let text = address.to_string();
            let reply = self
                .read("resolve checkpoint", |mut stub, identity, deadline_ms| {
                    let message = wire::ResolveRequest { address: text.clone(), deadline_ms };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.resolve(request).await })
                })
                .await?;
            self.learn_nodes(&reply.nodes);
            let malformed = |problem| malformed("resolve checkpoint", problem);
            let info = reply.checkpoint.ok_or_else(|| malformed("no checkpoint".to_owned()))?;
            convert::info_from_wire(info).map_err(|error| malformed(error.to_string()))
        })
    }

    /// One page of checkpoints below `prefix` (`None` for all) in (namespace, step) order, and
    /// whether there are more; `open` lists uploads too.
    pub fn list_page<'a>(
        &'a self,
        prefix: Option<&'a Namespace>,
        open: bool,
        after: Option<&'a ListPlace>,
        limit: u32,
    ) -> Answer<'a, (Vec<CheckpointInfo>, bool)> {
        Box::pin(async move {
            let (namespace, step, id) = match after {
                Some((namespace, step, id)) => (namespace.to_string(), step.0, id.0),
                None => (String::new(), 0, 0),
            };
            let message = wire::ListRequest {
                prefix: prefix.map(ToString::to_string).unwrap_or_default(),
                open,
                deadline_ms: 0,
                after_namespace: namespace,
                after_step: step,
                after_id: id,
                limit,
            };
            let reply = self
                .read("list checkpoints", |mut stub, identity, deadline_ms| {
                    let message = wire::ListRequest { deadline_ms, ..message.clone() };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.list(request).await })
                })
                .await?;
            let infos = reply.checkpoints.into_iter().map(convert::info_from_wire);
            let infos = infos
                .collect::<Result<_, _>>()
                .map_err(|error| malformed("list checkpoints", error.to_string()))?;
            Ok((infos, reply.more))
        })
    }

    /// All checkpoints below `prefix`, page after page.
    pub async fn list(
        &self,
        prefix: Option<&Namespace>,
        open: bool,
    ) -> Result<Vec<CheckpointInfo>, ClientError> {
        let mut all: Vec<CheckpointInfo> = Vec::new();
        loop {
            let after = all.last().map(|info| (info.namespace.clone(), info.step, info.id));
            let (page, more) = self.list_page(prefix, open, after.as_ref(), LIST_PAGE).await?;
            // A page without entries that claims more would go on for ever.
            let more = more && !page.is_empty();
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Where segments are, in the order asked.
    pub fn locate<'a>(&'a self, digests: &'a [SegmentDigest]) -> Answer<'a, Vec<LocatedSegment>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(digests.len());
            for batch in digests.chunks(BATCH_SEGMENTS_MAX) {
                let reply = self
                    .read("locate segments", |mut stub, identity, deadline_ms| {
                        let digests = batch.iter().map(convert::digest_to_wire).collect();
                        let message = wire::LocateRequest { digests, deadline_ms };
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
                    let slots = located.slots.iter().map(convert::slot_from_wire);
                    all.push(LocatedSegment {
                        digest: *digest,
                        id: (located.segment != 0).then_some(SegmentId(located.segment)),
                        len: located.len,
                        slots: slots
                            .collect::<Result<_, _>>()
                            .map_err(|error| malformed("locate segments", error.to_string()))?,
                    });
                }
            }
            Ok(all)
        })
    }

    /// The cluster as the leader's followers see it.
    pub fn status<'a>(&'a self) -> Answer<'a, wire::StatusReply> {
        Box::pin(async move {
            let reply = self
                .read("read status", |mut stub, identity, deadline_ms| {
                    let request = with_identity(wire::StatusRequest { deadline_ms }, &identity);
                    Box::pin(async move { stub.status(request).await })
                })
                .await?;
            self.learn_nodes(&reply.nodes);
            self.learn_leader(&reply.leader_address);
            Ok(reply)
        })
    }

    /// One node's own view and counters. One try: the question is about that node.
    pub fn node_status<'a>(&'a self, address: &'a str) -> Answer<'a, wire::NodeStatusReply> {
        Box::pin(async move {
            let (mut stub, identity) = self.admin(address);
            let request = with_identity(wire::NodeStatusRequest {}, &identity);
            let unreachable = |last: String| ClientError::Unreachable {
                endpoints: vec![address.to_owned()],
                last,
            };
            match timeout(self.options.call_deadline, stub.node_status(request)).await {
                Ok(Ok(response)) => {
                    self.learn(address, response.metadata())?;
                    Ok(response.into_inner())
                }
                Ok(Err(status)) => Err(unreachable(status.message().to_owned())),
                Err(_) => Err(unreachable("no answer in time".to_owned())),
            }
        })
    }

    /// A checkpoint with its decoded manifests and the places of its segments.
    pub fn show<'a>(&'a self, address: &'a Address) -> Answer<'a, Shown> {
        Box::pin(async move {
            let info = self.resolve(address).await?;
            let manifests = self.manifests(&info).await?;
            let mut digests: Vec<SegmentDigest> = Vec::new();
            for manifest in &manifests {
                digests.extend(manifest.segments.iter().map(|(digest, _)| *digest));
            }
            digests.sort_unstable();
            digests.dedup();
            let segments = self.locate(&digests).await?;
            Ok(Shown { info, manifests, segments })
        })
    }

    /// Deletes the checkpoint an address names; `now` gives its space back without the grace.
    pub async fn delete(
        &self,
        address: &Address,
        now: bool,
    ) -> Result<CheckpointInfo, ClientError> {
        let info = self.resolve(address).await?;
        let body = Body::Delete { checkpoint: info.id, reason: DeleteReason::Asked, now };
        self.execute(body, Duration::ZERO).await?;
        Ok(info)
    }

    /// Takes a node out of the cluster for good.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), ClientError> {
        self.execute(Body::RemoveNode { node }, Duration::ZERO).await.map(|_| ())
    }

    /// Changes a namespace's policy.
    pub async fn set_policy(
        &self,
        namespace: &Namespace,
        change: PolicyChange,
    ) -> Result<(), ClientError> {
        let body = Body::SetPolicy { namespace: namespace.clone(), change };
        self.execute(body, Duration::ZERO).await.map(|_| ())
    }
}

pub(crate) fn malformed(what: &str, problem: String) -> ClientError {
    ClientError::Malformed { what: what.to_owned(), problem }
}
