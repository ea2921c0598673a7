//! Queries on a catalogue. Only committed checkpoints are visible unless a query says otherwise
//! (C2).

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::index::NamespaceIndex;
use super::{Catalogue, Checkpoint, NodeSlots};
use crate::pages::SegmentPages;
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{Refusal, Reply};
use cairn_types::ids::{
    Address, CheckpointId, Cookie, Namespace, NodeId, Nonce, RequestId, SegmentDigest, SegmentId,
    Selector, Step,
};
use cairn_types::limits::LIST_RECORDS_MAX;
use cairn_types::listing::{ListFilter, ListPlace};
use cairn_types::model::{
    CheckpointInfo, CheckpointState, Cluster, NamespaceRecord, Node, Segment,
};
use cairn_types::retention::{BestMetric, Extreme};
use cairn_types::rights::{Grant, Right};

/// A query for checkpoints. The order is (namespace, step, id).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// This namespace and those below it. Empty means all.
    pub prefix: String,
    pub filter: ListFilter,
    /// Continue after this one.
    pub after: Option<ListPlace>,
    pub limit: usize,
    /// Lists only what this grant allows to read.
    pub grant: Option<Grant>,
}

/// The result of a walk over at most `LIST_RECORDS_MAX` records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    pub records: Vec<Arc<Checkpoint>>,
    /// The last record of the walk, if there are more after it.
    pub next: Option<ListPlace>,
}

/// Names from `first` on, before `end` if there is one.
struct NameRange {
    first: String,
    end: Option<String>,
}

impl NameRange {
    /// Checked because a map panics on a range whose start is after its end.
    fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.first >= *end)
    }
}

impl RangeBounds<str> for NameRange {
    fn start_bound(&self) -> Bound<&str> {
        Bound::Included(&self.first)
    }

