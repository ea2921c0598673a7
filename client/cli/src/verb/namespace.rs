//! `cairn namespace repair-time`: takes back time labels that a wrong clock made.

use cairn_client::TimeRepairPlan;
use cairn_types::ids::Namespace;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plural, wall_time};
use crate::session::{Session, client_failure, interruptible};

#[derive(Debug, Args)]
pub struct NamespaceArgs {
    #[command(subcommand)]
    verb: NamespaceVerb,
}

#[derive(Debug, Subcommand)]
enum NamespaceVerb {
    /// Correct time labels that a wrong clock made: commits labelled later than a time get this time,
    /// and the next commits use the clock again
    RepairTime(RepairTimeArgs),
}

#[derive(Debug, Args)]
struct RepairTimeArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
    /// Latest label allowed: an age, a date, a date and time, or milliseconds, as after `time:`
    /// (`cairn help selectors`) [default: now, by the median clock of the voters]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// With --to: also change labels that are not in the future; this cannot be undone
    #[arg(long)]
    force: bool,
    /// Print the changes without making them
    #[arg(long, env = "CAIRN_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,
}

pub fn run(session: &Session, args: NamespaceArgs) -> Outcome {
    let NamespaceVerb::RepairTime(args) = args.verb;
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let name = &args.namespace;
            let mut plan = client.plan_time_repair(name, None).await.map_err(client_failure)?;
            if let Some(to) = &args.to {
                let to_ms = time_ms(to, plan.now_ms)?;
                plan = client.plan_time_repair(name, Some(to_ms)).await.map_err(client_failure)?;
                if !args.dry_run && !args.force {
                    check_right(name, &plan)?;
                }
            }
            let mut changed = 0;
            if !args.dry_run && plan.changes() {
                changed = client.repair_time(name, plan.to_ms).await.map_err(client_failure)?;
            }
            let document = document(name, &plan, args.dry_run, changed);
            session.output.result(&document, || text(name, &plan, args.dry_run, changed))?;
            Ok::<Exit, Failure>(Exit::Ok)
        })
        .await
    })
}

/// September 2001. A smaller number is a time in seconds, as a rule.
const MS_MIN: u64 = 1_000_000_000_000;

/// A label that a right clock made is lost where it is replaced.
fn check_right(name: &Namespace, plan: &TimeRepairPlan) -> Result<(), Failure> {
    if plan.commits_right == 0 {
        return Ok(());
    }
    let (commits, to) = (plural(plan.commits_right, "commit"), wall_time(plan.to_ms));
    let text = format!(
        "{commits} of {name} would be labelled {to} although their labels are not in the future"
    );
    let hint = "without --to only labels in the future are changed; --dry-run shows the commits, \
                --force relabels them";
    Err(Failure::new(Exit::Refused, anyhow::anyhow!(text)).with_hint(hint))
}

/// Ages count from the cluster's clock: this machine's may be the wrong one.
fn time_ms(text: &str, now_ms: u64) -> Result<u64, Failure> {
    let malformed = || {
        let text = format!(
            "malformed time {text:?}: expected an age, a date, a date and time, or milliseconds"
        );
        Failure::usage(text).with_hint("`cairn help selectors` shows times")
    };
    if text.parse().is_ok_and(|ms: u64| ms < MS_MIN) {
        let text = format!(
            "--to {text} is {} in milliseconds since 1970: expected at least 13 digits",
            wall_time(address::time_ms(text, now_ms).unwrap_or_default())
        );
        return Err(Failure::usage(text).with_hint("a time in seconds needs three more digits"));
    }
    address::time_ms(text, now_ms).ok_or_else(malformed)
}

/// `namespace repair-time`.
#[derive(Serialize)]
struct RepairDocument<'a> {
    namespace: &'a str,
    dry_run: bool,
    to_ms: u64,
    /// The newest label of the namespace before the repair.
    newest_before_ms: u64,
    /// Number of commits labelled later than `to_ms`, and the newest of them.
    commits_later: u64,
    newest_later: Vec<CommitRecord>,
    /// Of these, commits with labels that are not in the future: only `--force` changes them.
    commits_right: u64,
    /// Number of changed labels; 0 with `--dry-run`.
    changed: u64,
}

#[derive(Serialize)]
struct CommitRecord {
    step: u64,
    committed_ms: u64,
}

