//! Data derived from the catalogue's state. It is maintained incrementally and rebuilt on load.
//!
//! Nothing here is persisted or part of the digest. Every change of a segment goes through
//! [`Catalogue::change_segment`]. Every change of a checkpoint's place or state goes through
//! [`Catalogue::change_checkpoint`]. These two remove the record's contribution and add the changed
//! one. So an index is right if these two functions are. `invariants::check` compares it with a
//! rebuilt index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::events::Filling;
use super::kinds::Kinds;
use super::{Catalogue, Checkpoint};
use crate::digests::DigestIndex;
use crate::persistent::Map;
use crate::segment_set::{SegmentCounts, SegmentSet};
use cairn_types::ids::{CheckpointId, Incarnation, Namespace, NodeId, SegmentId, Step};
use cairn_types::limits::REPLICAS_MAX;
use cairn_types::model::{Admin, CheckpointState, Duty, Node, Segment, Slot, SlotState};
use cairn_types::slots::Slots;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    pub digests: DigestIndex,
    pub namespaces: Map<Namespace, NamespaceIndex>,
    pub nodes: Arc<BTreeMap<NodeId, NodeSlots>>,
    /// Segments without a reference that are not reaped, by the time from which they may be reaped.
    pub unreferenced: Map<u64, SegmentSet>,
    /// Referenced segments with an Assigned slot, or with more or fewer live slots than wanted.
    pub unsettled: SegmentSet,
    /// By segment: the checkpoints that committed it and still hold their reference.
    pub committed: SegmentCounts,
    /// The number of segments of each kind.
    pub kinds: Kinds,
    pub open: Map<CheckpointId, ()>,
    pub checkpoints_committed: u64,
    /// Checkpoints that may have references to drop: deleted ones, and committed ones with
    /// leftovers.
    pub droppable: Map<CheckpointId, ()>,
    /// The number of checkpoints that are not deleted, by wanted replicas.
    pub by_replicas: [u64; REPLICAS_MAX as usize + 1],
    /// Distinct racks of registered nodes in service.
    pub racks: u32,
    /// Commits that have never had all their replicas.
    pub filling: Filling,
}

/// The checkpoints of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NamespaceIndex {
    pub steps: Map<(Step, CheckpointId), ()>,
    /// Committed (not deleted) checkpoints by the log index of their commit.
    pub commits: Map<u64, CheckpointId>,
    /// Those of `commits` that are not in quarantine.
    pub good: Map<u64, CheckpointId>,
    /// The same checkpoints by the log index at which their upload began.
    pub good_begins: Map<u64, CheckpointId>,
}

/// The segments that have a slot on one node, by its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSlots {
    pub assigned: SegmentSet,
    pub durable: SegmentSet,
    /// May overlap the other sets: slots of old epochs whose file the node has not given up yet.
    pub released: SegmentSet,
    /// Stored bytes of the live slots.
    pub live_bytes: u64,
    /// The part of these in Assigned slots: bytes that are still to be stored.
    pub assigned_bytes: u64,
}

impl NodeSlots {
    pub fn in_state(&self, state: SlotState) -> &SegmentSet {
        match state {
            SlotState::Assigned => &self.assigned,
            SlotState::Durable => &self.durable,
            SlotState::Released => &self.released,
        }
    }

    fn in_state_mut(&mut self, state: SlotState) -> &mut SegmentSet {
        match state {
            SlotState::Assigned => &mut self.assigned,
            SlotState::Durable => &mut self.durable,
            SlotState::Released => &mut self.released,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.assigned.is_empty() && self.durable.is_empty() && self.released.is_empty()
    }
}

/// The bytes that a slot adds to its node: to those of live slots, and to those of Assigned slots.
fn live_and_assigned(state: SlotState, stored_len: u64) -> (u64, u64) {
    match state {
        SlotState::Assigned => (stored_len, stored_len),
        SlotState::Durable => (stored_len, 0),
        SlotState::Released => (0, 0),
    }
}

impl Indexes {
    pub(super) fn add_segment(&mut self, segment: &Segment) {
        self.move_segment(None, Some(segment));
    }

    pub(super) fn remove_segment(&mut self, segment: &Segment) {
        self.move_segment(Some(segment), None);
    }