    fn end_bound(&self) -> Bound<&str> {
        self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)
    }
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

    /// Whether a later process of this node has replaced the one with `nonce` by registering.
    pub fn is_superseded(&self, node: NodeId, nonce: Nonce) -> bool {
        self.nodes.get(&node).is_some_and(|record| record.superseded.contains(&nonce))
    }

    /// The segments with a slot on this node. `None` if it has no slot.
    pub fn node_slots(&self, id: NodeId) -> Option<&NodeSlots> {
        self.index.nodes.get(&id)
    }

    pub fn namespace(&self, namespace: &Namespace) -> Option<&NamespaceRecord> {
        self.namespaces.get(namespace)
    }

    pub fn namespaces(&self) -> impl Iterator<Item = (&Namespace, &NamespaceRecord)> {
        self.namespaces.iter()
    }

    /// Names of namespaces with a record, after a given name.
    pub(crate) fn namespaces_after(
        &self,
        from: Bound<&Namespace>,
    ) -> impl Iterator<Item = &Namespace> {
        self.namespaces.range::<Namespace, _>((from, Bound::Unbounded)).map(|(name, _)| name)
    }

    /// The other names, up to that name.
    pub(crate) fn namespaces_to(&self, to: &Namespace) -> impl Iterator<Item = &Namespace> {
        let up_to = (Bound::Unbounded, Bound::Included(to));
        self.namespaces.range::<Namespace, _>(up_to).map(|(name, _)| name)
    }

    /// Number of committed checkpoints of a namespace.
    pub(crate) fn commit_count(&self, namespace: &Namespace) -> usize {
        self.index.namespaces.get(namespace).map_or(0, |names| names.commits.len())
    }

    pub fn checkpoint(&self, id: CheckpointId) -> Option<&Arc<Checkpoint>> {
        self.checkpoints.get(&id)
    }

    /// Checkpoints in every state, by id.
    pub fn checkpoints(&self) -> impl DoubleEndedIterator<Item = &Arc<Checkpoint>> {
        self.checkpoints.values()
    }

    /// Open uploads, by id.
    pub fn open_uploads(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        self.index.open.keys().filter_map(|id| self.checkpoints.get(id))
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
            .filter_map(|((_, id), ())| self.checkpoints.get(id))
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

    /// The same, without checkpoints in quarantine.
    pub fn good_commits(
        &self,
        namespace: &Namespace,
    ) -> impl DoubleEndedIterator<Item = &Arc<Checkpoint>> {
        let names = self.index.namespaces.get(namespace).into_iter();
        names.flat_map(|names| names.good.values().rev()).filter_map(|id| self.checkpoints.get(id))
    }

    pub fn segments(&self) -> &SegmentPages {
        &self.segments
    }

    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(id)
    }

    pub fn segment_by_digest(&self, digest: &SegmentDigest) -> Option<&Segment> {
        self.segments.get(self.index.digests.get(digest, &self.segments)?)
    }

    /// Referenced segments with an Assigned slot, or with more or fewer live slots than wanted.
    pub fn unsettled(&self) -> &SegmentSet {
        &self.index.unsettled
    }

    /// Segments and the time from which each may be reaped, earliest first.
    pub fn unreferenced(&self) -> impl Iterator<Item = (u64, SegmentId)> {
        let times = self.index.unreferenced.iter();
        times.flat_map(|(reap_after_ms, set)| set.iter().map(move |id| (*reap_after_ms, id)))
    }

    /// Checkpoints for which `DropReferences` has work, now or once a grace is over.
    pub(crate) fn droppable(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        self.index.droppable.keys().filter_map(|id| self.checkpoints.get(id))
    }

    /// Whether a checkpoint that committed the segment still holds its reference.
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

    /// The committed checkpoint of an address.
    pub fn resolve(&self, address: &Address) -> Result<CheckpointInfo, Refusal> {
        self.resolve_record(address).map(|record| self.info(record))
    }

    /// Like [`Catalogue::resolve`], without computing its durability.
    ///
    /// An address of the best checkpoint, or by time, takes a walk over the namespace's good
    /// commits.
    pub fn resolve_record(&self, address: &Address) -> Result<&Arc<Checkpoint>, Refusal> {
        let mut commits = self.commits(&address.namespace);
        let mut good = self.good_commits(&address.namespace);
        let found = match &address.selector {
            Selector::Step(step) => self
                .checkpoints_at(&address.namespace, *step)
                .find(|record| record.state == CheckpointState::Committed),
            Selector::Latest if canary!("latest_by_step") => commits.max_by_key(|it| it.step),
            Selector::Latest if canary!("latest_in_quarantine") => commits.next(),
            Selector::Latest => good.next(),
            Selector::Before(count) => good.nth(*count as usize),
            Selector::CommittedBy(wall_ms) => {
                good.find(|record| record.commit.is_some_and(|commit| commit.wall_ms <= *wall_ms))
            }
            Selector::Best => {
                let best = self.best_metric(&address.namespace, None)?;
                self.best_commit(&address.namespace, &best)
            }
            Selector::BestBy(metric, Some(extreme)) => {
                let best = BestMetric { metric: metric.clone(), extreme: *extreme };
                self.best_commit(&address.namespace, &best)
            }
            Selector::BestBy(metric, None) => {
                let best = self.best_metric(&address.namespace, Some(metric))?;
                self.best_commit(&address.namespace, &best)
            }
            Selector::Ref(name) => self
                .ref_target(&address.namespace, name)
                .and_then(|id| self.checkpoints.get(&id))
                .filter(|record| record.is_committed()),
        };
        found.ok_or_else(|| Refusal::NoSuchCheckpoint {
            namespace: address.namespace.to_string(),
            selector: address.selector.to_string(),
        })
    }

    /// The metric by which the namespace's policy finds the best checkpoint. `metric`, if given,
    /// must be used.
    fn best_metric(
        &self,
        namespace: &Namespace,
        metric: Option<&str>,
    ) -> Result<BestMetric, Refusal> {
        let best = self.full_policy(namespace).retention.best;
        let best = best.filter(|best| metric.is_none_or(|metric| best.metric == metric));
        best.ok_or_else(|| Refusal::NoBestMetric {
            namespace: namespace.to_string(),
            metric: metric.unwrap_or_default().to_owned(),
        })
    }

    /// The good commit with the best value. Among equal values the newest. Checkpoints without the
    /// metric are ignored.
    fn best_commit(&self, namespace: &Namespace, best: &BestMetric) -> Option<&Arc<Checkpoint>> {
        let in_quarantine = canary!("best_in_quarantine");
        let commits = self.commits(namespace);
        let good = commits.filter(|record| in_quarantine || record.quarantine.is_none());
        let value = |record: &Checkpoint| record.metrics.get(&best.metric).map(|it| it.value());
        let measured = good.filter_map(|record| Some((value(record)?, record)));
        // Metrics are finite. Of two equal ones the first stays, which is the newer.
        let better = |one: f64, other: f64| match best.extreme {
            Extreme::Min => other < one,
            Extreme::Max => other > one,
        };
        let found = measured.reduce(|one, other| if better(one.0, other.0) { other } else { one });
        found.map(|(_, record)| record)
    }

    /// At most `limit` checkpoints. Their durability is a separate query: [`Catalogue::listed`].
    pub fn list(&self, query: &ListQuery) -> ListPage {
        let after = query.after.as_ref();
        let mut page = ListPage::default();
        let mut last: Option<&Arc<Checkpoint>> = None;
        let is_shown = |namespace: &Namespace| {
            query.grant.as_ref().is_none_or(|grant| grant.allows(Right::Read, namespace))
        };
        let places = self
            .namespaces_below(&query.prefix, after.map_or("", |(last, _, _)| last.as_str()))
            .filter(|(name, _)| is_shown(name))
            .flat_map(|(name, names)| {
                let from = match after {
                    Some((last, step, id)) if last == name => Bound::Excluded((*step, *id)),
                    _ => Bound::Unbounded,
                };
                names.steps.range((from, Bound::Unbounded))
            });
        let records = places.filter_map(|((_, id), ())| self.checkpoints.get(id));
        for (looked_at, record) in records.enumerate() {
            if page.records.len() == query.limit || looked_at == LIST_RECORDS_MAX {
                page.next = last.map(|last| (last.namespace.clone(), last.step, last.id));
                break;
            }
            let Checkpoint { state, quarantine, commit, labels, .. } = &**record;
            if query.filter.admits(*state, quarantine.is_some(), *commit, labels) {
                page.records.push(Arc::clone(record));
            }
            last = Some(record);
        }
        page
    }

    /// The records of a namespace in every state, by step.
    pub(super) fn records_of(
        &self,
        namespace: &Namespace,
    ) -> impl Iterator<Item = &Arc<Checkpoint>> {
        let names = self.index.namespaces.get(namespace).into_iter();
        let ids = names.flat_map(|names| names.steps.keys());
        ids.filter_map(|(_, id)| self.checkpoints.get(id))
    }

    /// Namespaces from the name `from` on: all, or `prefix` itself and those below it.
    pub(super) fn namespaces_below<'a>(
        &'a self,
        prefix: &str,
        from: &str,
    ) -> impl Iterator<Item = (&'a Namespace, &'a NamespaceIndex)> {
        let namespaces = &self.index.namespaces;
        let exact = namespaces.get_key_value(prefix).filter(|(name, _)| name.as_str() >= from);
        // '0' is the character after '/'.
        let (first, end) = match prefix {
            "" => (String::new(), None),
            _ => (format!("{prefix}/"), Some(format!("{prefix}0"))),
        };
        let below = NameRange { first: first.max(from.to_owned()), end };
        let below = (!below.is_empty()).then(|| namespaces.range::<str, _>(below));
        exact.into_iter().chain(below.into_iter().flatten())
    }
}
