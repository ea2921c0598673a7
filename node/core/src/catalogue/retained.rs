//! Retention over the catalogue: the result of its rules, the deletions that a run may make, and
//! the confirmation that a large run waits for (D7).
//!
//! ```text
//!   leader: retention_run --- small -------------------------> Delete, with the policy's version
//!                         \-- large --> waits --> ConfirmRetention --^      each uses up one
//! ```
//!
//! A run is large if it would delete more than 30 % of a namespace with more than 10 checkpoints.
//! The confirmation names a number and a version of the policy. It is stored in the namespace's
//! record, so that it survives a change of the leader. A change of the policy voids it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::canary;
use cairn_types::command::{ConfirmRetention, Refusal, Reply};
use cairn_types::ids::{CheckpointId, Namespace, SegmentId};
use cairn_types::model::Confirmed;
use cairn_types::retention::Retention;

use super::{Apply, Catalogue, Checkpoint, Entry, malformed};
use crate::retention::{Commit, Evaluation, Reason, UnknownTimeZone, evaluate};

/// A namespace of up to this many checkpoints may lose any number of them to one run.
const FEW_CHECKPOINTS: usize = 10;
/// In a larger namespace, a run without a confirmation deletes at most this percentage.
const UNCONFIRMED_PERCENT_MAX: usize = 30;

impl Apply for ConfirmRetention {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        let (got, current) = (self.policy_version, catalogue.policy_version(&self.namespace));
        if got != current {
            return Err(Refusal::PolicyChanged { got, current });
        }
        if self.checkpoints == 0 {
            return Err(malformed("a confirmation of no checkpoint"));
        }
        let Some(record) = catalogue.namespaces.get_mut(&self.namespace) else {
            let (namespace, selector) = (self.namespace.to_string(), "latest".to_owned());
            return Err(Refusal::NoSuchCheckpoint { namespace, selector });
        };
        record.confirmed = Some(Confirmed { policy_version: got, left: self.checkpoints });
        *catalogue.retention_inputs.or_default(self.namespace.clone()) += 1;
        Ok(Reply::Done)
    }
}

/// The result of retention for a namespace, with reasons.
#[derive(Debug, Clone)]
pub struct RetentionPlan {
    pub policy_version: u64,
    pub retention: Retention,
    /// Committed checkpoints, newest first, each with the reasons to keep it.
    pub checkpoints: Vec<(Arc<Checkpoint>, Vec<Reason>)>,
    /// Wall clock, and cluster time, from which the result may change by itself.
    pub next_wall_ms: Option<u64>,
    pub next_clock_ms: Option<u64>,
    /// Checkpoints that a confirmation still covers.
    pub confirmed: u64,
}

/// The part of a run that one round does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionRun {
    pub policy_version: u64,
    /// To be deleted now, oldest first.
    pub deletes: Vec<CheckpointId>,
    /// Checkpoints that wait for a confirmation.
    pub waiting: u64,
}

impl RetentionPlan {
    pub fn let_go(&self) -> impl Iterator<Item = &Arc<Checkpoint>> {
        let let_go = self.checkpoints.iter().filter(|(_, reasons)| reasons.is_empty());
        let_go.map(|(record, _)| record)
    }

    /// Whether the run would delete so much that it needs a confirmation.
    pub fn is_large(&self) -> bool {
        let (all, let_go) = (self.checkpoints.len(), self.let_go().count());
        all > FEW_CHECKPOINTS && let_go * 100 > all * UNCONFIRMED_PERCENT_MAX
    }

    /// Whether it waits for a confirmation.
    pub fn waits(&self) -> bool {
        self.is_large() && self.confirmed == 0 && !canary!("confirmation_ignored")
    }

    /// The deletions for now, at most `most`.
    pub fn run(&self, most: usize) -> RetentionRun {
        let policy_version = self.policy_version;
        let let_go = self.let_go().count() as u64;
        if self.waits() {
            return RetentionRun { policy_version, deletes: Vec::new(), waiting: let_go };
        }
        let is_limited = self.is_large() && !canary!("confirmation_ignored");
        let covered = if is_limited { self.confirmed } else { let_go };
        let mut deletes: Vec<CheckpointId> = self.let_go().map(|record| record.id).collect();
        deletes.reverse();
        deletes.truncate(most.min(usize::try_from(covered).unwrap_or(usize::MAX)));
        RetentionRun { policy_version, deletes, waiting: 0 }
    }
}

impl Catalogue {
    /// The result of a namespace's rules at a wall clock. `what_if` gives other rules than its own.
    pub fn retention_plan(
        &self,
        namespace: &Namespace,
        what_if: Option<Retention>,
        wall_ms: u64,
    ) -> Result<RetentionPlan, UnknownTimeZone> {
        let retention = what_if.unwrap_or_else(|| self.full_policy(namespace).retention);
        let mut refs = BTreeMap::<CheckpointId, Vec<String>>::new();
        for (name, target) in self.refs(namespace) {
            if let Some(id) = target.checkpoint
                && !canary!("refs_keep_nothing")
            {
                refs.entry(id).or_default().push(name.to_string());
            }
        }
        let records: Vec<Arc<Checkpoint>> = self.commits(namespace).cloned().collect();
        let commits: Vec<Commit> = records.iter().map(|it| self.as_commit(it, &mut refs)).collect();
        let Evaluation { reasons, next_ms } = evaluate(&retention, &commits, wall_ms)?;
        let policy_version = self.policy_version(namespace);
        let confirmed = self.namespaces.get(namespace).and_then(|record| record.confirmed);
        let confirmed = confirmed.filter(|it| it.policy_version == policy_version);
        let holds = records.iter().flat_map(|record| self.active_holds(record.id));
        Ok(RetentionPlan {
            policy_version,
            retention,
            next_wall_ms: next_ms,
            next_clock_ms: holds.filter_map(|hold| hold.until_ms).min(),
            confirmed: confirmed.map_or(0, |confirmed| confirmed.left),
            checkpoints: records.into_iter().zip(reasons).collect(),
        })
    }