    /// Notes a change of a segment. Touches only the parts that differ, because each touched page
    /// is copied if a copy of the catalogue shares it.
    fn move_segment(&mut self, before: Option<&Segment>, after: Option<&Segment>) {
        let Some(id) = before.or(after).map(|segment| segment.id) else { return };
        if before.map(|it| &it.slots) != after.map(|it| &it.slots) {
            self.move_slots(id, before, after);
        }
        let reap_after_ms = |segment: &Segment| {
            (!segment.is_referenced() && !segment.reaped).then_some(segment.reap_after_ms)
        };
        let (from, to) = (before.and_then(reap_after_ms), after.and_then(reap_after_ms));
        if from != to {
            if let Some(at) = from
                && let Some(set) = self.unreferenced.get_mut(&at)
            {
                set.remove(id);
                if set.is_empty() {
                    self.unreferenced.remove(&at);
                }
            }
            if let Some(at) = to {
                self.unreferenced.or_default(at).insert(id);
            }
        }
        match (before.is_some_and(is_unsettled), after.is_some_and(is_unsettled)) {
            (false, true) => self.unsettled.insert(id),
            (true, false) => self.unsettled.remove(id),
            _ => false,
        };
    }

    fn move_slots(&mut self, id: SegmentId, before: Option<&Segment>, after: Option<&Segment>) {
        let slots = |of: Option<&Segment>| of.map(|it| it.slots.clone()).unwrap_or_default();
        let len = |of: Option<&Segment>| of.map_or(0, |it| u64::from(it.form.stored_len()));
        let (old, new) = (slots(before), slots(after));
        // A node may have several Released slots.
        let has = |slots: &Slots, like: Slot| {
            slots.iter().any(|slot| (slot.node, slot.state) == (like.node, like.state))
        };
        let nodes = Arc::make_mut(&mut self.nodes);
        for slot in &new {
            let node = nodes.entry(slot.node).or_default();
            if !has(&old, slot) {
                node.in_state_mut(slot.state).insert(id);
            }
            let (live, assigned) = live_and_assigned(slot.state, len(after));
            node.live_bytes += live;
            node.assigned_bytes += assigned;
        }
        for slot in &old {
            let Some(node) = nodes.get_mut(&slot.node) else { continue };
            if !has(&new, slot) {
                node.in_state_mut(slot.state).remove(id);
            }
            let (live, assigned) = live_and_assigned(slot.state, len(before));
            node.live_bytes -= live;
            node.assigned_bytes -= assigned;
            if node.is_empty() {
                nodes.remove(&slot.node);
            }
        }
    }

    /// Notes the segment's kind: the nodes that hold it, and its use.
    pub(super) fn classify(&mut self, segment: &Segment) {
        self.kinds.classify(segment, self.committed.get(segment.id) > 0);
    }

    pub(super) fn add_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let namespace = self.namespaces.or_default(checkpoint.namespace.clone());
        namespace.steps.insert((checkpoint.step, checkpoint.id), ());
        if checkpoint.state != CheckpointState::Deleted {
            self.by_replicas[checkpoint.policy.replicas as usize] += 1;
        }
        if checkpoint.may_be_droppable() {
            self.droppable.insert(checkpoint.id, ());
        }
        match (checkpoint.state, checkpoint.commit) {
            (CheckpointState::Open, _) => {
                self.open.insert(checkpoint.id, ());
            }
            (CheckpointState::Committed, Some(commit)) => {
                self.checkpoints_committed += 1;
                namespace.commits.insert(commit.index, checkpoint.id);
                if checkpoint.is_good() {
                    namespace.good.insert(commit.index, checkpoint.id);
                    namespace.good_begins.insert(checkpoint.began.index, checkpoint.id);
                }
            }
            _ => {}
        }
    }

