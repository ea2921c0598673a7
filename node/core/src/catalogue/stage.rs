//! Stage: an upload registers segments, and gets slots for those that lack replicas.
//!
//! The whole batch is checked before anything changes, so a refusal has no effect. A committed
//! checkpoint may be staged again. Then segments that lost replicas get slots.
//!
//! The first Stage of a segment fixes the form of its record. A later one with another form gets
//! the record's form in the answer. Another length is refused once the length is proven: a replica
//! was reported durable, or a checkpoint has committed the segment. Until then a length is a claim,
//! and the next Stage replaces it (T1: no claim of one client blocks another's bytes). The slots
//! then get a new epoch. So one epoch of a slot has one length, and a report about the earlier
//! claim does not count.

use std::collections::BTreeMap;

use super::open_ended::check_room_for_part;
use super::policy::spread;
use super::{Apply, Catalogue, Entry, Quorum, check_batch, malformed};
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, Stage, StageSegment, StagedSegment};
use cairn_types::form::Form;
use cairn_types::ids::{Attempt, CheckpointId, NodeId, Run, SegmentDigest, SegmentId};
use cairn_types::limits::{
    BATCH_SEGMENTS_MAX, CHECKPOINT_SEGMENTS_MAX, REPLICAS_MAX, SEGMENT_BYTES_MAX,
};
use cairn_types::model::{CheckpointState, OpenPart, Segment, Slot, SlotState};
use cairn_types::slots::{References, Slots};

/// Most live slots of a segment: one set of replicas on nodes that are all down, and one set that
/// replaces it.
pub const LIVE_SLOTS_MAX: usize = 2 * REPLICAS_MAX as usize;

/// The planned result for one segment of the batch.
struct Planned<'a> {
    form: Form,
    existing: Option<SegmentId>,
    kept: bool,
    targets: &'a [NodeId],
}

impl Apply for Stage {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.stage(entry, self.checkpoint, self.attempt, self.part, self.run, &self.segments)
    }
}

impl Catalogue {
    pub(super) fn stage(
        &mut self,
        entry: Entry,
        checkpoint: CheckpointId,
        attempt: Attempt,
        part: u32,
        run: Run,
        items: &[StageSegment],
    ) -> Result<Reply, Refusal> {
        check_batch("segments", items.len(), BATCH_SEGMENTS_MAX)?;
        let committed = self.checkpoint(checkpoint).filter(|record| {
            record.state == CheckpointState::Committed && record.attempt == attempt
        });
        if let Some(record) = committed {
            let quorum = self.quorum(&record.policy);
            let is_open_ended = record.open_ended;
            return match self.stage_again(entry, quorum, items) {
                // Its writer comes too late. Nothing was promised about its segments.
                Err(Refusal::SegmentNotStaged(_)) if is_open_ended => {
                    Err(Refusal::NotOpen(checkpoint))
                }
                other => other,
            };
        }
        let (record, upload) = self.open_upload(checkpoint, attempt)?;
        record.check_part(part)?;
        check_room_for_part(upload, part)?;
        let replicas = record.policy.replicas;
        let quorum = self.quorum(&record.policy);

        let mut planned: BTreeMap<SegmentDigest, Planned<'_>> = BTreeMap::new();
        for item in items {
            match planned.get(&item.digest) {
                Some(twin) if twin.form.raw_len() == item.form.raw_len() => {}
                Some(_) => return Err(two_lengths(item)),
                None => {
                    planned.insert(item.digest, self.plan_segment(item, quorum)?);
                }
            }
        }
        let held = |plan: &&Planned<'_>| plan.existing.is_some_and(|id| record.loose.contains(id));
        let taken = planned.len() - planned.values().filter(held).count();
        if record.loose.len() as usize + taken > CHECKPOINT_SEGMENTS_MAX {
            return Err(malformed(format!("an upload of over {CHECKPOINT_SEGMENTS_MAX} segments")));
        }

        if canary!("map_order") {
            self.mint_in_map_order(items);
            for (digest, plan) in &mut planned {
                plan.existing = self.index.digests.get(digest, &self.segments);
            }
        }
        let first_new = self.cluster.next_segment;
        let mut ids = Vec::with_capacity(planned.len());
        let mut kept = Vec::with_capacity(items.len());
        for item in items {
            let Some(plan) = planned.get_mut(&item.digest) else { continue };
            let targets = std::mem::take(&mut plan.targets);
            let id = match plan.existing {
                Some(id) => {
                    self.replace_claim(id, plan.form, entry);
                    self.assign(id, targets, entry);
                    id
                }
                None => {
                    let references = References::from_iter([(replicas, 1)]);
                    let slots = self.assigned_slots(targets, entry);
                    self.mint_segment(item.digest, plan.form, references, slots)
                }
            };
            plan.existing = Some(id);
            kept.push((id, plan.kept));
            ids.push(id);
        }
        let first_new = SegmentId(self.cluster.lineage.mint(first_new));
        for id in self.note_staged(checkpoint, part, run, &ids) {
            // A new segment was minted with its reference.
            if id < first_new {
                self.change_segment(id, |segment| {
                    if !(canary!("uncounted_reference") && segment.is_referenced()) {
                        segment.references.add(replicas);
                    }
                    segment.reaped = false;
                });
            }
        }
        let staged = |(id, kept): &(SegmentId, bool)| self.staged(*id, *kept);
        Ok(Reply::Staged { segments: kept.iter().map(staged).collect() })
    }

