//! Uploads: opening, joining, fencing, renewal and expiry.
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

use super::open_ended::check_room_for_begin;
use super::refs::check_usable;
use super::{Apply, Catalogue, Checkpoint, Entry, Tally, Upload, check_batch, malformed};
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{Begin, Begun, ExpireUploads, LeaderStarted, Refusal, Renew, Reply};
use cairn_types::id_set::IdSet;
use cairn_types::ids::{Attempt, CheckpointId, Namespace, Step};
use cairn_types::limits::{
    ATTEMPT_MAX, BATCH_SEGMENTS_MAX, LABEL_BYTES_MAX, LABELS_MAX, OPEN_LEASES, PARTS_MAX,
    RENEWED_IDLE_MS_MAX,
};
use cairn_types::model::{Began, CheckpointState, DeletedFor, Policy, Segment};
use cairn_types::policy::effective_policy;
use cairn_types::rights::TokenSubject;

impl Apply for Begin {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.begin(entry, self)
    }
}

impl Apply for Renew {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.renew(&self.uploads)
    }
}

impl Apply for LeaderStarted {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.leader_started()
    }
}

impl Apply for ExpireUploads {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.expire_uploads(entry, &self.checkpoints)
    }
}

impl Catalogue {
    /// Whether one more upload may begin if at most `most` may be open at once. Checked before the
    /// upload is proposed, so that the limit may differ between builds: apply does not depend on
    /// it.
    pub fn has_room_for(&self, begin: &Begin, most: usize) -> bool {
        self.is_known(begin) || self.index.open.len() < most
    }

    /// Like [`Catalogue::has_room_for`], of the uploads that tokens of this name began.
    pub fn has_room_of(&self, token: &TokenSubject, begin: &Begin, most: usize) -> bool {
        let began = |id: &&CheckpointId| {
            self.checkpoint(**id).is_some_and(|record| record.began.subject == token.name)
        };
        let takes_over = || {
            let (open, _) = self.at_step(&begin.namespace, begin.step);
            open.is_some_and(|record| record.began.subject != token.name)
        };
        (self.is_known(begin) && !takes_over())
            || self.index.open.keys().filter(began).count() < most
    }

    /// Whether the Begin opens no upload: the step has one, or it will be refused.
    fn is_known(&self, begin: &Begin) -> bool {
        let (open, committed) = self.at_step(&begin.namespace, begin.step);
        open.is_some() || committed.is_some_and(|it| it.quarantine.is_none() && !begin.replace)
    }

    pub(super) fn begin(&mut self, entry: Entry, begin: &Begin) -> Result<Reply, Refusal> {
        check_begin(begin)?;
        let base = self.policy(&begin.namespace);
        let policy = effective_policy(&base, &begin.change)?;
        let attempt = begin.attempt.unwrap_or_else(|| self.next_attempt(begin));
        let (open, committed) = self.at_step(&begin.namespace, begin.step);
        if let Some(committed) = committed {
            if committed.attempt == attempt && is_of_job(begin, &committed.began) {
                // The same attempt would count as a retry of a checkpoint that must not be used.
                check_usable(committed)?;
                let mut begun = begun(committed);
                if !(committed.open_ended && begin.parts == 0) {
                    check_part_count(begin.parts, begun.parts)?;
                    begun.sealed = (0..begun.parts).collect();
                }
                return Ok(Reply::Begun(begun));
            }
            if !begin.replace && committed.quarantine.is_none() {
                return Err(Refusal::StepExists {
                    namespace: begin.namespace.clone(),
                    step: begin.step,
                    checkpoint: committed.id,
                });
            }
            check_fence(attempt, committed)?;
            self.check_unprotected(committed)?;
        }
        self.check_not_rolled_back(&begin.namespace, begin.step, attempt)?;
        let id = match open {
            Some(open) if open.attempt == attempt => {
                check_job(begin, open)?;
                check_part_count(begin.parts, open.parts_wanted)?;
                check_terms(begin, open)?;
                open.open.as_ref().map_or(Ok(()), check_room_for_begin)?;
                let id = open.id;
                self.join(id, begin);
                self.renew_idle(id);
                id
            }
            Some(open) => {
                check_fence(attempt, open)?;
                let id = open.id;
                self.fence(entry, id, attempt, begin, policy);
                self.renew_lease(id);
                id
            }
            None => {
                let id = self.open(entry, attempt, begin, policy);
                self.renew_lease(id);
                id
            }
        };
        if canary!("keep_last_at_begin") {
            self.say_keep_last(entry, &begin.namespace, begin.change.keep_last);
        }
        let first_part = if begin.parts == 0 { self.hand_out_parts(id) } else { 0 };
        self.checkpoints
            .get(&id)
            .map(|checkpoint| Reply::Begun(Begun { first_part, ..begun(checkpoint) }))
            .ok_or(Refusal::UnknownCheckpoint(id))
    }