    fn as_commit<'a>(
        &self,
        record: &'a Checkpoint,
        refs: &mut BTreeMap<CheckpointId, Vec<String>>,
    ) -> Commit<'a> {
        let commit = record.commit;
        Commit {
            id: record.id,
            step: record.step,
            index: commit.map_or(0, |commit| commit.index),
            began_index: record.began.index,
            wall_ms: commit.map_or(0, |commit| commit.wall_ms),
            labels: &record.labels,
            metrics: &record.metrics,
            quarantined_ms: record.quarantine.as_ref().map(|quarantine| quarantine.wall_ms),
            refs: refs.remove(&record.id).unwrap_or_default(),
            holds: self.kept_by_holds(record.id).collect(),
        }
    }

    /// Bytes of segments that lose their last reference when these checkpoints are deleted. Each
    /// value counts the segments freed by that checkpoint once those before it are deleted.
    pub fn freed_by<'a>(&self, gone: impl Iterator<Item = &'a Arc<Checkpoint>>) -> Vec<u64> {
        let mut left = BTreeMap::<SegmentId, u32>::new();
        let freed = gone.map(|record| {
            let mut bytes = 0;
            for segment in record.references().filter_map(|id| self.segment(id)) {
                let all = || segment.references.iter().map(|(_, count)| *count).sum();
                let left = left.entry(segment.id).or_insert_with(all);
                *left = left.saturating_sub(1);
                if *left == 0 {
                    bytes += u64::from(segment.form.raw_len());
                }
            }
            bytes
        });
        freed.collect()
    }

    /// Rises whenever the result of the namespace's retention could change, except by time.
    pub fn retention_inputs(&self, namespace: &Namespace) -> u64 {
        self.retention_inputs.get(namespace).copied().unwrap_or(0)
    }

    /// The version of all inputs to a deletion by retention: the policy, and the marks that people
    /// and jobs set on checkpoints. It never falls. A deletion that was evaluated at an earlier
    /// version is refused.
    pub fn retention_version(&self, namespace: &Namespace) -> u64 {
        let record = self.namespaces.get(namespace);
        record.map_or(0, |it| it.policy_version.saturating_add(it.changes))
    }

    /// A mark on a checkpoint changed, which may be a reason to keep this or another checkpoint.
    pub(super) fn note_change(&mut self, id: CheckpointId) {
        let namespace = self.checkpoints.get(&id).map(|record| record.namespace.clone());
        if let Some(record) = namespace.and_then(|name| self.namespaces.get_mut(&name)) {
            record.changes = record.changes.saturating_add(1);
        }
    }

    pub(super) fn touch_retention(&mut self, id: CheckpointId) {
        if let Some(record) = self.checkpoints.get(&id) {
            let namespace = record.namespace.clone();
            *self.retention_inputs.or_default(namespace) += 1;
        }
    }

    /// Refuses a deletion by retention that apply can recognise as wrong without a calendar.
    pub(super) fn check_retention(
        &self,
        record: &Checkpoint,
        policy_version: Option<u64>,
    ) -> Result<(), Refusal> {
        let rules = self.full_policy(&record.namespace).retention.rules;
        let current = self.retention_version(&record.namespace);
        match policy_version {
            Some(got) if got != current => return Err(Refusal::PolicyChanged { got, current }),
            Some(_) => {}
            // A leader of an older build evaluated only `keep_last`.
            None => {
                let mut others = rules.clone();
                others.last = None;
                if !others.is_empty() {
                    return Err(Refusal::PolicyChanged { got: 0, current });
                }
            }
        }
        if rules.is_empty() {
            // Without a rule, all checkpoints count as the newest.
            return Err(Refusal::KeptByPolicy { keep_last: u32::MAX });
        }
        let counts = record.quarantine.is_none() || policy_version.is_none();
        let is_kept = match rules.last {
            Some(keep_last) => self.is_among_newest(record, keep_last as usize),
            None => {
                self.good_commits(&record.namespace).next().is_some_and(|it| it.id == record.id)
            }
        };
        match counts && is_kept {
            true => Err(Refusal::KeptByPolicy { keep_last: rules.last.unwrap_or(1) }),
            false => Ok(()),
        }
    }

    /// A deletion by retention uses up one confirmed deletion.
    pub(super) fn use_confirmation(&mut self, namespace: &Namespace) {
        let Some(record) = self.namespaces.get_mut(namespace) else { return };
        let is_current = |it: &Confirmed| it.policy_version == record.policy_version && it.left > 1;
        record.confirmed =
            record.confirmed.filter(is_current).map(|it| Confirmed { left: it.left - 1, ..it });
    }
}