    /// A committed checkpoint is put once more. Segments that lost replicas get slots for them. Its
    /// references exist already, so none is taken. A segment that it does not name is not accepted.
    fn stage_again(
        &mut self,
        entry: Entry,
        quorum: Quorum,
        items: &[StageSegment],
    ) -> Result<Reply, Refusal> {
        let mut planned: BTreeMap<SegmentId, (bool, Vec<NodeId>)> = BTreeMap::new();
        let mut ids = Vec::with_capacity(items.len());
        for item in items {
            let plan = self.plan_segment(item, quorum)?;
            let id = plan.existing.filter(|id| self.is_committed(*id));
            let id = id.ok_or(Refusal::SegmentNotStaged(item.digest))?;
            ids.push(id);
            planned.entry(id).or_insert_with(|| (plan.kept, plan.targets.to_vec()));
        }
        for (id, (_, targets)) in &planned {
            self.assign(*id, targets, entry);
        }
        let staged = |id: SegmentId| {
            let kept = planned.get(&id).is_some_and(|(kept, _)| *kept);
            self.staged(id, kept)
        };
        Ok(Reply::Staged { segments: ids.into_iter().map(staged).collect() })
    }

    fn staged(&self, id: SegmentId, kept: bool) -> StagedSegment {
        let segment = self.segments.get(id);
        let slots = segment.map(|segment| segment.live_slots().collect());
        let form = segment.map(|segment| segment.form).filter(|form| !form.is_raw());
        StagedSegment { segment: id, kept, slots: slots.unwrap_or_default(), form }
    }

