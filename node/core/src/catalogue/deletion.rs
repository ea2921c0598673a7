//! The way out: Delete, DropReferences, Reap.
//!
//! ```text
//!   checkpoint Deleted --DropReferences--> segment unreferenced --grace--> Reap: slots Released
//!                                               | Stage: revived              | Stage: new slots
//!                                               v                             v
//!                                          referenced                     referenced
//! ```

use std::ops::Bound;
use std::sync::Arc;

use super::uploads::subtract_reference;
use super::{Catalogue, Tally, check_batch, malformed};
use crate::canary;
use crate::command::{DeleteReason, Refusal, Reply};
use crate::id_set::IdSet;
use crate::ids::{CheckpointId, SegmentId};
use crate::limits::{BATCH_SEGMENTS_MAX, DROP_REFERENCES_MAX};
use crate::model::{CheckpointState, SlotState};

impl Catalogue {
    pub(super) fn delete(
        &mut self,
        id: CheckpointId,
        reason: DeleteReason,
        now: bool,
    ) -> Result<Reply, Refusal> {
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        if reason == DeleteReason::Retention && record.state != CheckpointState::Deleted {
            let Some(commit) = record.commit else {
                return Err(malformed(format!("retention of upload {id}, which has no commit")));
            };
            let keep_last = self.namespace_or_default(&record.namespace).policy.keep_last;
            // Without the rule, all are among the newest.
            let keep_last = keep_last.unwrap_or(u32::MAX);
            let newer = self.index.namespaces.get(&record.namespace).map_or(0, |names| {
                let newer = (Bound::Excluded(commit.index), Bound::Unbounded);
                names.commits.range(newer).take(keep_last as usize).count()
            });
            if newer < keep_last as usize {
                return Err(Refusal::KeptByPolicy { keep_last });
            }
        }
        self.mark_deleted(id, now);
        Ok(Reply::Done)
    }

    /// From here on the checkpoint never counts again (D4); its references go bit by bit.
    pub(super) fn mark_deleted(&mut self, id: CheckpointId, now: bool) {
        let clock_ms = self.cluster.clock_ms;
        self.change_checkpoint(id, |record| {
            record.now |= now;
            record.open = None;
            if record.state != CheckpointState::Deleted {
                record.state = CheckpointState::Deleted;
                record.deleted_at_ms = Some(clock_ms);
            }
        });
    }

    pub(super) fn drop_references(&mut self, id: CheckpointId) -> Result<Reply, Refusal> {
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        let deleted = match record.state {
            CheckpointState::Open => {
                return Err(malformed(format!("references of upload {id}, which is open")));
            }
            CheckpointState::Committed => false,
            CheckpointState::Deleted => true,
        };
        let (replicas, now) = (record.policy.replicas, record.now);
        let loose: Vec<SegmentId> = record.loose.iter().take(DROP_REFERENCES_MAX).collect();
        let room = if deleted { DROP_REFERENCES_MAX - loose.len() } else { 0 };
        let named: Vec<SegmentId> = record.segments.iter().take(room).collect();

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
        let left = if deleted { record.reference_count() } else { record.loose.len() };

        let grace_ms = if now { 0 } else { self.cluster.settings.grace_ms };
        let reap_after_ms = self.cluster.clock_ms.saturating_add(grace_ms);
        for segment in &named {
            self.index.committed.subtract(*segment);
        }
        for segment in loose.into_iter().chain(named) {
            self.change_segment(segment, |segment| {
                subtract_reference(segment, replicas);
                if !segment.is_referenced() {
                    segment.reap_after_ms = reap_after_ms;
                }
            });
        }
        if deleted
            && left == 0
            && let Some(record) = self.checkpoints.remove(&id)
        {
            self.index.remove_checkpoint(&record);
        }
        Ok(Reply::Dropped { left })
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
                    for slot in &mut segment.slots {
                        slot.state = SlotState::Released;
                    }
                });
                self.forget_if_spent(*id);
            }
        }
        Ok(tally.reply())
    }
}
