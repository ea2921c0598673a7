//! What may be asked of a catalogue. Only committed checkpoints are visible unless a question
//! says otherwise (C2).

use std::sync::Arc;

use super::{Catalogue, Checkpoint, NodeSlots};
use crate::canary;
use crate::command::{Refusal, Reply};
use crate::ids::{
    Address, CheckpointId, Cookie, Namespace, NodeId, Nonce, RequestId, SegmentDigest, SegmentId,
    Selector, Step,
};
use crate::model::{
    CheckpointInfo, CheckpointState, Cluster, Durability, NamespaceRecord, Node, SealedPart,
    Segment,
};
use crate::pages::SegmentPages;
use crate::segment_set::SegmentSet;

/// Which checkpoints to list: ordered by (namespace, step, id).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Of the namespace's name; empty for all.
    pub prefix: String,
    /// Open uploads too.
    pub include_open: bool,
    /// Continue after this one.
    pub after: Option<(Namespace, Step, CheckpointId)>,
    pub limit: usize,
}

impl Catalogue {
    pub fn is_initialized(&self) -> bool {
        self.cluster.next_node != 0
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// Every node the cluster has had, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    pub fn node_by_cookie(&self, cookie: Cookie) -> Option<&Node> {
        self.nodes.values().find(|node| node.cookie == cookie)
    }

    /// Whether a later process of this node has registered in place of the one with `nonce`.
    pub fn is_superseded(&self, node: NodeId, nonce: Nonce) -> bool {
        self.nodes.get(&node).is_some_and(|record| record.superseded.contains(&nonce))
    }

    /// The segments with a slot on this node; `None` where it has none.
    pub fn node_slots(&self, id: NodeId) -> Option<&NodeSlots> {
        self.index.nodes.get(&id)
    }

    pub fn namespace(&self, namespace: &Namespace) -> Option<&NamespaceRecord> {
        self.namespaces.get(namespace)
    }

    pub fn namespaces(&self) -> impl Iterator<Item = (&Namespace, &NamespaceRecord)> {
        self.namespaces.iter()
    }

    pub fn checkpoint(&self, id: CheckpointId) -> Option<&Arc<Checkpoint>> {
        self.checkpoints.get(&id)
    }

    /// In every state, by id.
    pub fn checkpoints(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        self.checkpoints.values()
    }

    /// Open uploads, by id.
    pub fn open_uploads(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        self.index.open.iter().filter_map(|id| self.checkpoints.get(id))
    }