    fn plan_segment<'a>(
        &self,
        item: &'a StageSegment,
        quorum: Quorum,
    ) -> Result<Planned<'a>, Refusal> {
        let len = item.form.raw_len();
        if !(1..=SEGMENT_BYTES_MAX).contains(&u64::from(len)) {
            return Err(malformed(format!("a segment of {len} bytes, not 1 to 32 Mi")));
        }
        let existing = self.segment_by_digest(&item.digest);
        let other = existing.filter(|segment| segment.form.raw_len() != len);
        if other.is_some_and(|segment| self.is_proven(segment)) {
            return Err(two_lengths(item));
        }
        let kept = existing.is_some_and(|segment| self.meets(segment, quorum));
        // A leader that plans on an older view may send targets for a kept segment.
        let targets = if kept { &[][..] } else { &item.targets };
        if !kept {
            let live: Vec<Slot> =
                existing.map_or(Vec::new(), |segment| segment.live_slots().collect());
            self.check_targets(&live, targets)?;
            // The leader's plan had enough replicas, so its view was older, for example before
            // replicas were reaped. The next plan shows whether there are too few now.
            if !self.reaches(&live, targets, quorum) {
                return Err(Refusal::BadTargets);
            }
        }
        let existing = existing.map(|segment| segment.id);
        Ok(Planned { form: item.form, existing, kept, targets })
    }

    /// Whether a node has verified bytes of this length: some replica is durable, or was when a
    /// checkpoint committed the segment.
    fn is_proven(&self, segment: &Segment) -> bool {
        self.is_committed(segment.id)
            || segment.slots.iter().any(|slot| slot.state == SlotState::Durable)
    }

    /// Gives a record that claims another length, which was not proven, this form. All bytes that
    /// are on their way to its live slots, and all reports about them, are void.
    fn replace_claim(&mut self, id: SegmentId, form: Form, entry: Entry) {
        let (epoch, until_ms) = (entry.epoch, self.assigned_until_ms());
        let Some(segment) = self.segments.get_mut(id) else { return };
        if segment.form.raw_len() == form.raw_len() {
            return;
        }
        self.index.remove_segment(segment);
        self.index.kinds.forget(id);
        segment.form = form;
        segment.slots.edit(|slots| {
            for slot in slots.iter_mut().filter(|slot| slot.state != SlotState::Released) {
                (slot.epoch, slot.state, slot.until_ms) = (epoch, SlotState::Assigned, until_ms);
            }
            slots.sort_unstable();
        });
        self.index.add_segment(segment);
        let segment = segment.clone();
        self.index.classify(&segment);
        self.note_replica(id);
    }

    fn check_targets(&self, live: &[Slot], targets: &[NodeId]) -> Result<(), Refusal> {
        if live.len() + targets.len() > LIVE_SLOTS_MAX {
            return Err(Refusal::BadTargets);
        }
        let mut nodes: Vec<NodeId> = live.iter().map(|slot| slot.node).collect();
        for target in targets {
            if !self.may_take_slot(*target, &nodes) {
                return Err(Refusal::BadTargets);
            }
            nodes.push(*target);
        }
        Ok(())
    }

    /// Whether the node can take a slot in addition to live ones on `others`. It must take slots at
    /// all, and none of the others may be on its host. A node that stays down is ignored: another
    /// node may have its host by now, or its disk may have moved to another host.
    pub(crate) fn may_take_slot(&self, target: NodeId, others: &[NodeId]) -> bool {
        let Some(node) = self.nodes.get(&target) else { return false };
        let on_host = |other: &NodeId| {
            let record = self.nodes.get(other);
            *other == target || record.is_some_and(|it| it.host == node.host && self.is_trusted(it))
        };
        node.takes_slots() && !others.iter().any(on_host)
    }

    /// Whether enough slots are on nodes that can receive bytes now.
    fn reaches(&self, live: &[Slot], targets: &[NodeId], quorum: Quorum) -> bool {
        let nodes = live.iter().map(|slot| slot.node).chain(targets.iter().copied());
        let reachable = nodes.filter_map(|id| self.nodes.get(&id)).filter(|n| n.takes_slots());
        let have = spread(reachable.map(|node| node.rack.as_str()));
        have.replicas >= quorum.replicas && have.racks >= quorum.racks
    }

    fn mint_segment(
        &mut self,
        digest: SegmentDigest,
        form: Form,
        references: References,
        slots: Slots,
    ) -> SegmentId {
        let id = SegmentId(self.cluster.lineage.mint(self.cluster.next_segment));
        self.cluster.next_segment += 1;
        let segment =
            Segment { id, digest, form, references, reap_after_ms: 0, reaped: false, slots };
        self.index.digests.insert(&digest, id);
        self.index.add_segment(&segment);
        self.index.classify(&segment);
        self.segments.insert(segment);
        id
    }

    /// The defect of the canary `map_order`.
    #[allow(clippy::disallowed_types, reason = "a defect to be found")]
    fn mint_in_map_order(&mut self, items: &[StageSegment]) {
        let new: std::collections::HashMap<SegmentDigest, Form> =
            items.iter().map(|item| (item.digest, item.form)).collect();
        for (digest, form) in new {
            if self.index.digests.get(&digest, &self.segments).is_none() {
                self.mint_segment(digest, form, References::new(), Slots::new());
            }
        }
    }

    /// The time until which a slot assigned now is waited for.
    pub(super) fn assigned_until_ms(&self) -> u64 {
        self.cluster.clock_ms.saturating_add(self.cluster.settings.assigned_for_ms())
    }

    /// Gives a segment slots on checked nodes.
    pub(super) fn assign(&mut self, id: SegmentId, targets: &[NodeId], entry: Entry) {
        if targets.is_empty() {
            return;
        }
        let slots = self.assigned_slots(targets, entry);
        self.change_segment(id, |segment| {
            segment.slots.edit(|all| {
                all.extend(&slots);
                all.sort_unstable();
            });
        });
    }

    /// The slots of this entry on checked nodes, in the order of a record.
    fn assigned_slots(&self, targets: &[NodeId], entry: Entry) -> Slots {
        let (epoch, until_ms) = (entry.epoch, self.assigned_until_ms());
        let slot =
            |node: &NodeId| Slot { node: *node, epoch, state: SlotState::Assigned, until_ms };
        let mut slots: Vec<Slot> = targets.iter().map(slot).collect();
        slots.sort_unstable();
        slots.into_iter().collect()
    }

    /// Adds segments to the run's part. Returns those that the checkpoint did not hold yet.
    ///
    /// Another run starts an unsealed part again from empty. A sealed part is fixed: a run that
    /// stages it again only takes references, and may then seal the same content.
    fn note_staged(
        &mut self,
        checkpoint: CheckpointId,
        part: u32,
        run: Run,
        ids: &[SegmentId],
    ) -> Vec<SegmentId> {
        let Some(record) = self.renew_lease(checkpoint) else { return Vec::new() };
        let open_ended = record.open_ended;
        if let Some(upload) = record.open.as_mut() {
            let own = upload.parts.or_default(part);
            let mut restarted = SegmentSet::default();
            if own.part.sealed.is_none() {
                if own.part.run != run {
                    restarted = std::mem::take(&mut own.staged);
                    own.part = OpenPart { run, sealed: None };
                }
                for id in ids {
                    if own.staged.insert(*id) && open_ended {
                        upload.held.add(*id);
                    }
                }
            }
            if open_ended {
                upload.give_back(&restarted);
                // No part holds what was staged for a sealed one.
                let unheld = ids.iter().filter(|id| upload.held.get(**id) == 0);
                upload.voided.extend(unheld.copied());
            }
        }
        let new = ids.iter().copied().filter(|id| record.loose.insert(*id)).collect();
        if open_ended && let Some(record) = self.checkpoints.get(&checkpoint) {
            self.index.note_voided(record);
        }
        new
    }
}

fn two_lengths(item: &StageSegment) -> Refusal {
    let StageSegment { digest, form, .. } = item;
    malformed(format!("segment {digest} is known with another length than {}", form.raw_len()))
}
