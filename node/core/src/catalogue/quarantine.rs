//! Checkpoints that must not be used: one, or all of later steps.
//!
//! A checkpoint in quarantine stays complete and can be restored by its step. `latest` and
//! addresses by time skip it. Retention rules do not count it, and keep it for a time (14 days by
//! default). A higher attempt may write its step again; the commit then replaces it. An open upload
//! that a rollback aborts cannot begin again under its attempt, so that the bad job does not
//! continue from there.

use std::ops::Bound;

use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, Rollback, SetQuarantine};
use cairn_types::ids::{Attempt, CheckpointId, Namespace, Step};
use cairn_types::limits::ROLLBACK_MAX;
use cairn_types::marks::Quarantine;
use cairn_types::model::{CheckpointState, DeletedFor};

use super::refs::check_usable;
use super::{Apply, Catalogue, Entry, check_text, malformed};

impl Apply for SetQuarantine {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        let record = catalogue.committed(self.checkpoint)?;
        match (self.lift, &record.quarantine) {
            (true, None) => {
                return Err(malformed(format!("checkpoint {} is not in quarantine", record.id)));
            }
            (true, Some(_)) => {}
            (false, _) => check_said(&self.reason, &self.by)?,
        }
        let quarantine = (!self.lift).then(|| Quarantine {
            reason: self.reason.clone(),
            by: self.by.clone(),
            wall_ms: entry.wall_ms,
        });
        catalogue.change_checkpoint(self.checkpoint, |record| record.quarantine = quarantine);
        catalogue.note_change(self.checkpoint);
        Ok(Reply::Done)
    }
}

impl Apply for Rollback {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.roll_back(entry, self)
    }
}

/// A quarantine must have a reason, in one line.
fn check_said(reason: &str, by: &str) -> Result<(), Refusal> {
    if reason.trim().is_empty() {
        return Err(malformed("a quarantine without a reason"));
    }
    check_text("a reason", reason)?;
    check_text("a client's name", by)
}

impl Catalogue {
    fn roll_back(&mut self, entry: Entry, rollback: &Rollback) -> Result<Reply, Refusal> {
        let target = self.committed(rollback.checkpoint)?;
        check_usable(target)?;
        check_said(&rollback.reason, &rollback.by)?;
        let (good, open) = self.of_later_steps(target.id);
        let most = good.len().max(open.len());
        if most > ROLLBACK_MAX {
            return Err(malformed(format!(
                "{most} checkpoints of later steps, one rollback takes {ROLLBACK_MAX}"
            )));
        }
        let spared = usize::from(canary!("rollback_spares_newest"));
        for id in good.iter().rev().skip(spared) {
            self.change_checkpoint(*id, |record| {
                record.quarantine = Some(Quarantine {
                    reason: rollback.reason.clone(),
                    by: rollback.by.clone(),
                    wall_ms: entry.wall_ms,
                });
            });
        }
        if !canary!("rollback_leaves_uploads") {
            for id in &open {
                self.abort_for_rollback(entry, *id, &rollback.by);
            }
        }
        self.note_change(rollback.checkpoint);
        let (quarantined, aborted) = (good.len() as u64, open.len() as u64);
        Ok(Reply::RolledBack { quarantined, aborted })
    }

    /// The record stays until the grace is over, even without references. During this time it
    /// refuses the aborted attempt.
    fn abort_for_rollback(&mut self, entry: Entry, id: CheckpointId, by: &str) {
        self.mark_deleted(entry, id, DeletedFor::RolledBack, by);
        let until_ms = self.cluster.clock_ms.saturating_add(self.cluster.settings.grace_ms);
        self.change_checkpoint(id, |record| record.dropped_until_ms = until_ms);
    }

    /// Refuses an attempt that a rollback aborted, and lower attempts of its step.
    pub(super) fn check_not_rolled_back(
        &self,
        namespace: &Namespace,
        step: Step,
        got: Attempt,
    ) -> Result<(), Refusal> {
        let records = self.checkpoints_at(namespace, step);
        let aborted = records.filter(|it| it.deleted_for == Some(DeletedFor::RolledBack));
        match aborted.map(|it| it.attempt).max() {
            Some(aborted) if got <= aborted && !canary!("rolled_back_begins_again") => {
                Err(Refusal::RolledBack { step, got, aborted })
            }
            _ => Ok(()),
        }
    }

    /// In the namespace of `id`: commits of later steps that are not in quarantine, and open
    /// uploads of later steps.
    fn of_later_steps(&self, id: CheckpointId) -> (Vec<CheckpointId>, Vec<CheckpointId>) {
        let (mut good, mut open) = (Vec::new(), Vec::new());
        let Some(record) = self.checkpoint(id) else { return (good, open) };
        let Some(names) = self.index.namespaces.get(&record.namespace) else { return (good, open) };
        let from = Bound::Excluded((record.step, CheckpointId(u64::MAX)));
        let later = names.steps.range((from, Bound::Unbounded));
        for record in later.filter_map(|((_, id), ())| self.checkpoints.get(id)) {
            match record.state {
                CheckpointState::Committed if record.quarantine.is_none() => good.push(record.id),
                CheckpointState::Open => open.push(record.id),
                CheckpointState::Committed | CheckpointState::Deleted => {}
            }
        }
        (good, open)
    }
}
