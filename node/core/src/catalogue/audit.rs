//! The audit: a record of each command that somebody asked for, and the chain over all of them (T2).
//!
//! A pure function of the log, like the events. The record itself is taken by the caller of apply;
//! the end of the chain is part of the cluster's record, so that a node that gets a snapshot goes on
//! with the chain of the others. The chain begins when the cluster reaches [`AUDIT_LEVEL`].
//!
//! | recorded | not recorded |
//! |---|---|
//! | commands of clients and operators, also refused ones | `Stage` and `Renew`, which only carry an upload on; `Lacking` seals, which did nothing |
//! | retention's deletions, new nodes and their starts, feature levels | reports of replicas, liveness, slots, the clock |
//!
//! A repeated request has no second record (C4). Commands that a node refuses before they reach the
//! log have none.

use cairn_types::audit::{AuditHead, AuditObject, AuditRecord, AuditResult, Audited};
use cairn_types::command::{
    AUDIT_LEVEL, Body, Command, Delete, DeleteReason, NewDuty, Refusal, Reply,
};
use cairn_types::ids::{CheckpointId, Namespace};
use cairn_types::limits::{AUDIT_RECORD_BYTES_MAX, AUDIT_TEXT_BYTES_MAX};

use super::Catalogue;

impl Catalogue {
    /// The record of the last entry, if it has one. `None` when it is asked again.
    pub fn take_audited(&mut self) -> Option<Audited> {
        self.audited.take()
    }

    /// A copy whose audit ends there: to compare the rest. A refused command has a record, and no
    /// other effect.
    pub fn with_audit(&self, head: AuditHead) -> Self {
        let mut copy = self.clone();
        copy.cluster.audit = head;
        copy
    }

    pub(super) fn record(
        &mut self,
        term: u64,
        index: u64,
        command: &Command,
        mut object: AuditObject,
        reply: &Reply,
    ) {
        if self.cluster.feature_level < AUDIT_LEVEL {
            return;
        }
        let result = match reply {
            Reply::Lacking { .. } => return,
            Reply::Committed { .. } => AuditResult::Committed,
            Reply::Refused(refusal) => AuditResult::Refused(refusal.clone()),
            Reply::Begun(begun) => {
                object.checkpoint = Some(begun.checkpoint);
                AuditResult::Accepted
            }
            Reply::NodeAllocated { node } => {
                object.node = Some(*node);
                AuditResult::Accepted
            }
            _ => AuditResult::Accepted,
        };
        let before = self.cluster.audit;
        let mut record = AuditRecord {
            number: before.count + 1,
            term,
            index,
            wall_ms: command.wall_ms,
            request: command.request,
            subject: (&command.subject).into(),
            command: command.body.name().to_owned(),
            object,
            result,
        };
        let mut body = record.encode();
        if body.len() > AUDIT_RECORD_BYTES_MAX {
            let text = "the refusal is too long for the audit";
            record.result = AuditResult::Refused(Refusal::Malformed(text.to_owned()));
            body = record.encode();
        }
        let head = before.after(index, &body);
        self.cluster.audit = head;
        self.audited = Some(Audited { before, head, body });
    }
}

