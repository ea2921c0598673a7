//! Whether a command may take effect on its subject's behalf (T1). The receiving node checks this,
//! so that refused commands are not written to the log. Apply checks it again, so that no receiving
//! node has to be trusted.
//!
//! ```text
//!   subject by token? --no--> may: a holder of the key, or a process of this machine
//!        | yes
//!   issuer still there, token not revoked --> namespace of the object --> Grant::allows
//!        --> owner of the upload, owner of the ref, bound of the attempt
//! ```
//!
//! An object that a subject has no right to see is unknown to it. A checkpoint in a namespace
//! without a right is refused like one that does not exist.

use std::collections::BTreeSet;

use cairn_types::canary;
use cairn_types::command::{Annotate, Begin, Body, Delete, Refusal, SetRef};
use cairn_types::ids::{Attempt, CheckpointId, Namespace, SegmentId};
use cairn_types::limits::ATTEMPT_AHEAD_MS;
use cairn_types::rights::{Need, Right, Subject, TokenSubject};

use super::{Catalogue, Checkpoint};

impl Catalogue {
    /// Refuses a command that the subject has no right to. `wall_ms` is the leader's wall clock,
    /// which bounds attempts.
    pub fn authorize(&self, subject: &Subject, body: &Body, wall_ms: u64) -> Result<(), Refusal> {
        let Some(token) = subject.token() else { return Ok(()) };
        self.access.check(token)?;
        match body {
            Body::Begin(begin) => self.may_begin(token, begin, wall_ms),
            Body::Stage(stage) => self.may_upload(token, stage.checkpoint),
            Body::SealPart(seal) => self.may_upload(token, seal.checkpoint),
            Body::DropPart(drop) => self.may_upload(token, drop.checkpoint),
            Body::Close(close) => self.may_upload(token, close.checkpoint),
            Body::Renew(renew) => {
                let mut ids = renew.uploads.iter().map(|(id, _)| *id);
                ids.try_for_each(|id| self.may_upload(token, id))
            }
            Body::Delete(delete) => self.may_delete(token, delete),
            Body::SetRef(set) => self.may_set_ref(token, set),
            Body::Annotate(annotate) => self.may_annotate(token, annotate),
            Body::Undelete(it) => self.may_touch(token, body.need(), it.checkpoint),
            Body::AddHold(it) => self.may_touch(token, body.need(), it.checkpoint),
            Body::ReleaseHold(it) => self.may_touch(token, body.need(), it.checkpoint),
            Body::SetQuarantine(it) => self.may_touch(token, body.need(), it.checkpoint),
            Body::Rollback(it) => self.may_touch(token, body.need(), it.checkpoint),
            Body::SetPolicy(it) => may_in(token, body.need(), &it.namespace),
            Body::ConfirmRetention(it) => may_in(token, body.need(), &it.namespace),
            Body::RepairTime(it) => may_in(token, body.need(), &it.namespace),
            Body::RemoveNode(_)
            | Body::SetDuty(_)
            | Body::RevokeToken(_)
            | Body::RequireTokens(_) => may_everywhere(token, body.need()),
            // An issuer outlives the token that would add it, and its tokens outlive a revocation
            // of that token. So issuers are left to the holders of the key.
            Body::SetIssuer(_) => Err(not_allowed(token, body.words(), "this cluster")),
            Body::InitCluster(_)
            | Body::AllocateNode(_)
            | Body::Register(_)
            | Body::Inventory(_)
            | Body::SetLiveness(_)
            | Body::VoidSlots(_)
            | Body::ForgetNodes(_)
            | Body::RaiseFeatureLevel(_)
            | Body::Durable(_)
            | Body::Lost(_)
            | Body::Declined(_)
            | Body::Removed(_)
            | Body::LeaderStarted(_)
            | Body::ExpireUploads(_)
            | Body::DropReferences(_)
            | Body::Reap(_)
            | Body::AssignSlots(_)
            | Body::ReleaseSlots(_) => Err(not_allowed(token, body.words(), "this cluster")),
        }
    }

    /// The checkpoint, if the subject may know that it exists.
    pub fn known_to(&self, token: &TokenSubject, id: CheckpointId) -> Result<&Checkpoint, Refusal> {
        let record = self.checkpoint(id).filter(|record| token.grant.knows(&record.namespace));
        record.map(|record| &**record).ok_or(Refusal::UnknownCheckpoint(id))
    }

    /// Of `segments`, those that the subject may read (`Right::Read`) or send (`Right::Write`) on account
    /// of the checkpoint `about`. A digest is no capability: who knows one has no right by that.
    pub fn on_account_of(
        &self,
        token: &TokenSubject,
        about: Option<CheckpointId>,
        right: Right,
        segments: &BTreeSet<SegmentId>,
    ) -> BTreeSet<SegmentId> {
        let record = about.and_then(|id| self.known_to(token, id).ok());
        let allowed = record.filter(|record| {
            let is_theirs = is_own(token, record);
            let is_open_to = match right {
                Right::Read => record.commit.is_some() || is_theirs,
                _ => is_theirs,
            };
            is_open_to && token.grant.allows(right, &record.namespace)
        });
        let Some(record) = allowed else { return BTreeSet::new() };
        let mut found: BTreeSet<SegmentId> =
            segments.iter().copied().filter(|id| record.loose.contains(*id)).collect();
        if found.len() < segments.len() {
            found.extend(record.segments.iter().filter(|id| segments.contains(id)));
        }
        found
    }

    fn may_touch(&self, token: &TokenSubject, need: Need, id: CheckpointId) -> Result<(), Refusal> {
        may_in(token, need, &self.known_to(token, id)?.namespace)
    }