    pub(super) fn remove_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.open.remove(&checkpoint.id);
        self.droppable.remove(&checkpoint.id);
        if checkpoint.state != CheckpointState::Deleted {
            self.by_replicas[checkpoint.policy.replicas as usize] -= 1;
        }
        let Some(namespace) = self.namespaces.get_mut(&checkpoint.namespace) else { return };
        namespace.steps.remove(&(checkpoint.step, checkpoint.id));
        if let (CheckpointState::Committed, Some(commit)) = (checkpoint.state, checkpoint.commit) {
            self.checkpoints_committed -= 1;
            namespace.commits.remove(&commit.index);
            namespace.good.remove(&commit.index);
            namespace.good_begins.remove(&checkpoint.began.index);
        }
        if namespace.steps.is_empty() {
            self.namespaces.remove(&checkpoint.namespace);
        }
    }

    /// A committed checkpoint has dropped its leftovers.
    pub(super) fn note_dropped(&mut self, checkpoint: &Checkpoint) {
        if !checkpoint.may_be_droppable() {
            self.droppable.remove(&checkpoint.id);
        }
    }

    /// An open upload has removed parts, or has dropped references of removed parts.
    pub(super) fn note_voided(&mut self, checkpoint: &Checkpoint) {
        match checkpoint.may_be_droppable() {
            true => self.droppable.insert(checkpoint.id, ()),
            false => self.droppable.remove(&checkpoint.id),
        };
    }

    pub(super) fn count_racks<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>) {
        let staying = nodes.filter(|node| {
            node.admin == Admin::InService
                && node.incarnation != Incarnation(0)
                && node.duty != Duty::Draining
        });
        let racks: BTreeSet<&str> = staying.map(|node| node.rack.as_str()).collect();
        self.racks = racks.len() as u32;
    }
}

fn is_unsettled(segment: &Segment) -> bool {
    let assigned = segment.slots.iter().any(|slot| slot.state == SlotState::Assigned);
    let live = segment.live_slots().count() as u32;
    segment.is_referenced() && (assigned || live != segment.replicas_wanted())
}

impl Catalogue {
    /// Changes a segment's record and its place in the indexes.
    pub(super) fn change_segment<T>(
        &mut self,
        id: SegmentId,
        change: impl FnOnce(&mut Segment) -> T,
    ) -> Option<T> {
        let segment = self.segments.get_mut(id)?;
        let before = segment.clone();
        let answer = change(segment);
        self.index.move_segment(Some(&before), Some(segment));
        self.index.classify(segment);
        self.note_replica(id);
        Some(answer)
    }

    /// Removes a record that is no longer needed: reaped, without a reference or slot.
    pub(super) fn forget_if_spent(&mut self, id: SegmentId) {
        let spent = self.segments.get(id).is_some_and(|segment| {
            segment.reaped && !segment.is_referenced() && segment.slots.is_empty()
        });
        if spent && let Some(segment) = self.segments.remove(id) {
            self.index.remove_segment(&segment);
            self.index.digests.remove(&segment.digest, id);
            self.index.kinds.forget(id);
        }
    }

    /// Changes a checkpoint's state, and its place in the indexes.
    pub(super) fn change_checkpoint<T>(
        &mut self,
        id: CheckpointId,
        change: impl FnOnce(&mut Checkpoint) -> T,
    ) -> Option<T> {
        let checkpoint = Arc::make_mut(self.checkpoints.get_mut(&id)?);
        self.index.remove_checkpoint(checkpoint);
        let before = (checkpoint.state, checkpoint.quarantine.is_some());
        let answer = change(checkpoint);
        self.index.add_checkpoint(checkpoint);
        self.collected.changed(before, checkpoint);
        if checkpoint.commit.is_some() {
            let namespace = checkpoint.namespace.clone();
            *self.retention_inputs.or_default(namespace) += 1;
            self.refill(id);
        }
        Some(answer)
    }

    pub(super) fn recount_racks(&mut self) {
        self.index.count_racks(self.nodes.values());
    }

    /// Builds the indexes from scratch.
    pub(super) fn rebuild_indexes(&self) -> Indexes {
        let mut index = Indexes::default();
        for segment in self.segments.iter() {
            index.digests.insert(&segment.digest, segment.id);
            index.add_segment(segment);
        }
        for checkpoint in self.checkpoints.values() {
            index.add_checkpoint(checkpoint);
            for id in checkpoint.segments.iter() {
                index.committed.add(id);
            }
        }
        for segment in self.segments.iter() {
            index.classify(segment);
        }
        index.count_racks(self.nodes.values());
        index.filling = self.filling_anew();
        index
    }

    /// Whether the incremental indexes equal rebuilt ones.
    pub(crate) fn indexes_are_consistent(&self) -> bool {
        self.index == self.rebuild_indexes()
    }
}
