//! Deletion: Delete, the trash, DropReferences, Reap. And the way back: Undelete.
//!
//! A committed checkpoint goes to the trash. It keeps its references for the grace, and can be
//! undeleted as a whole (D7). Then its references are dropped, and segments without a reference are
//! reaped at once. A Delete with `now` ends its time in the trash, even as a second Delete.
//!
//! An uncommitted upload drops its references at once, and its segments wait for the end of the
//! grace. Its record stays for the same time, so that a second Delete with `now` still finds it;
//! DropReferences then ends that grace. It never ends the grace of another deletion without `now`,
//! even if both gave back the same segment. Below `TRASH_LEVEL` this holds for all deletions.
//!
//! ```text
//!   committed <--Undelete-- in the trash --grace, now--> DropReferences --> Reap: slots Released
//!       +------Delete---------^                              ^
//!   open -----Delete, ExpireUploads--------------------------+--- grace --> Reap
//!                              segment unreferenced, until then: Stage revives it
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::uploads::subtract_reference;
use super::{Apply, Catalogue, Checkpoint, Entry, Tally, check_batch, check_text, malformed};
use crate::persistent::Map;
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{
    AddHold, Delete, DeleteReason, DropReferences, Reap, Refusal, Reply, Undelete,
};
use cairn_types::id_set::IdSet;
use cairn_types::ids::{CheckpointId, SegmentId};
use cairn_types::limits::{BATCH_SEGMENTS_MAX, DROP_REFERENCES_MAX, UNDELETED_KEPT_MS};
use cairn_types::model::{CheckpointState, DeletedFor, SlotState};

/// The feature level from which deleted checkpoints go to the trash.
const TRASH_LEVEL: u32 = 2;

impl Apply for Delete {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.delete(entry, self)
    }
}

impl Apply for Undelete {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.undelete(entry, self)
    }
}

impl Apply for DropReferences {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.drop_references(self.checkpoint)
    }
}

impl Apply for Reap {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.reap(&self.segments)
    }
}

impl Catalogue {
    fn delete(&mut self, entry: Entry, delete: &Delete) -> Result<Reply, Refusal> {
        let Delete { checkpoint: id, reason, now, force, policy_version, ref by } = *delete;
        check_text("a client's name", by)?;
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        if reason == DeleteReason::Retention && record.state != CheckpointState::Deleted {
            if record.commit.is_none() {
                return Err(malformed(format!("retention of upload {id}, which has no commit")));
            }
            self.check_retention(record, policy_version)?;
        }
        let ignores = reason == DeleteReason::Retention && canary!("retention_ignores_holds");
        if (reason == DeleteReason::Retention || !force) && !ignores {
            self.check_unprotected(record)?;
        }
        let deleted_for = match reason {
            DeleteReason::Asked => DeletedFor::Asked,
            DeleteReason::Retention => DeletedFor::Retention,
        };
        if record.state == CheckpointState::Committed {
            let namespace = record.namespace.clone();
            match reason {
                DeleteReason::Retention => self.use_confirmation(&namespace),
                // Another checkpoint may now be the newest of its day.
                DeleteReason::Asked => self.note_change(id),
            }
        }
        self.mark_deleted(entry, id, deleted_for, by);
        if now {
            self.change_checkpoint(id, |record| record.now = true);
        }
        Ok(Reply::Done)
    }

    /// How long the trash keeps deleted checkpoints.
    pub fn trash_ms(&self) -> u64 {
        match self.cluster.feature_level < TRASH_LEVEL {
            true => 0,
            false => self.cluster.settings.grace_ms,
        }
    }