fn document<'a>(
    name: &'a Namespace,
    plan: &TimeRepairPlan,
    dry_run: bool,
    changed: u64,
) -> RepairDocument<'a> {
    let newest = plan.newest.iter();
    let newest = newest.map(|(step, ms)| CommitRecord { step: step.0, committed_ms: *ms });
    RepairDocument {
        namespace: name.as_str(),
        dry_run,
        to_ms: plan.to_ms,
        newest_before_ms: plan.newest_ms,
        commits_later: plan.commits,
        newest_later: newest.collect(),
        commits_right: plan.commits_right,
        changed,
    }
}

fn text(name: &Namespace, plan: &TimeRepairPlan, dry_run: bool, changed: u64) -> String {
    let (to, newest) = (wall_time(plan.to_ms), wall_time(plan.newest_ms));
    if !plan.changes() {
        return format!("nothing to repair: no commit of {name} is labelled later than {to}\n");
    }
    if !dry_run {
        let commits = plural(changed, "commit");
        return format!("{commits} of {name} relabelled {to}; the newest label was {newest}\n");
    }
    let mut text = format!("the newest label of {name} is {newest}; the next commits get it too\n");
    text.push_str(&format!("{} would be labelled {to}\n", plural(plan.commits, "commit")));
    for (step, label_ms) in &plan.newest {
        text.push_str(&format!("  step {step}  {}\n", wall_time(*label_ms)));
    }
    let others = plan.commits.saturating_sub(plan.newest.len() as u64);
    if others > 0 {
        text.push_str(&format!("  and {}\n", plural(others, "older one")));
    }
    if plan.commits_right > 0 {
        text.push_str(&format!(
            "of these, labels not in the future: {}; only --force changes them\n",
            plan.commits_right
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use cairn_types::ids::Step;

    use super::*;

    #[test]
    fn a_plan_names_the_commits_and_the_label_that_lasts() {
        let name: Namespace = "run/a".parse().unwrap();
        let plan = TimeRepairPlan {
            to_ms: 1_795_888_800_000,
            now_ms: 1_795_888_800_000,
            newest_ms: 1_798_480_800_000,
            commits: 3,
            newest: vec![(Step(7), 1_798_480_800_000)],
            commits_right: 0,
        };
        assert_eq!(
            text(&name, &plan, true, 0),
            "the newest label of run/a is 2026-12-28T18:00:00Z; the next commits get it too\n\
             3 commits would be labelled 2026-11-28T18:00:00Z\n  step 7  2026-12-28T18:00:00Z\n  \
             and 2 older ones\n"
        );
        assert_eq!(
            text(&name, &plan, false, 3),
            "3 commits of run/a relabelled 2026-11-28T18:00:00Z; the newest label was \
             2026-12-28T18:00:00Z\n"
        );
        let right = TimeRepairPlan { newest_ms: plan.to_ms, commits: 0, newest: vec![], ..plan };
        assert!(text(&name, &right, false, 0).starts_with("nothing to repair"));
    }

    #[test]
    fn right_labels_are_not_taken_back_by_mistake() {
        let name: Namespace = "run/a".parse().unwrap();
        let mut plan = TimeRepairPlan {
            to_ms: 1_795_888_800_000,
            now_ms: 1_795_888_900_000,
            newest_ms: 1_798_480_800_000,
            commits: 3,
            newest: vec![],
            commits_right: 0,
        };
        check_right(&name, &plan).unwrap();
        plan.commits_right = 2;
        let refused = check_right(&name, &plan).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
        assert!(refused.error.to_string().starts_with("2 commits of run/a would be labelled"));
        assert!(text(&name, &plan, true, 0).contains("not in the future: 2;"));
    }

    #[test]
    fn seconds_are_not_taken_for_milliseconds() {
        let refused = time_ms("1795888800", 1_795_888_800_000).unwrap_err();
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.error.to_string().contains("1970-01-21"), "{}", refused.error);
        for text in ["0", "999999999999"] {
            assert_eq!(time_ms(text, 0).unwrap_err().exit, Exit::Usage, "{text}");
        }
        assert_eq!(time_ms("1795888800000", 0).unwrap(), 1_795_888_800_000);
    }

    #[test]
    fn an_age_counts_from_the_clusters_clock() {
        assert_eq!(time_ms("1h", 7_200_000).unwrap(), 3_600_000);
        assert_eq!(time_ms("soon", 0).unwrap_err().exit, Exit::Usage);
    }
}
