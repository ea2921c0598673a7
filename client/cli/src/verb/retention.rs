//! `cairn retention plan`, `confirm`

use cairn_client::{ClusterStatus, KeptReason, PlannedCheckpoint, RetentionPlan};
use cairn_types::ids::Namespace;
use cairn_types::model::OwnPolicy;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::keep::{KeepArgs, span};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct RetentionArgs {
    #[command(subcommand)]
    verb: RetentionVerb,
}

#[derive(Debug, Subcommand)]
enum RetentionVerb {
    /// Show which checkpoints the rules keep, and why; with flags, as if `cairn policy set` had been
    /// given them: `cairn retention plan llama/pretrain --keep-last 3`. It is of this namespace alone,
    /// and not of those below it
    Plan(Box<PlanArgs>),
    /// Agree to a large run: one that deletes more than 30 % of a namespace with more than 10
    /// checkpoints
    Confirm(ConfirmArgs),
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
    #[command(flatten)]
    keep: KeepArgs,
}

#[derive(Debug, Args)]
struct ConfirmArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
    /// Refuse unless exactly so many checkpoints are let go [default: as many as the plan says now]
    #[arg(long, value_name = "COUNT")]
    checkpoints: Option<u64>,
    /// Refuse unless the policy is at this version [default: the one in force]
    #[arg(long, value_name = "VERSION")]
    policy_version: Option<u64>,
}

pub fn run(session: &Session, args: RetentionArgs) -> Outcome {
    match args.verb {
        RetentionVerb::Plan(args) => plan(session, &args),
        RetentionVerb::Confirm(args) => confirm(session, &args),
    }
}

fn plan(session: &Session, args: &PlanArgs) -> Outcome {
    what_if(session, &args.namespace, &args.keep.policy()?)
}

/// What the rules of a namespace would do if it also said `what_if`.
pub(super) fn what_if(session: &Session, name: &Namespace, what_if: &OwnPolicy) -> Outcome {
    let plan = session.with_client(async |client| client.plan_retention(name, what_if).await)?;
    let is_what_if = *what_if != OwnPolicy::default();
    let document = document(name, &plan, is_what_if);
    session.output.result(&document, || text(name, &plan, is_what_if))?;
    Ok(Exit::Ok)
}

fn confirm(session: &Session, args: &ConfirmArgs) -> Outcome {
    let name = &args.namespace;
    let nothing = OwnPolicy::default();
    let mut seen = None;
    session.with_client(async |client| {
        let plan = client.plan_retention(name, &nothing).await?;
        if check(&plan, args).is_ok() {
            client.confirm_retention(name, plan.policy_version, plan.let_go).await?;
        }
        seen = Some(plan);
        Ok(())
    })?;
    let plan = seen.unwrap_or_default();
    check(&plan, args)?;
    let document = ConfirmedDocument {
        namespace: name.as_str(),
        policy_version: plan.policy_version,
        confirmed: plan.let_go,
        bytes_freed: plan.bytes_freed,
    };
    session.output.result(&document, || {
        let checkpoints = plural(plan.let_go, "checkpoint");
        let size = bytes(plan.bytes_freed);
        format!("confirmed: retention deletes {checkpoints} of {name}, {size}\n")
    })?;
    Ok(Exit::Ok)
}

/// Whether the plan is what the caller agrees to.
fn check(plan: &RetentionPlan, args: &ConfirmArgs) -> Result<(), Failure> {
    let name = &args.namespace;
    let refused = |text: String| {
        let hint = format!("`cairn retention plan {name}` shows what would be deleted");
        Err(Failure::new(Exit::Refused, anyhow::anyhow!(text)).with_hint(hint))
    };
    if let Some(version) = args.policy_version.filter(|version| *version != plan.policy_version) {
        let current = plan.policy_version;
        return refused(format!("the policy of {name} is at version {current}, not {version}"));
    }
    if let Some(count) = args.checkpoints.filter(|count| *count != plan.let_go) {
        let checkpoints = plural(plan.let_go, "checkpoint");
        return refused(format!("retention lets {checkpoints} of {name} go, not {count}"));
    }
    if !plan.large {
        return refused(format!("retention of {name} waits for no confirmation"));
    }
    Ok(())
}

/// Runs that wait for a confirmation. Only a leader knows.
pub fn problems(status: &ClusterStatus) -> Vec<String> {
    let mut problems = Vec::new();
    for waiting in &status.first_waiting {
        let (name, checkpoints) = (&waiting.namespace, plural(waiting.checkpoints, "checkpoint"));
        problems.push(format!(
            "namespace {name}: retention waits to delete {checkpoints}; `cairn retention plan \
             {name}` shows them, `cairn retention confirm {name}` lets them go"
        ));
    }
    let others = status.namespaces_waiting.saturating_sub(status.first_waiting.len() as u64);
    if others > 0 {
        problems.push(format!("retention of {others} more waits for a confirmation"));
    }
    problems
}

/// `retention confirm`.
#[derive(Serialize)]
struct ConfirmedDocument<'a> {
    namespace: &'a str,
    policy_version: u64,
    confirmed: u64,
    bytes_freed: u64,
}

/// `retention plan`.
#[derive(Serialize)]
pub(super) struct PlanDocument<'a> {
    namespace: &'a str,
    what_if: bool,
    policy_version: u64,
    at_ms: u64,
    let_go: u64,
    bytes_freed: u64,
    large: bool,
    confirmed: u64,
    waits: bool,
    checkpoints: Vec<PlannedRecord<'a>>,
}