    fn undelete(&mut self, entry: Entry, undelete: &Undelete) -> Result<Reply, Refusal> {
        let id = undelete.checkpoint;
        check_text("a client's name", &undelete.by)?;
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        let is_late = record.commit.is_some() && canary!("undelete_from_nowhere");
        if !record.is_in_trash(self.cluster.clock_ms, self.trash_ms()) && !is_late {
            return Err(Refusal::NotInTrash(id));
        }
        let mut of_step = self.checkpoints_at(&record.namespace, record.step);
        let other = of_step.find(|other| other.is_committed()).map(|other| other.id);
        if let Some(by) = other
            && !canary!("undelete_beside_another")
        {
            return Err(Refusal::StepTaken { checkpoint: id, by });
        }
        // Retention could delete it again at once.
        let is_held = !self.full_policy(&record.namespace).retention.rules.is_empty()
            && !canary!("undelete_without_hold");
        drop(of_step);
        let label_max_ms = self.label_max_ms(record);
        if is_held {
            self.check_room_for_hold(id)?;
        }
        self.change_checkpoint(id, |record| {
            record.state = CheckpointState::Committed;
            (record.deleted_at_ms, record.deleted_for) = (None, None);
            (record.deleted_by, record.deleted_wall_ms) = (String::new(), 0);
            // Labels may have been taken back since the deletion (C5).
            record.commit.iter_mut().for_each(|it| it.wall_ms = it.wall_ms.min(label_max_ms));
            record.began.wall_ms = record.began.wall_ms.min(label_max_ms);
            if canary!("undelete_loses_notes") {
                record.labels.clear();
                record.metrics.clear();
            }
            if canary!("undelete_lifts_quarantine") {
                record.quarantine = None;
            }
        });
        self.note_change(id);
        if is_held {
            self.add_hold(
                entry,
                &AddHold {
                    checkpoint: id,
                    owner: "undelete".to_owned(),
                    reason: format!("undeleted by {}", undelete.by),
                    for_ms: Some(UNDELETED_KEPT_MS),
                },
            )?;
        }
        Ok(Reply::Done)
    }

    /// The upper limit for this commit's label: the label of the next newer commit of its
    /// namespace, or the newest label that the namespace remembers.
    fn label_max_ms(&self, record: &Checkpoint) -> u64 {
        let names = self.index.namespaces.get(&record.namespace);
        let index = record.commit.map_or(0, |commit| commit.index);
        let newer = names.and_then(|names| {
            names.commits.range((Bound::Excluded(index), Bound::Unbounded)).next()
        });
        let newer = newer.and_then(|(_, id)| self.checkpoints.get(id));
        let newest = self.namespaces.get(&record.namespace).map_or(0, |it| it.last_wall_ms);
        newer.and_then(|record| record.commit).map_or(newest, |commit| commit.wall_ms)
    }

    /// Whether a committed checkpoint is among the `count` newest of its namespace, by its commit
    /// or by the begin of its upload. If uploads overlap, one that began early may commit late. It
    /// must not push out checkpoints that began after it. Checkpoints in quarantine do not count.
    pub(super) fn is_among_newest(&self, record: &Checkpoint, count: usize) -> bool {
        let Some(names) = self.index.namespaces.get(&record.namespace) else { return false };
        let newer = |map: &Map<u64, CheckpointId>, index: u64| {
            map.range((Bound::Excluded(index), Bound::Unbounded)).take(count).count()
        };
        if canary!("retention_counts_bad") {
            return record.commit.is_some_and(|it| newer(&names.commits, it.index) < count);
        }
        let by_commit = record.commit.map_or(0, |commit| newer(&names.good, commit.index));
        by_commit < count || newer(&names.good_begins, record.began.index) < count
    }

    /// From here on the checkpoint never counts again (D4). Its references are dropped in steps.
    pub(super) fn mark_deleted(
        &mut self,
        entry: Entry,
        id: CheckpointId,
        deleted_for: DeletedFor,
        by: &str,
    ) {
        let clock_ms = self.cluster.clock_ms;
        self.change_checkpoint(id, |record| {
            record.open = None;
            if record.state != CheckpointState::Deleted {
                record.state = CheckpointState::Deleted;
                record.deleted_at_ms = Some(clock_ms);
                record.deleted_for = Some(deleted_for);
                record.deleted_by = by.to_owned();
                record.deleted_wall_ms = entry.wall_ms;
            }
        });
    }

