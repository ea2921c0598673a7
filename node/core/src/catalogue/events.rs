//! The events of each entry, for those who watch.
//!
//! A pure function of the catalogue and the command: they are collected while the entry is applied, where
//! a checkpoint's state or a ref changes, and taken by whoever applied it. They are no part of the state:
//! neither stored nor compared. All nodes give the same events the same ids (C3).
//!
//! *Full*, the first time that each segment of a commit has R replicas that count, as `status` counts them
//! (Durable, on nodes that are up), needs the most: the catalogue does not know the checkpoints of a
//! segment. Each commit that is not full yet keeps one witness, a segment that lacks replicas. Only when the
//! witness has them the next one is looked for, and where there is none the commit is full. So an entry costs
//! a look-up for each segment that gains a replica, however many commits are not full, and the search for
//! witnesses walks each commit about once. A node that comes up costs a look at each witness.
//!
//! ```text
//!   witness segment -> commits that are not full because of it     (derived; another node may have others)
//! ```

use std::sync::Arc;

use super::{Catalogue, Checkpoint};
use crate::persistent::Map;
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::event::{Event, EventId, Happened, WatchedCheckpoint};
use cairn_types::ids::{CheckpointId, Namespace, NodeId, SegmentId};
use cairn_types::model::{CheckpointState, SlotState};

/// What the entry that is being applied has brought about.
#[derive(Debug, Clone, Default)]
pub(super) struct Collected {
    events: Vec<(Namespace, u64, Happened)>,
    wall_ms: u64,
    /// Segments that gained a replica and are a witness.
    gained: Vec<SegmentId>,
}

/// Commits that are not full, each by its witness.
#[derive(Debug, Clone, Default)]
pub(super) struct Filling {
    by_witness: Map<(SegmentId, CheckpointId), ()>,
    waits: Map<CheckpointId, Waits>,
}

#[derive(Debug, Clone)]
struct Waits {
    witness: SegmentId,
    /// Where the next witness is looked for: some of the segments that lacked replicas when all were
    /// looked at last. Those below the witness are looked at again when these are done.
    left: SegmentSet,
}

impl Filling {
    fn put(&mut self, id: CheckpointId, witness: SegmentId, left: SegmentSet) {
        self.by_witness.insert((witness, id), ());
        self.waits.insert(id, Waits { witness, left });
    }

    /// What was left to look at.
    fn remove(&mut self, id: CheckpointId) -> Option<SegmentSet> {
        let waits = self.waits.remove(&id)?;
        self.by_witness.remove(&(waits.witness, id));
        Some(waits.left)
    }

    fn is_witness(&self, segment: SegmentId) -> bool {
        self.commits_of(segment).next().is_some()
    }

    fn commits_of(&self, segment: SegmentId) -> impl Iterator<Item = CheckpointId> {
        let range = (segment, CheckpointId(0))..=(segment, CheckpointId(u64::MAX));
        self.by_witness.range(range).map(|((_, id), ())| *id)
    }
}

/// Equal where the same commits are not full: any segment that lacks a replica is a witness.
impl PartialEq for Filling {
    fn eq(&self, other: &Self) -> bool {
        self.waits.keys().eq(other.waits.keys())
    }
}

impl Eq for Filling {}

impl Collected {
    pub fn begin(&mut self, wall_ms: u64) {
        *self = Self { wall_ms, ..Self::default() };
    }

    pub fn push(&mut self, namespace: &Namespace, what: Happened) {
        self.events.push((namespace.clone(), self.wall_ms, what));
    }

    /// Compares a checkpoint with what it was.
    pub fn changed(&mut self, before: (CheckpointState, bool), record: &Checkpoint) {
        let (checkpoint, step) = (record.id, record.step);
        let (was, was_in_quarantine) = before;
        let what = match (was, record.state) {
            (CheckpointState::Open, CheckpointState::Committed) => {
                Some(Happened::Committed { checkpoint, step })
            }
            (CheckpointState::Deleted, CheckpointState::Committed)
                if !canary!("undelete_goes_unsaid") =>
            {
                Some(Happened::Undeleted { checkpoint, step })
            }
            (CheckpointState::Committed, CheckpointState::Deleted) => {
                record.deleted_for.map(|reason| Happened::Deleted { checkpoint, step, reason })
            }
            _ => None,
        };
        if let Some(what) = what {
            let is_commit = matches!(what, Happened::Committed { .. });
            let label_ms = record.commit.filter(|_| is_commit).map(|commit| commit.wall_ms);
            let wall_ms = label_ms.unwrap_or(self.wall_ms);
            self.events.push((record.namespace.clone(), wall_ms, what));
        }
        let is_committed = record.state == CheckpointState::Committed;
        // A watcher that began while it was in the trash does not know of its quarantine.
        let was_in_quarantine = was_in_quarantine && was == CheckpointState::Committed;
        match (was_in_quarantine, record.quarantine.is_some() && is_committed) {
            (false, true) => {
                self.push(&record.namespace, Happened::Quarantined { checkpoint, step })
            }
            (true, false) if is_committed => {
                self.push(&record.namespace, Happened::Released { checkpoint, step });
            }
            _ => {}
        }
    }
}