#[derive(Serialize)]
struct PlannedRecord<'a> {
    step: u64,
    id: u64,
    committed_ms: u64,
    bytes: u64,
    kept: bool,
    reasons: Vec<ReasonRecord<'a>>,
    bytes_freed: u64,
}

/// A rule that keeps a checkpoint.
#[derive(Serialize)]
struct ReasonRecord<'a> {
    rule: &'a str,
    detail: &'a str,
}

pub(super) fn document<'a>(
    name: &'a Namespace,
    plan: &'a RetentionPlan,
    what_if: bool,
) -> PlanDocument<'a> {
    let reason =
        |reason: &'a KeptReason| ReasonRecord { rule: &reason.rule, detail: &reason.detail };
    let one = |planned: &'a PlannedCheckpoint| PlannedRecord {
        step: planned.step.0,
        id: planned.id.0,
        committed_ms: planned.commit_wall_ms,
        bytes: planned.bytes,
        kept: planned.is_kept(),
        reasons: planned.reasons.iter().map(reason).collect(),
        bytes_freed: planned.frees,
    };
    PlanDocument {
        namespace: name.as_str(),
        what_if,
        policy_version: plan.policy_version,
        at_ms: plan.now_ms,
        let_go: plan.let_go,
        bytes_freed: plan.bytes_freed,
        large: plan.large,
        confirmed: plan.confirmed,
        waits: plan.waits(),
        checkpoints: plan.checkpoints.iter().map(one).collect(),
    }
}

/// `daily 2026-11-30`.
fn reason_text(reason: &KeptReason) -> String {
    let number = || reason.detail.parse().unwrap_or(0);
    match (reason.rule.as_str(), reason.detail.as_str()) {
        (rule, "") => rule.to_owned(),
        ("hold", detail) => detail.to_owned(),
        ("within", _) => format!("within {}", span(number())),
        ("quarantined", _) => format!("quarantined until {}", wall_time(number())),
        (rule, detail) => format!("{rule} {detail}"),
    }
}

pub(super) fn text(name: &Namespace, plan: &RetentionPlan, is_what_if: bool) -> String {
    let mut rows = vec![["STEP", "COMMITTED", "SIZE", "KEPT BY"].map(str::to_owned).to_vec()];
    for planned in &plan.checkpoints {
        let reasons: Vec<String> = planned.reasons.iter().map(reason_text).collect();
        rows.push(vec![
            planned.step.to_string(),
            wall_time(planned.commit_wall_ms),
            bytes(planned.bytes),
            match planned.is_kept() {
                true => reasons.join(", "),
                false => format!("- let go, frees {}", bytes(planned.frees)),
            },
        ]);
    }
    let mut text = if plan.checkpoints.is_empty() { String::new() } else { table(&rows) };
    let all = plural(plan.checkpoints.len() as u64, "checkpoint");
    let freed = bytes(plan.bytes_freed);
    let would = if is_what_if { "would let" } else { "lets" };
    text.push_str(&format!("{would} {} of {all} go, which frees {freed}\n", plan.let_go));
    text.push_str(&format!("this is {name} alone: each namespace below it has its own plan\n"));
    if plan.waits() {
        let (are, command) = match is_what_if {
            true => ("would be", String::new()),
            false => ("is", format!(": `cairn retention confirm {name}`")),
        };
        text.push_str(&format!(
            "this {are} more than 30 % of more than 10: nothing is deleted until it is \
             confirmed{command}\n"
        ));
    } else if plan.large {
        let checkpoints = plural(plan.confirmed, "checkpoint");
        text.push_str(&format!("confirmed: {checkpoints}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan as the SDK receives it, for snapshots.
    fn example() -> (Namespace, RetentionPlan) {
        let name: Namespace = "llama/pretrain".parse().unwrap();
        (name, RetentionPlan::default())
    }

    #[test]
    fn reasons_are_told_in_words() {
        let (name, plan) = example();
        let said = |is_what_if| text(&name, &plan, is_what_if);
        assert!(said(false).starts_with("lets 0 of 0 checkpoints go, which frees 0 B\n"));
        assert!(said(true).starts_with("would let 0 of 0 checkpoints go, which frees 0 B\n"));
        assert!(
            said(true).ends_with(
                "this is llama/pretrain alone: each namespace below it has its own plan\n"
            )
        );
    }

    #[test]
    fn a_confirmation_is_of_the_plan_that_was_seen() {
        let (namespace, mut plan) = example();
        (plan.let_go, plan.large, plan.policy_version) = (15, true, 7);
        let args = |checkpoints, policy_version| ConfirmArgs {
            namespace: namespace.clone(),
            checkpoints,
            policy_version,
        };
        check(&plan, &args(None, None)).unwrap();
        check(&plan, &args(Some(15), Some(7))).unwrap();
        let refused = check(&plan, &args(Some(14), None)).unwrap_err();
        assert!(refused.error.to_string().contains("15 checkpoints"), "{}", refused.error);
        assert_eq!(check(&plan, &args(None, Some(6))).unwrap_err().exit, Exit::Refused);
        plan.large = false;
        let refused = check(&plan, &args(None, None)).unwrap_err();
        assert!(refused.error.to_string().contains("waits for no confirmation"));
    }
}