    /// One above all attempts of the step, so that an upload takes over from a dead one independent
    /// of clocks.
    fn next_attempt(&self, begin: &Begin) -> Attempt {
        let seen = self.checkpoints_at(&begin.namespace, begin.step).map(|record| record.attempt.0);
        Attempt(seen.max().unwrap_or(0).saturating_add(1))
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

    fn open(
        &mut self,
        entry: Entry,
        attempt: Attempt,
        begin: &Begin,
        policy: Policy,
    ) -> CheckpointId {
        let id = CheckpointId(self.cluster.lineage.mint(self.cluster.next_checkpoint));
        self.cluster.next_checkpoint += 1;
        let checkpoint = Checkpoint {
            id,
            namespace: begin.namespace.clone(),
            step: begin.step,
            attempt,
            state: CheckpointState::Open,
            policy,
            began: began(begin, entry),
            parts_wanted: begin.parts,
            open_ended: begin.parts == 0,
            labels: begin.labels.clone(),
            metrics: BTreeMap::new(),
            quarantine: None,
            open: Some(upload(begin)),
            parts: Arc::default(),
            segments: IdSet::default(),
            loose: SegmentSet::default(),
            commit: None,
            bytes: 0,
            files: 0,
            segment_bytes: 0,
            new_bytes: 0,
            full: false,
            deleted_at_ms: None,
            deleted_for: None,
            now: false,
            dropped: SegmentSet::default(),
            dropped_until_ms: 0,
            deleted_by: String::new(),
            deleted_wall_ms: 0,
        };
        self.index.add_checkpoint(&checkpoint);
        self.checkpoints.insert(id, Arc::new(checkpoint));
        id
    }

    /// Another part begins. Its labels and terms are added to those of the other parts.
    fn join(&mut self, id: CheckpointId, begin: &Begin) {
        self.change_checkpoint(id, |checkpoint| {
            let labels = begin.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
            checkpoint.labels.extend(labels);
            if checkpoint.began.job.is_empty() {
                checkpoint.began.job.clone_from(&begin.job);
            }
            if let Some(upload) = &mut checkpoint.open {
                upload.keep_last = upload.keep_last.or(begin.change.keep_last);
            }
        });
    }

    /// A higher attempt takes the upload over. It starts empty, but the segments staged by the
    /// lower attempt stay referenced, so that the new one finds them durable.
    fn fence(
        &mut self,
        entry: Entry,
        id: CheckpointId,
        attempt: Attempt,
        begin: &Begin,
        policy: Policy,
    ) {
        let wanted = policy.replicas;
        let before = self.change_checkpoint(id, |checkpoint| {
            let before = checkpoint.policy.replicas;
            checkpoint.attempt = attempt;
            checkpoint.policy = policy;
            checkpoint.began = began(begin, entry);
            checkpoint.parts_wanted = begin.parts;
            checkpoint.labels.clone_from(&begin.labels);
            checkpoint.open_ended = begin.parts == 0;
            let mut upload = upload(begin);
            if checkpoint.open_ended {
                // Its parts refer to nothing yet.
                upload.voided = checkpoint.loose.clone();
            }
            checkpoint.open = Some(upload);
            (before, checkpoint.loose.clone())
        });
        // References are counted by wanted replicas, so they are counted again under the new
        // number.
        if let Some((before, loose)) = before
            && before != wanted
            && !canary!("taken_over_as_counted")
        {
            for segment in loose.iter() {
                self.change_segment(segment, |segment| {
                    segment.references.add(wanted);
                    subtract_reference(segment, before);
                });
            }
        }
    }

    /// The open upload that this command names, if the command may still change it.
    pub(super) fn open_upload(
        &self,
        id: CheckpointId,
        attempt: Attempt,
    ) -> Result<(&Checkpoint, &Upload), Refusal> {
        let checkpoint = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        check_fence(attempt, checkpoint)?;
        match &checkpoint.open {
            None if checkpoint.deleted_for == Some(DeletedFor::RolledBack) => {
                let (step, aborted) = (checkpoint.step, checkpoint.attempt);
                Err(Refusal::RolledBack { step, got: attempt, aborted })
            }
            None => Err(Refusal::NotOpen(id)),
            Some(_) if attempt != checkpoint.attempt => {
                Err(malformed(format!("attempt {attempt} of checkpoint {id} has not begun")))
            }
            Some(upload) => Ok((checkpoint, upload)),
        }
    }

    /// The upload to be changed, with its lease renewed. No index depends on its content.
    pub(super) fn renew_lease(&mut self, id: CheckpointId) -> Option<&mut Checkpoint> {
        let checkpoint = Arc::make_mut(self.checkpoints.get_mut(&id)?);
        let leases = if checkpoint.open_ended { OPEN_LEASES } else { 1 };
        let lease_ms = self.cluster.settings.lease_ms.saturating_mul(leases);
        let lease_until_ms = self.cluster.clock_ms.saturating_add(lease_ms);
        let upload = checkpoint.open.as_mut()?;
        (upload.lease_until_ms, upload.idle_since_ms) = (lease_until_ms, self.cluster.clock_ms);
        Some(checkpoint)
    }

    /// Renews a lease without work: nothing was staged or sealed. A lease is not renewed that
    /// way for ever, so that nobody holds a step by Renew alone.
    fn renew_idle(&mut self, id: CheckpointId) {
        let clock_ms = self.cluster.clock_ms;
        let upload = self.checkpoint(id).and_then(|record| record.open.as_ref());
        let Some(since_ms) = upload.map(|upload| upload.idle_since_ms) else { return };
        if clock_ms.saturating_sub(since_ms) > RENEWED_IDLE_MS_MAX {
            return;
        }
        if let Some(upload) = self.renew_lease(id).and_then(|record| record.open.as_mut()) {
            upload.idle_since_ms = since_ms;
        }
    }

    pub(super) fn renew(&mut self, uploads: &[(CheckpointId, Attempt)]) -> Result<Reply, Refusal> {
        check_batch("uploads", uploads.len(), BATCH_SEGMENTS_MAX)?;
        let mut tally = Tally::default();
        for (id, attempt) in uploads {
            let current = self.open_upload(*id, *attempt).is_ok();
            tally.count(current);
            if current && !canary!("renewal_is_forgotten") {
                self.renew_idle(*id);
            }
        }
        Ok(tally.reply())
    }

    pub(super) fn leader_started(&mut self) -> Result<Reply, Refusal> {
        let open: Vec<CheckpointId> = self.index.open.keys().copied().collect();
        for id in open {
            self.renew_idle(id);
        }
        Ok(Reply::Done)
    }

    pub(super) fn expire_uploads(
        &mut self,
        entry: Entry,
        ids: &[CheckpointId],
    ) -> Result<Reply, Refusal> {
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
                self.mark_deleted(entry, *id, DeletedFor::Expired, "");
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
        first_part: 0,
        // There may be many, and no writer of an open-ended upload asks for them.
        sealed: if checkpoint.open_ended { Vec::new() } else { checkpoint.sealed_parts() },
        committed: checkpoint.state == CheckpointState::Committed,
    }
}

fn began(begin: &Begin, entry: Entry) -> Began {
    let (client, job) = (begin.client.clone(), begin.job.clone());
    let subject = entry.subject.name().to_owned();
    Began { index: entry.index, wall_ms: entry.wall_ms, client, job, subject }
}

/// Whether this may be the job that began an attempt. An unnamed job may be any job.
fn is_of_job(begin: &Begin, began: &Began) -> bool {
    begin.job.is_empty() || began.job.is_empty() || begin.job == began.job
}

fn upload(begin: &Begin) -> Upload {
    Upload { replace: begin.replace, keep_last: begin.change.keep_last, ..Upload::default() }
}

fn check_begin(begin: &Begin) -> Result<(), Refusal> {
    match begin.attempt {
        Some(Attempt(attempt)) if attempt > ATTEMPT_MAX => {
            return Err(malformed(format!("attempt {attempt}, limit {ATTEMPT_MAX}")));
        }
        None if begin.parts > 1 => {
            return Err(malformed("parts of one checkpoint must name their attempt"));
        }
        _ => {}
    }
    for (what, name) in [("client", &begin.client), ("job", &begin.job)] {
        if name.len() > LABEL_BYTES_MAX || name.contains(char::is_control) {
            let limit = format!("at most {LABEL_BYTES_MAX} bytes, none of control");
            return Err(malformed(format!("a {what}'s name is {limit}")));
        }
    }
    if begin.parts > PARTS_MAX {
        return Err(malformed(format!("{} parts, limit {PARTS_MAX}", begin.parts)));
    }
    check_batch("labels", begin.labels.len(), LABELS_MAX)?;
    for (key, value) in &begin.labels {
        if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return Err(malformed(format!("a label is longer than {LABEL_BYTES_MAX} bytes")));
        }
    }
    Ok(())
}