impl Catalogue {
    /// What the last entry brought about, in order. Empty when it is asked again.
    pub fn take_events(&mut self, index: u64) -> Vec<Event> {
        let lineage = self.cluster.lineage;
        let events = std::mem::take(&mut self.collected.events).into_iter().enumerate();
        let event = |(place, (namespace, wall_ms, what)): (usize, (Namespace, u64, Happened))| {
            Event { id: EventId { lineage, index, place: place as u32 }, wall_ms, namespace, what }
        };
        events.map(event).collect()
    }

    /// A segment has another slot or another state of one.
    pub(super) fn note_replica(&mut self, id: SegmentId) {
        if self.index.filling.is_witness(id) {
            self.collected.gained.push(id);
        }
    }

    /// Replicas on this node count from now on.
    pub(super) fn note_counting(&mut self, node: NodeId) {
        let mut last = None;
        for (segment, _) in self.index.filling.by_witness.keys() {
            if last.replace(*segment) == Some(*segment) {
                continue;
            }
            let has_one = self.segments.get(*segment).is_some_and(|it| {
                it.slots.iter().any(|slot| slot.node == node && slot.state == SlotState::Durable)
            });
            if has_one {
                self.collected.gained.push(*segment);
            }
        }
    }

    /// At the end of an entry: commits whose witness has its replicas find another one, or are full.
    pub(super) fn settle_filling(&mut self) {
        let gained = std::mem::take(&mut self.collected.gained);
        let mut touched: Vec<CheckpointId> =
            gained.iter().flat_map(|id| self.index.filling.commits_of(*id)).collect();
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            self.fill(id);
        }
    }

    /// Looks for a witness of a commit that is not full; without one it is full.
    pub(super) fn fill(&mut self, id: CheckpointId) {
        let left = self.index.filling.remove(id).unwrap_or_default();
        let Some(record) = self.checkpoints.get(&id) else { return };
        match self.witness(record, left) {
            Some((witness, left)) => self.index.filling.put(id, witness, left),
            None => {
                let (namespace, step) = (record.namespace.clone(), record.step);
                if let Some(record) = self.checkpoints.get_mut(&id) {
                    Arc::make_mut(record).full = true;
                }
                self.collected.push(&namespace, Happened::Full { checkpoint: id, step });
            }
        }
    }

    /// A segment of the record with too few replicas: the first of those that are left, which lose what
    /// has them; and only then of all, as what had its replicas may have lost some.
    fn witness(
        &self,
        record: &Checkpoint,
        mut left: SegmentSet,
    ) -> Option<(SegmentId, SegmentSet)> {
        let wanted = record.policy.replicas;
        let lacks = |id: &SegmentId| {
            self.segments.get(*id).is_some_and(|it| self.counting(it).replicas < wanted)
        };
        let first = |left: &SegmentSet| left.iter().next();
        while let Some(next) = first(&left) {
            if lacks(&next) {
                return Some((next, left));
            }
            left.remove(next);
        }
        let left: SegmentSet = record.segments.iter().filter(lacks).collect();
        first(&left).map(|next| (next, left))
    }

    /// Of all commits that were never full, made from scratch.
    pub(super) fn filling_anew(&self) -> Filling {
        let mut filling = Filling::default();
        for record in self.checkpoints.values().filter(|it| it.is_committed() && !it.full) {
            if let Some((witness, left)) = self.witness(record, SegmentSet::default()) {
                filling.put(record.id, witness, left);
            }
        }
        filling
    }

    /// A commit that is deleted does not become full; one that is undeleted may.
    pub(super) fn refill(&mut self, id: CheckpointId) {
        let waits = self.checkpoints.get(&id).is_some_and(|it| it.is_committed() && !it.full);
        match waits {
            true => self.fill(id),
            false => {
                self.index.filling.remove(id);
            }
        }
    }

    /// Namespaces that have refs.
    pub fn namespaces_with_refs(&self) -> impl Iterator<Item = &Namespace> {
        self.refs.keys()
    }
}

impl Checkpoint {
    /// As a watch begins with it.
    pub fn watched(&self) -> WatchedCheckpoint {
        WatchedCheckpoint {
            id: self.id,
            namespace: self.namespace.clone(),
            step: self.step,
            commit_wall_ms: self.commit.map_or(0, |commit| commit.wall_ms),
            is_quarantined: self.quarantine.is_some(),
            is_full: self.full,
        }
    }
}