    pub(super) fn drop_references(&mut self, id: CheckpointId) -> Result<Reply, Refusal> {
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        let deleted = match record.state {
            CheckpointState::Open if record.may_be_droppable() => {
                return Ok(Reply::Dropped { left: self.drop_voided(id) });
            }
            CheckpointState::Open => {
                return Err(malformed(format!("references of upload {id}, which is open")));
            }
            CheckpointState::Committed => false,
            CheckpointState::Deleted => true,
        };
        let trash_until_ms = record.trash_until_ms(self.trash_ms());
        if trash_until_ms.is_some_and(|until_ms| self.cluster.clock_ms < until_ms)
            && !canary!("trash_drops_references")
        {
            return Err(malformed(format!("references of checkpoint {id}, which is in the trash")));
        }
        let (replicas, now) = (record.policy.replicas, record.now);
        // Its grace was its time in the trash.
        let at_once = now || trash_until_ms.is_some();
        let loose: Vec<SegmentId> = record.loose.iter().take(DROP_REFERENCES_MAX).collect();
        let room = if deleted { DROP_REFERENCES_MAX - loose.len() } else { 0 };
        let named: Vec<SegmentId> = record.segments.iter().take(room).collect();
        let room = if now { room - named.len() } else { 0 };
        let hastened: Vec<SegmentId> = record.dropped.iter().take(room).collect();
        // References dropped under their own grace wait longer than those whose grace began before.
        let others = match at_once {
            true => self.graces_of_others(id, [&loose, &named, &hastened]),
            false => BTreeMap::new(),
        };
        let due_ms = |segment| others.get(&segment).copied().unwrap_or(0);

        let checkpoints = &mut self.checkpoints;
        let Some(record) = checkpoints.get_mut(&id).map(Arc::make_mut) else {
            return Err(Refusal::UnknownCheckpoint(id));
        };
        for segment in &loose {
            record.loose.remove(*segment);
        }
        if !named.is_empty() {
            record.segments = IdSet::from_sorted(record.segments.iter().skip(named.len()));
        }
        let clock_ms = self.cluster.clock_ms;
        let no_grace =
            canary!("replaced_without_grace") && record.deleted_for == Some(DeletedFor::Replaced);
        let grace_ms = if at_once || no_grace { 0 } else { self.cluster.settings.grace_ms };
        let reap_after_ms = clock_ms.saturating_add(grace_ms);
        let dropped_until_ms = record.dropped_until_ms;
        for segment in &hastened {
            record.dropped.remove(*segment);
        }
        if deleted && grace_ms > 0 {
            for segment in loose.iter().chain(&named) {
                record.dropped.insert(*segment);
                record.dropped_until_ms = reap_after_ms;
            }
        }
        let left = match deleted {
            false => record.loose.len(),
            true if now => record.reference_count() + record.dropped.len(),
            true => record.reference_count(),
        };
        let is_over = record.is_over(clock_ms);
        self.index.note_dropped(record);
        for segment in &named {
            self.index.committed.subtract(*segment);
        }
        for segment in loose.into_iter().chain(named) {
            self.change_segment(segment, |segment| {
                subtract_reference(segment, replicas);
                if !segment.is_referenced() {
                    segment.reap_after_ms = reap_after_ms.max(due_ms(segment.id));
                }
            });
        }
        for segment in hastened {
            self.change_segment(segment, |segment| {
                // A later time was set by another checkpoint that released it after this one.
                if !segment.is_referenced() && segment.reap_after_ms <= dropped_until_ms {
                    let due_ms = clock_ms.max(due_ms(segment.id));
                    segment.reap_after_ms = segment.reap_after_ms.min(due_ms);
                }
            });
        }
        if deleted
            && left == 0
            && is_over
            && let Some(record) = self.checkpoints.remove(&id)
        {
            self.index.remove_checkpoint(&record);
            self.forget_holds(id);
            self.forget_namespace(&record.namespace);
        }
        Ok(Reply::Dropped { left })
    }

    /// Those of the segments that deletions other than `id` gave back under a grace that still runs
    /// and was not ended by request. Each comes with the end of the last such grace.
    fn graces_of_others(
        &self,
        id: CheckpointId,
        batch: [&Vec<SegmentId>; 3],
    ) -> BTreeMap<SegmentId, u64> {
        let clock_ms = self.cluster.clock_ms;
        let mut until = BTreeMap::<SegmentId, u64>::new();
        let batch: SegmentSet = batch.into_iter().flatten().copied().collect();
        // A record that is not deleted has dropped nothing.
        let others = self.droppable().filter(|other| other.id != id);
        for other in others.filter(|other| !other.is_spent(clock_ms)) {
            for segment in batch.common(&other.dropped) {
                let until_ms = until.entry(segment).or_default();
                *until_ms = other.dropped_until_ms.max(*until_ms);
            }
        }
        until
    }

    pub(super) fn reap(&mut self, ids: &[SegmentId]) -> Result<Reply, Refusal> {
        check_batch("segments", ids.len(), BATCH_SEGMENTS_MAX)?;
        let clock_ms = self.cluster.clock_ms;
        let held = self.cluster.reap_hold;
        let mut tally = Tally::default();
        for id in ids {
            let due = self.segments.get(*id).is_some_and(|segment| {
                !held
                    && !segment.reaped
                    && !segment.is_referenced()
                    && (clock_ms >= segment.reap_after_ms || canary!("reap_before_grace"))
            });
            tally.count(due);
            if due {
                self.change_segment(*id, |segment| {
                    segment.reaped = true;
                    segment.slots.edit(|slots| {
                        for slot in slots {
                            (slot.state, slot.until_ms) = (SlotState::Released, 0);
                        }
                    });
                });
                self.forget_if_spent(*id);
            }
        }
        Ok(tally.reply())
    }
}
