//! Policies and where they come from; plans of retention; runs of it that wait.

use cairn_core::catalogue::{Catalogue, RetentionPlan};
use cairn_core::retention::{Reason, TimeZone, UnknownTimeZone};
use cairn_core::steward::Waiting;
use cairn_proto::wire;
use cairn_types::command::{Body, Refusal};
use cairn_types::convert;
use cairn_types::ids::Namespace;
use cairn_types::limits::{POLICIES_PAGE_MAX, RETENTION_PAGE_MAX};
use cairn_types::model::OwnPolicy;
use cairn_types::policy::lineage;
use tonic::Status;

use crate::caller::Caller;
use crate::shared::{LeaderState, Member};

/// Runs that a status names: what a person reads.
const NAMED_MAX: usize = 16;

/// How many runs wait, and the first of them; nothing on a node that does not lead.
pub(super) fn waiting(member: &Member, leader: &LeaderState) -> (u64, Vec<wire::RetentionWaiting>) {
    if !member.consensus.is_leader() {
        return (0, Vec::new());
    }
    let found = leader.retention_runs.of(member.consensus.term());
    let one = |waiting: &Waiting| wire::RetentionWaiting {
        namespace: waiting.namespace.to_string(),
        policy_version: waiting.policy_version,
        checkpoints: waiting.checkpoints,
    };
    (found.len() as u64, found.iter().take(NAMED_MAX).map(one).collect())
}

/// Refuses a policy in a time zone that this build does not know. Builds may know different ones, so
/// apply cannot tell.
pub(super) fn check(body: &Body) -> Result<(), Refusal> {
    let Body::SetPolicy(set) = body else { return Ok(()) };
    let zone = set.retention.time_zone.as_deref();
    zone.map_or(Ok(()), |zone| TimeZone::named(zone).map(drop)).map_err(unknown_zone)
}

fn unknown_zone(unknown: UnknownTimeZone) -> Refusal {
    Refusal::Malformed(unknown.to_string())
}

/// A page of the namespaces that say something themselves, of those that `is_shown` admits.
pub(super) fn policies(
    catalogue: &Catalogue,
    prefix: Option<&Namespace>,
    after: Option<&Namespace>,
    is_shown: impl Fn(&Namespace) -> bool,
) -> wire::ListPoliciesReply {
    let mut reply = wire::ListPoliciesReply::default();
    for (name, record) in catalogue.namespaces() {
        let is_listed = after.is_none_or(|after| name > after)
            && prefix.is_none_or(|prefix| name.is_at_or_below(prefix))
            && !record.is_plain()
            && is_shown(name);
        if !is_listed {
            continue;
        }
        if reply.namespaces.len() == POLICIES_PAGE_MAX {
            reply.more = true;
            break;
        }
        let own = Some(convert::own_policy_to_wire(&record.own));
        reply.namespaces.push(wire::NamespacePolicy { namespace: name.to_string(), own });
    }
    reply
}

pub(super) fn policy(catalogue: &Catalogue, namespace: &Namespace) -> wire::ShowPolicyReply {
    let said = lineage(namespace).filter_map(|name| {
        let record = name.parse().ok().and_then(|name| catalogue.namespace(&name))?;
        let own = match name == namespace.as_str() {
            true => record.own.clone(),
            false => record.inherited(),
        };
        (own != OwnPolicy::default()).then(|| wire::NamespacePolicy {
            namespace: name.to_owned(),
            own: Some(convert::own_policy_to_wire(&own)),
        })
    });
    let record = catalogue.namespace(namespace);
    let confirmed = record.and_then(|record| record.confirmed.as_ref());
    wire::ShowPolicyReply {
        said: said.collect(),
        policy_version: catalogue.policy_version(namespace),
        confirmed: confirmed.map(convert::confirmed_to_wire),
    }
}

/// What retention would do, by the leader's clock.
pub(super) async fn plan(
    member: &Member,
    caller: &Caller,
    namespace: Namespace,
    what_if: OwnPolicy,
    before_commit: u64,
) -> Result<wire::PlanRetentionReply, Status> {
    if let Some(problem) = what_if.retention.problem() {
        return Err(Status::invalid_argument(problem));
    }
    caller.read_index(member).await?;
    if !member.consensus.is_leader() {
        return Err(member.not_leader());
    }
    let now_ms = member.label_ms();
    let walk = move |catalogue: &Catalogue| {
        let retention = catalogue.full_policy(&namespace).below(&what_if).retention;
        let plan = catalogue.retention_plan(&namespace, Some(retention), now_ms)?;
        Ok::<_, UnknownTimeZone>(page(catalogue, &plan, before_commit))
    };
    let planned = member.walk(walk).await;
    let planned =
        planned.map_err(|error| cairn_proto::refused::refusal_status(&unknown_zone(error)))?;
    Ok(wire::PlanRetentionReply { now_ms, ..planned })
}

fn page(
    catalogue: &Catalogue,
    plan: &RetentionPlan,
    before_commit: u64,
) -> wire::PlanRetentionReply {
    // The oldest goes first.
    let mut gone: Vec<_> = plan.let_go().collect();
    gone.reverse();
    let mut freed = catalogue.freed_by(gone.iter().copied());
    let bytes_freed = freed.iter().sum();
    let mut checkpoints = Vec::new();
    let mut more = false;
    for (record, reasons) in &plan.checkpoints {
        let frees = if reasons.is_empty() { freed.pop().unwrap_or(0) } else { 0 };
        let Some(commit) = record.commit else { continue };
        if before_commit != 0 && commit.index >= before_commit {
            continue;
        }
        if checkpoints.len() == RETENTION_PAGE_MAX {
            more = true;
            break;
        }
        let reason = |reason: &Reason| wire::KeptReason {
            rule: reason.rule().to_owned(),
            detail: reason.detail(),
        };
        checkpoints.push(wire::PlannedCheckpoint {
            checkpoint: record.id.0,
            step: record.step.0,
            commit_index: commit.index,
            commit_wall_ms: commit.wall_ms,
            bytes: record.bytes,
            reasons: reasons.iter().map(reason).collect(),
            frees,
        });
    }
    wire::PlanRetentionReply {
        policy_version: plan.policy_version,
        now_ms: 0,
        checkpoints_total: plan.checkpoints.len() as u64,
        checkpoints_let_go: gone.len() as u64,
        bytes_freed,
        large: plan.is_large(),
        confirmed: plan.confirmed,
        checkpoints,
        more,
    }
}