fn check_fence(got: Attempt, record: &Checkpoint) -> Result<(), Refusal> {
    let is_blind = canary!("lower_attempt_replaces") && record.state == CheckpointState::Committed;
    if got >= record.attempt || is_blind {
        return Ok(());
    }
    Err(Refusal::Fenced {
        got,
        current: record.attempt,
        client: record.began.client.clone(),
        began_wall_ms: record.began.wall_ms,
    })
}

/// Whether this is the job that began the attempt. Two jobs with equal attempts have no order. If
/// they joined, their parts would be mixed in one checkpoint.
fn check_job(begin: &Begin, open: &Checkpoint) -> Result<(), Refusal> {
    if is_of_job(begin, &open.began) {
        return Ok(());
    }
    Err(Refusal::OtherJob {
        attempt: open.attempt,
        got: begin.job.clone(),
        current: open.began.job.clone(),
        client: open.began.client.clone(),
        began_wall_ms: open.began.wall_ms,
    })
}

/// Whether the terms of this part equal those of the parts before it. Terms that it does not name
/// are taken from them.
fn check_terms(begin: &Begin, open: &Checkpoint) -> Result<(), Refusal> {
    let other = |what: &str, got: &dyn std::fmt::Display, current: &dyn std::fmt::Display| {
        let (got, current) = (got.to_string(), current.to_string());
        Err(Refusal::OtherTerms { what: what.to_owned(), got, current })
    };
    let (change, policy) = (&begin.change, &open.policy);
    let keep_last = open.open.as_ref().and_then(|upload| upload.keep_last);
    let numbers = [
        ("the number of replicas", change.replicas, Some(policy.replicas)),
        ("the write quorum", change.write_quorum, Some(policy.write_quorum)),
        ("the rack minimum", change.min_racks, Some(policy.min_racks)),
        ("keep-last", change.keep_last, keep_last),
    ];
    for (what, got, current) in numbers {
        if let (Some(got), Some(current)) = (got, current)
            && got != current
        {
            return other(what, &got, &current);
        }
    }
    if let Some(isolation) = change.isolation
        && isolation != policy.isolation
    {
        return other("isolation", &isolation, &policy.isolation);
    }
    let mut labels = open.labels.len();
    for (key, value) in &begin.labels {
        match open.labels.get(key) {
            Some(current) if current != value => {
                return other(&format!("label {key}"), value, current);
            }
            Some(_) => {}
            None => labels += 1,
        }
    }
    check_batch("labels of all parts", labels, LABELS_MAX)
}

fn check_part_count(got: u32, current: u32) -> Result<(), Refusal> {
    if got == current { Ok(()) } else { Err(Refusal::PartCount { got, current }) }
}

/// Removes one reference from the count.
pub(super) fn subtract_reference(segment: &mut Segment, replicas: u32) {
    let was_there = segment.references.subtract(replicas);
    debug_assert!(was_there, "segment {} has no such reference", segment.id);
}

/// The union of the segments of an upload's sealed parts.
pub(super) fn union(upload: &Upload) -> SegmentSet {
    let mut all = SegmentSet::default();
    for part in upload.parts.values() {
        all.unite(&part.staged);
    }
    all
}
