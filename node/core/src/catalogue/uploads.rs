//! Uploads: how they open, are joined, fenced, kept alive and given up.
//!
//! ```text
//!               Begin                  last SealPart
//!   (nothing) --------> Open ----------------------------> Committed
//!                       |  ^                                  |
//!     Begin, higher     |  | Begin, same attempt              | Delete, or the commit that
//!     attempt: fenced   |  | (lease over: revived)            | replaces it
//!                       v  |                                  v
//!                       Open --- ExpireUploads, Delete ---> Deleted --DropReferences--> (gone)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Catalogue, Checkpoint, Tally, Upload, check_batch, effective_policy, malformed};
use crate::canary;
use crate::command::{Begun, Refusal, Reply};
use crate::id_set::IdSet;
use crate::ids::{Attempt, CheckpointId, Namespace, Step};
use crate::limits::{BATCH_SEGMENTS_MAX, LABEL_BYTES_MAX, LABELS_MAX, PARTS_MAX};
use crate::model::{CheckpointState, Policy, PolicyChange, Segment};
use crate::segment_set::SegmentSet;

pub(super) struct Begin<'a> {
    pub namespace: &'a Namespace,
    pub step: Step,
    pub parts: u32,
    pub attempt: Attempt,
    pub change: &'a PolicyChange,
    pub replace: bool,
    pub labels: &'a BTreeMap<String, String>,
}

impl Catalogue {
    pub(super) fn begin(&mut self, begin: Begin<'_>) -> Result<Reply, Refusal> {
        check_begin(&begin)?;
        let base = self.namespace_or_default(begin.namespace).policy;
        let policy = effective_policy(&base, begin.change)?;
        let (open, committed) = self.at_step(begin.namespace, begin.step);
        if let Some(committed) = committed {
            if committed.attempt == begin.attempt {
                let parts = committed.parts_wanted;
                check_part_count(begin.parts, parts)?;
                let mut begun = begun(committed);
                begun.sealed = (0..parts).collect();
                return Ok(Reply::Begun(begun));
            }
            if !begin.replace {
                return Err(Refusal::StepExists {
                    namespace: begin.namespace.clone(),
                    step: begin.step,
                    checkpoint: committed.id,
                });
            }
            check_fence(begin.attempt, committed.attempt)?;
        }
        let id = match open {
            Some(open) if open.attempt == begin.attempt => {
                check_part_count(begin.parts, open.parts_wanted)?;
                open.id
            }
            Some(open) => {
                check_fence(begin.attempt, open.attempt)?;
                let id = open.id;
                self.fence(id, &begin, policy);
                id
            }
            None => self.open(&begin, policy),
        };
        if begin.change.keep_last.is_some() {
            let change =
                PolicyChange { keep_last: begin.change.keep_last, ..PolicyChange::default() };
            self.put_policy(begin.namespace, effective_policy(&base, &change)?);
        } else {
            self.put_policy(begin.namespace, base);
        }
        self.renew_lease(id);
        self.checkpoints
            .get(&id)
            .map(|checkpoint| Reply::Begun(begun(checkpoint)))
            .ok_or(Refusal::UnknownCheckpoint(id))
    }

    /// The open and the committed checkpoint of a step.
    fn at_step(
        &self,
        namespace: &Namespace,
        step: Step,
    ) -> (Option<&Checkpoint>, Option<&Checkpoint>) {
        let find = |state| {
            let mut records = self.checkpoints_at(namespace, step).map(Arc::as_ref);
            records.find(|checkpoint| checkpoint.state == state)
        };
        (find(CheckpointState::Open), find(CheckpointState::Committed))
    }

    fn open(&mut self, begin: &Begin<'_>, policy: Policy) -> CheckpointId {
        let id = CheckpointId(self.cluster.lineage.mint(self.cluster.next_checkpoint));
        self.cluster.next_checkpoint += 1;
        let checkpoint = Checkpoint {
            id,
            namespace: begin.namespace.clone(),
            step: begin.step,
            attempt: begin.attempt,
            state: CheckpointState::Open,
            policy,
            parts_wanted: begin.parts,
            labels: begin.labels.clone(),
            open: Some(Upload { replace: begin.replace, ..Upload::default() }),
            parts: Vec::new(),
            segments: IdSet::default(),
            loose: SegmentSet::default(),
            commit: None,
            bytes: 0,
            files: 0,
            segment_bytes: 0,
            deleted_at_ms: None,
            now: false,
        };
        self.index.add_checkpoint(&checkpoint);
        self.checkpoints.insert(id, Arc::new(checkpoint));
        id
    }

    /// A higher attempt takes the upload over: it starts from nothing, but what the lower one
    /// staged stays referenced, so that the new one finds it durable.
    fn fence(&mut self, id: CheckpointId, begin: &Begin<'_>, policy: Policy) {
        let wanted = policy.replicas;
        let before = self.change_checkpoint(id, |checkpoint| {
            let before = checkpoint.policy.replicas;
            checkpoint.attempt = begin.attempt;
            checkpoint.policy = policy;
            checkpoint.parts_wanted = begin.parts;
            checkpoint.labels.clone_from(begin.labels);
            checkpoint.open = Some(Upload { replace: begin.replace, ..Upload::default() });
            (before, checkpoint.loose.clone())
        });
        // References are counted by wanted replicas: count them under the new number.
        if let Some((before, loose)) = before
            && before != wanted
        {
            for segment in loose.iter() {
                self.change_segment(segment, |segment| {
                    add_reference(segment, wanted);
                    subtract_reference(segment, before);
                });
            }
        }
    }