/// What a command names, before it takes effect. `None` for commands without a record.
pub(super) fn object(catalogue: &Catalogue, body: &Body) -> Option<AuditObject> {
    let none = AuditObject::default;
    let of = |id: CheckpointId| {
        let record = catalogue.checkpoints.get(&id);
        AuditObject {
            namespace: record.map(|record| record.namespace.clone()),
            step: record.map(|record| record.step),
            checkpoint: Some(id),
            ..none()
        }
    };
    let within =
        |namespace: &Namespace| AuditObject { namespace: Some(namespace.clone()), ..none() };
    let object = match body {
        Body::Begin(it) => AuditObject {
            step: Some(it.step),
            detail: cut(if it.replace { "replace" } else { "" }),
            client: cut(&it.client),
            ..within(&it.namespace)
        },
        Body::SealPart(it) => {
            AuditObject { detail: format!("part {}", it.part), ..of(it.checkpoint) }
        }
        Body::DropPart(it) => {
            AuditObject { detail: format!("part {}", it.part), ..of(it.checkpoint) }
        }
        Body::Close(it) => of(it.checkpoint),
        Body::Annotate(it) => {
            let set = it.labels.keys().chain(it.metrics.keys());
            let removed = it.remove.iter().map(|name| format!("-{name}"));
            let names: Vec<String> = set.cloned().chain(removed).collect();
            AuditObject { detail: cut(&names.join(" ")), ..of(it.checkpoint) }
        }
        Body::SetRef(it) => {
            let target = it.checkpoint.map(of).unwrap_or_else(none);
            AuditObject {
                checkpoint: it.checkpoint,
                // Another namespace's checkpoint is refused; its step is not told here.
                step: target.step.filter(|_| target.namespace.as_ref() == Some(&it.namespace)),
                reference: it.name.to_string(),
                client: cut(&it.by),
                ..within(&it.namespace)
            }
        }
        Body::AddHold(it) => {
            AuditObject { detail: pair(&it.owner, &it.reason), ..of(it.checkpoint) }
        }
        Body::ReleaseHold(it) => AuditObject { detail: cut(&it.owner), ..of(it.checkpoint) },
        Body::SetQuarantine(it) => {
            let what = if it.lift { "lift" } else { "set" };
            AuditObject { detail: pair(what, &it.reason), client: cut(&it.by), ..of(it.checkpoint) }
        }
        Body::Rollback(it) => {
            AuditObject { detail: cut(&it.reason), client: cut(&it.by), ..of(it.checkpoint) }
        }
        Body::Delete(it) => {
            AuditObject { detail: of_delete(it), client: cut(&it.by), ..of(it.checkpoint) }
        }
        Body::Undelete(it) => AuditObject { client: cut(&it.by), ..of(it.checkpoint) },
        Body::SetPolicy(it) => within(&it.namespace),
        Body::ConfirmRetention(it) => AuditObject {
            detail: format!("{} checkpoints, policy {}", it.checkpoints, it.policy_version),
            ..within(&it.namespace)
        },
        Body::RepairTime(it) => {
            AuditObject { detail: format!("to {} ms", it.to_ms), ..within(&it.namespace) }
        }
        Body::InitCluster(it) => AuditObject { detail: cut(&it.node.address), ..none() },
        Body::AllocateNode(it) => AuditObject { detail: cut(&it.address), ..none() },
        Body::Register(it) => {
            AuditObject { node: Some(it.node), detail: cut(&it.address), ..none() }
        }
        Body::RemoveNode(it) => AuditObject { node: Some(it.node), ..none() },
        Body::SetDuty(it) => {
            let detail = match it.duty {
                NewDuty::Serve => "serve".to_owned(),
                NewDuty::Drain => "drain".to_owned(),
                NewDuty::Maintain { for_ms } => format!("maintain for {for_ms} ms"),
            };
            AuditObject { node: Some(it.node), detail, ..none() }
        }
        Body::RaiseFeatureLevel(it) => {
            AuditObject { detail: format!("level {}", it.level), ..none() }
        }
        Body::SetIssuer(it) => {
            let what = if it.key.is_some() { "add" } else { "remove" };
            AuditObject { detail: pair(what, &it.name), ..none() }
        }
        Body::RevokeToken(it) => {
            AuditObject { detail: pair(&it.token.to_string(), &it.reason), ..none() }
        }
        Body::RequireTokens(it) => {
            let what = if it.required { "required" } else { "not required" };
            AuditObject { detail: cut(what), ..none() }
        }
        Body::Inventory(_)
        | Body::SetLiveness(_)
        | Body::VoidSlots(_)
        | Body::ForgetNodes(_)
        | Body::Stage(_)
        | Body::Durable(_)
        | Body::Lost(_)
        | Body::Declined(_)
        | Body::Removed(_)
        | Body::Renew(_)
        | Body::LeaderStarted(_)
        | Body::ExpireUploads(_)
        | Body::DropReferences(_)
        | Body::Reap(_)
        | Body::AssignSlots(_)
        | Body::ReleaseSlots(_) => return None,
    };
    Some(object)
}

fn of_delete(delete: &Delete) -> String {
    let words = [
        (delete.reason == DeleteReason::Retention, "retention"),
        (delete.now, "now"),
        (delete.force, "force"),
    ];
    let words: Vec<&str> =
        words.iter().filter(|(is_so, _)| *is_so).map(|(_, word)| *word).collect();
    words.join(" ")
}

fn pair(first: &str, second: &str) -> String {
    match second {
        "" => cut(first),
        _ => cut(&format!("{first}: {second}")),
    }
}

/// The first `AUDIT_TEXT_BYTES_MAX` bytes, or fewer, as a character is not divided.
fn cut(text: &str) -> String {
    let mut end = text.len().min(AUDIT_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