    /// The records of a step in every state, oldest first.
    pub fn checkpoints_at(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> impl Iterator<Item = &Arc<Checkpoint>> {
        let names = self.index.namespaces.get(namespace).into_iter();
        let range = (step, CheckpointId(0))..=(step, CheckpointId(u64::MAX));
        names
            .flat_map(move |names| names.steps.range(range.clone()))
            .filter_map(|(_, id)| self.checkpoints.get(id))
    }

    /// Committed checkpoints of a namespace, newest commit first.
    pub fn commits(
        &self,
        namespace: &Namespace,
    ) -> impl DoubleEndedIterator<Item = &Arc<Checkpoint>> {
        let names = self.index.namespaces.get(namespace).into_iter();
        names
            .flat_map(|names| names.commits.values().rev())
            .filter_map(|id| self.checkpoints.get(id))
    }

    pub fn segments(&self) -> &SegmentPages {
        &self.segments
    }

    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id)
    }

    pub fn segment_by_digest(&self, digest: &SegmentDigest) -> Option<&Segment> {
        self.segments.get(*self.index.digests.get(digest)?)
    }

    /// Referenced segments with an Assigned slot, or with more or fewer live slots than wanted.
    pub fn unsettled(&self) -> &SegmentSet {
        &self.index.unsettled
    }

    /// Segments that may be reaped from the time beside them on, earliest first.
    pub fn unreferenced(&self) -> impl Iterator<Item = (u64, SegmentId)> {
        let times = self.index.unreferenced.iter();
        times.flat_map(|(reap_after_ms, set)| set.iter().map(move |id| (*reap_after_ms, id)))
    }

    /// Whether a checkpoint that committed the segment holds its reference still.
    pub fn is_committed(&self, id: SegmentId) -> bool {
        self.index.committed.get(id) > 0
    }

    /// Distinct racks of registered nodes in service.
    pub fn racks(&self) -> u32 {
        self.index.racks
    }

    /// Remembered replies, oldest first.
    pub fn replies(&self) -> impl Iterator<Item = (RequestId, &Reply)> {
        self.replies.iter()
    }

    pub fn remembered_reply(&self, request: RequestId) -> Option<&Reply> {
        self.replies.get(request)
    }

    /// The committed checkpoint an address means.
    pub fn resolve(&self, address: &Address) -> Result<CheckpointInfo, Refusal> {
        self.resolve_record(address).map(|record| self.info(record))
    }

    /// As [`Catalogue::resolve`], without computing its durability.
    pub fn resolve_record(&self, address: &Address) -> Result<&Arc<Checkpoint>, Refusal> {
        let mut commits = self.commits(&address.namespace);
        let found = match &address.selector {
            Selector::Step(step) => self
                .checkpoints_at(&address.namespace, *step)
                .find(|record| record.state == CheckpointState::Committed),
            Selector::Latest if canary!("latest_by_step") => commits.max_by_key(|it| it.step),
            Selector::Latest => commits.next(),
            Selector::CommittedBy(wall_ms) => commits
                .find(|record| record.commit.is_some_and(|commit| commit.wall_ms <= *wall_ms)),
            Selector::Ref(_) => None,
        };
        found.ok_or_else(|| Refusal::NoSuchCheckpoint {
            namespace: address.namespace.to_string(),
            selector: address.selector.to_string(),
        })
    }

    /// At most `limit` committed (and, if asked for, open) checkpoints. Durability costs a walk
    /// over a checkpoint's segments, so that is a second question: [`Catalogue::info`].
    pub fn list(&self, query: &ListQuery) -> Vec<Arc<Checkpoint>> {
        let after = query.after.as_ref();
        let namespaces = self.index.namespaces.iter();
        namespaces
            .filter(|(name, _)| name.as_str().starts_with(&query.prefix))
            .filter(|(name, _)| after.is_none_or(|(last, _, _)| *name >= last))
            .flat_map(|(name, names)| names.steps.iter().map(move |place| (name, place)))
            .filter(|(name, (step, id))| {
                after.is_none_or(|(last, last_step, last_id)| {
                    (*name, step, id) > (last, last_step, last_id)
                })
            })
            .filter_map(|(_, (_, id))| self.checkpoints.get(id))
            .filter(|record| match record.state {
                CheckpointState::Committed => true,
                CheckpointState::Open => query.include_open,
                CheckpointState::Deleted => false,
            })
            .take(query.limit)
            .cloned()
            .collect()
    }

    /// What a client needs to know of a checkpoint. Of an open upload: what is sealed, and what
    /// it has staged so far.
    pub fn info(&self, record: &Checkpoint) -> CheckpointInfo {
        let parts: Vec<SealedPart> = match &record.open {
            Some(upload) => {
                upload.parts.values().filter_map(|part| part.part.sealed.clone()).collect()
            }
            None => record.parts.clone(),
        };
        let open = record.open.is_some();
        let staged = record.loose.iter().filter_map(|id| self.segments.get(id));
        let staged_bytes = || staged.map(|segment| u64::from(segment.len)).sum();
        let sum = |of: fn(&SealedPart) -> u64| parts.iter().map(of).fold(0u64, u64::saturating_add);
        CheckpointInfo {
            id: record.id,
            namespace: record.namespace.clone(),
            step: record.step,
            attempt: record.attempt,
            state: record.state,
            policy: record.policy.clone(),
            commit: record.commit,
            labels: record.labels.clone(),
            bytes: sum(|part| part.bytes),
            files: sum(|part| part.files),
            segments: if open { record.loose.len() } else { record.segments.len() },
            segment_bytes: if open { staged_bytes() } else { record.segment_bytes },
            durability: self.durability(record),
            parts,
        }
    }

    /// The segments a checkpoint names; of an open upload, those it has staged.
    pub fn checkpoint_segments<'a>(
        &'a self,
        record: &'a Checkpoint,
    ) -> impl Iterator<Item = &'a Segment> {
        let loose = record.open.is_some().then_some(&record.loose);
        let ids = record.segments.iter().chain(loose.into_iter().flat_map(SegmentSet::iter));
        ids.filter_map(|id| self.segments.get(id))
    }

    /// How safe a checkpoint is now. One without segments is as safe as it wants to be.
    pub fn durability(&self, record: &Checkpoint) -> Durability {
        let wanted = record.policy.replicas;
        let mut least = Durability {
            replicas_wanted: wanted,
            replicas_min: u32::MAX,
            racks_min: u32::MAX,
            ..Durability::default()
        };
        for segment in self.checkpoint_segments(record) {
            let have = self.counting(segment);
            least.replicas_min = least.replicas_min.min(have.replicas);
            least.racks_min = least.racks_min.min(have.racks);
            if have.replicas < wanted {
                least.segments_below += 1;
                least.bytes_below += u64::from(segment.len);
            }
            if have.replicas == 0 {
                least.segments_unavailable += 1;
            }
        }
        if least.replicas_min == u32::MAX {
            least.replicas_min = wanted;
            least.racks_min = self.required_racks(&record.policy);
        }
        least
    }
}