    /// Stage, SealPart and Renew need one's own upload. An upload that has committed meanwhile is
    /// answered as for any subject that may write there.
    fn may_upload(&self, token: &TokenSubject, id: CheckpointId) -> Result<(), Refusal> {
        let record = self.known_to(token, id)?;
        may_in(token, Need::Write, &record.namespace)?;
        may_change(token, record)
    }

    fn may_begin(&self, token: &TokenSubject, begin: &Begin, wall_ms: u64) -> Result<(), Refusal> {
        let namespace = &begin.namespace;
        may_in(token, Need::Write, namespace)?;
        if begin.replace || begin.change.keep_last.is_some() {
            may_in(token, Need::Delete, namespace)?;
        }
        if let Some(Attempt(attempt)) = begin.attempt
            && attempt > wall_ms.saturating_add(ATTEMPT_AHEAD_MS)
            && !token.grant.allows(Right::Delete, namespace)
        {
            let what = format!("begin attempt {attempt} at {wall_ms} ms: too far ahead");
            return Err(not_allowed(token, &what, namespace.as_str()));
        }
        for record in self.checkpoints_at(namespace, begin.step) {
            // A checkpoint in quarantine is replaced even without a request to replace it.
            if record.is_committed() && record.quarantine.is_some() && !is_own(token, record) {
                may_in(token, Need::Delete, namespace)?;
            }
            let Some(upload) = &record.open else { continue };
            let is_fenced = begin.attempt.is_none_or(|attempt| attempt > record.attempt);
            let is_over = self.cluster.clock_ms > upload.lease_until_ms;
            match is_fenced {
                true if is_over => {}
                true => may_end(token, record)?,
                false => may_change(token, record)?,
            }
        }
        Ok(())
    }

    fn may_delete(&self, token: &TokenSubject, delete: &Delete) -> Result<(), Refusal> {
        let record = self.known_to(token, delete.checkpoint)?;
        match record.open {
            // Abandoning one's own upload destroys no promised data.
            Some(_) if is_own(token, record) => may_in(token, Need::Write, &record.namespace),
            Some(_) => may_end(token, record),
            None if canary!("write_deletes") => may_in(token, Need::Write, &record.namespace),
            None => may_in(token, Need::Delete, &record.namespace),
        }
    }

    /// A ref keeps its checkpoint from retention. So a subject without the right to delete moves
    /// only refs that it set itself.
    fn may_set_ref(&self, token: &TokenSubject, set: &SetRef) -> Result<(), Refusal> {
        may_in(token, Need::Write, &set.namespace)?;
        if let Some(id) = set.checkpoint {
            self.known_to(token, id)?;
        }
        if token.grant.allows(Right::Delete, &set.namespace) {
            return Ok(());
        }
        if set.checkpoint.is_none() {
            return may_in(token, Need::Delete, &set.namespace);
        }
        let found = self.refs(&set.namespace).find(|(name, _)| **name == set.name);
        let last = found.and_then(|(_, target)| target.history.last());
        match last.filter(|last| last.subject != token.name) {
            Some(last) => {
                let (what, owner) = (format!("ref {}", set.name), last.subject.clone());
                Err(Refusal::NotOwner { what, owner })
            }
            None => Ok(()),
        }
    }

    /// Labels and metrics decide which checkpoints retention keeps: another checkpoint with a better
    /// metric takes the place of the best one. So a subject without the right to delete sets them on
    /// its own checkpoints only.
    fn may_annotate(&self, token: &TokenSubject, annotate: &Annotate) -> Result<(), Refusal> {
        let record = self.known_to(token, annotate.checkpoint)?;
        match is_own(token, record) {
            true => may_in(token, Need::Write, &record.namespace),
            false => may_in(token, Need::Delete, &record.namespace),
        }
    }
}

/// Whether the subject's token began the upload, or a token of the same name did.
fn is_own(token: &TokenSubject, record: &Checkpoint) -> bool {
    record.began.subject == token.name || canary!("uploads_are_anyones")
}

/// Refuses to end another subject's upload, by Delete or a higher attempt. Who may delete there may
/// end it. Otherwise a subject could hold a step for ever.
fn may_end(token: &TokenSubject, record: &Checkpoint) -> Result<(), Refusal> {
    match token.grant.allows(Right::Delete, &record.namespace) {
        true => Ok(()),
        false => may_change(token, record),
    }
}

/// Refuses to change another subject's upload.
fn may_change(token: &TokenSubject, record: &Checkpoint) -> Result<(), Refusal> {
    if is_own(token, record) || token.grant.allows(Right::Operate, &record.namespace) {
        return Ok(());
    }
    let what = format!("upload {}", record.id);
    Err(Refusal::NotOwner { what, owner: record.began.subject.clone() })
}

fn may_in(token: &TokenSubject, need: Need, namespace: &Namespace) -> Result<(), Refusal> {
    match need.right() {
        Some(right) if token.grant.allows(right, namespace) => Ok(()),
        Some(right) => Err(not_allowed(token, right.word(), namespace.as_str())),
        None => Err(not_allowed(token, "speak for a node", namespace.as_str())),
    }
}

fn may_everywhere(token: &TokenSubject, need: Need) -> Result<(), Refusal> {
    match need.right() {
        Some(right) if token.grant.allows_everywhere(right) => Ok(()),
        Some(right) => Err(not_allowed(token, right.word(), "every namespace")),
        None => Err(not_allowed(token, "speak for a node", "this cluster")),
    }
}

fn not_allowed(token: &TokenSubject, right: &str, place: &str) -> Refusal {
    let (subject, right, place) = (token.name.clone(), right.to_owned(), place.to_owned());
    Refusal::NotAllowed { subject, right, place }
}