    /// The open upload this command speaks of, if it may still speak of it.
    pub(super) fn open_upload(
        &self,
        id: CheckpointId,
        attempt: Attempt,
    ) -> Result<(&Checkpoint, &Upload), Refusal> {
        let checkpoint = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        check_fence(attempt, checkpoint.attempt)?;
        match &checkpoint.open {
            None => Err(Refusal::NotOpen(id)),
            Some(_) if attempt != checkpoint.attempt => {
                Err(malformed(format!("attempt {attempt} of checkpoint {id} has not begun")))
            }
            Some(upload) => Ok((checkpoint, upload)),
        }
    }

    /// The upload to be changed, with its lease renewed. No index depends on what it holds.
    pub(super) fn renew_lease(&mut self, id: CheckpointId) -> Option<&mut Checkpoint> {
        let lease_until_ms = self.cluster.clock_ms.saturating_add(self.cluster.settings.lease_ms);
        let checkpoint = Arc::make_mut(self.checkpoints.get_mut(&id)?);
        checkpoint.open.as_mut()?.lease_until_ms = lease_until_ms;
        Some(checkpoint)
    }

    pub(super) fn renew(&mut self, uploads: &[(CheckpointId, Attempt)]) -> Result<Reply, Refusal> {
        check_batch("uploads", uploads.len(), BATCH_SEGMENTS_MAX)?;
        let mut tally = Tally::default();
        for (id, attempt) in uploads {
            let current = self.open_upload(*id, *attempt).is_ok();
            tally.count(current);
            if current {
                self.renew_lease(*id);
            }
        }
        Ok(tally.reply())
    }

    pub(super) fn leader_started(&mut self) -> Result<Reply, Refusal> {
        let open: Vec<CheckpointId> = self.index.open.iter().copied().collect();
        for id in open {
            self.renew_lease(id);
        }
        Ok(Reply::Done)
    }

    pub(super) fn expire_uploads(&mut self, ids: &[CheckpointId]) -> Result<Reply, Refusal> {
        check_batch("uploads", ids.len(), BATCH_SEGMENTS_MAX)?;
        let mut tally = Tally::default();
        for id in ids {
            let expires = self
                .checkpoints
                .get(id)
                .and_then(|upload| upload.expires_after_ms(self.cluster.settings.grace_ms));
            let expired = expires.is_some_and(|after_ms| {
                self.cluster.clock_ms > after_ms || canary!("expire_before_lease")
            });
            tally.count(expired);
            if expired {
                self.mark_deleted(*id, false);
            }
        }
        Ok(tally.reply())
    }
}

fn begun(checkpoint: &Checkpoint) -> Begun {
    Begun {
        checkpoint: checkpoint.id,
        attempt: checkpoint.attempt,
        policy: checkpoint.policy.clone(),
        parts: checkpoint.parts_wanted,
        sealed: checkpoint.sealed_parts(),
        committed: checkpoint.state == CheckpointState::Committed,
    }
}

fn check_begin(begin: &Begin<'_>) -> Result<(), Refusal> {
    if !(1..=PARTS_MAX).contains(&begin.parts) {
        return Err(malformed(format!("{} parts, wants 1 to {PARTS_MAX}", begin.parts)));
    }
    check_batch("labels", begin.labels.len(), LABELS_MAX)?;
    for (key, value) in begin.labels {
        if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return Err(malformed(format!("a label is longer than {LABEL_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}

fn check_fence(got: Attempt, current: Attempt) -> Result<(), Refusal> {
    if got < current { Err(Refusal::Fenced { got, current }) } else { Ok(()) }
}

fn check_part_count(got: u32, current: u32) -> Result<(), Refusal> {
    if got == current { Ok(()) } else { Err(Refusal::PartCount { got, current }) }
}

/// Counts one more reference that wants `replicas`.
pub(super) fn add_reference(segment: &mut Segment, replicas: u32) {
    match segment.references.binary_search_by_key(&replicas, |(wanted, _)| *wanted) {
        Ok(at) => segment.references[at].1 += 1,
        Err(at) => segment.references.insert(at, (replicas, 1)),
    }
}

/// Counts one reference less.
pub(super) fn subtract_reference(segment: &mut Segment, replicas: u32) {
    match segment.references.binary_search_by_key(&replicas, |(wanted, _)| *wanted) {
        Ok(at) if segment.references[at].1 > 1 => segment.references[at].1 -= 1,
        Ok(at) => {
            segment.references.remove(at);
        }
        Err(_) => debug_assert!(false, "segment {} has no such reference", segment.id),
    }
}

/// The segments an upload's sealed parts name together.
pub(super) fn union(upload: &Upload) -> SegmentSet {
    let mut sets = upload.parts.values().map(|part| &part.staged);
    let mut all = sets.next().cloned().unwrap_or_default();
    for set in sets {
        all.extend(set.iter());
    }
    all
}

/// Refuses a part number beyond the upload's.
pub(super) fn check_part(part: u32, parts: u32) -> Result<(), Refusal> {
    if part < parts { Ok(()) } else { Err(Refusal::PartOutOfRange { part, parts }) }
}
