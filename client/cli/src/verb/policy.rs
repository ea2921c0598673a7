//! `cairn policy set`, `unset`, `show`, `ls`

use std::collections::BTreeMap;

use cairn_client::{Client, ClientError, PolicyEdit, PolicyField, ShownPolicy};
use cairn_types::ids::Namespace;
use cairn_types::model::{OwnPolicy, PolicyChange};
use cairn_types::retention::{BestMetric, RetentionChange};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::keep::{self, KeepArgs, RuleValue};
use super::put::IsolationRule;
use super::retention;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{plural, table};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: PolicyVerb,
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Set rules of a namespace and those below it, such as
    /// `cairn policy set llama --keep-last 5 --keep-daily 7 --keep-best loss:min:3`
    Set(Box<SetArgs>),
    /// Leave rules to the namespaces above, such as `cairn policy unset llama/eval keep-daily`
    Unset(UnsetArgs),
    /// Show the rules that a namespace goes by, and which namespace says each of them
    Show(ShowArgs),
    /// List the namespaces that set rules themselves, and these rules
    Ls(LsArgs),
}

#[derive(Debug, Args)]
struct LsArgs {
    /// This namespace and those below it [default: all]
    #[arg(value_name = "NAMESPACE")]
    prefix: Option<Namespace>,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
    /// Number of replicas of each segment [default: 3]
    #[arg(long, value_name = "R")]
    replicas: Option<u32>,
    /// Number of replicas that must be durable before a commit [default: 2]
    #[arg(long, value_name = "W")]
    write_quorum: Option<u32>,
    /// Number of racks to spread the replicas over [default: 2]
    #[arg(long, value_name = "COUNT")]
    min_racks: Option<u32>,
    /// With too few racks, refuse a write (hard) or accept it with fewer racks (soft) [default: hard]
    #[arg(long, value_name = "RULE")]
    isolation: Option<IsolationRule>,
    /// What the selector `best` looks at, such as loss:min; 0: nothing
    #[arg(long, value_name = "METRIC:min|max", value_parser = keep::best_metric)]
    best: Option<BestMetric>,
    /// Change nothing: show what retention would delete from this namespace with these rules
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    keep: KeepArgs,
}

#[derive(Debug, Args)]
struct UnsetArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
    /// Rules, such as keep-daily or replicas
    #[arg(value_name = "RULE", value_parser = field, required_unless_present = "all")]
    rules: Vec<PolicyField>,
    /// All rules
    #[arg(long, conflicts_with = "rules")]
    all: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The namespace, such as llama/pretrain
    #[arg(value_name = "NAMESPACE")]
    namespace: Namespace,
}

fn field(text: &str) -> Result<PolicyField, String> {
    let found = PolicyField::ALL.iter().copied().find(|field| field.name() == text);
    found.ok_or_else(|| {
        let names: Vec<&str> = PolicyField::ALL.iter().map(|field| field.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

pub fn run(session: &Session, args: PolicyArgs) -> Outcome {
    let (namespace, shown) = match args.verb {
        PolicyVerb::Ls(args) => return list(session, args.prefix.as_ref()),
        PolicyVerb::Show(args) => {
            let name = args.namespace;
            let shown = session.with_client(async |client| client.show_policy(&name).await)?;
            (name, shown)
        }
        PolicyVerb::Set(args) => {
            let own = args.keep.policy()?;
            let retention = RetentionChange { best_metric: args.best, ..own.retention };
            if let Some(problem) = retention.problem() {
                return Err(Failure::usage(problem));
            }
            if args.dry_run {
                let what_if = OwnPolicy { retention, ..own };
                return retention::what_if(session, &args.namespace, &what_if);
            }
            let edit = PolicyEdit {
                change: PolicyChange {
                    replicas: args.replicas,
                    write_quorum: args.write_quorum,
                    min_racks: args.min_racks,
                    isolation: args.isolation.map(IsolationRule::isolation),
                    ..own.rules
                },
                retention,
                unset: Vec::new(),
            };
            (
                args.namespace.clone(),
                session.with_client(async |client| changed(client, &args.namespace, edit).await)?,
            )
        }
        PolicyVerb::Unset(args) => {
            let unset = if args.all { PolicyField::ALL.to_vec() } else { args.rules };
            let edit = PolicyEdit { unset, ..PolicyEdit::default() };
            (
                args.namespace.clone(),
                session.with_client(async |client| changed(client, &args.namespace, edit).await)?,
            )
        }
    };
    session.output.result(&document(&namespace, &shown), || text(&namespace, &shown))?;
    Ok(Exit::Ok)
}

fn list(session: &Session, prefix: Option<&Namespace>) -> Outcome {
    let found = session.with_client(async |client| client.policies(prefix).await)?;
    session.output.result(&listing(&found), || {
        if found.is_empty() { String::new() } else { listed(&found) }
    })?;
    if found.is_empty() {
        session.output.say("no namespace sets rules: the defaults hold");
    }
    Ok(Exit::Ok)
}

/// `policy ls`.
#[derive(Serialize)]
struct PoliciesDocument<'a> {
    namespaces: Vec<OwnRecord<'a>>,
}

#[derive(Serialize)]
struct OwnRecord<'a> {
    namespace: &'a str,
    /// Those that it sets itself, by name, with `_` for `-`.
    own_rules: BTreeMap<String, RuleValue>,
}

fn own_fields(own: &OwnPolicy) -> impl Iterator<Item = PolicyField> {
    PolicyField::ALL.iter().copied().filter(|field| own.says(*field))
}

fn listing(found: &[(Namespace, OwnPolicy)]) -> PoliciesDocument<'_> {
    let rules = |own: &OwnPolicy| {
        let rule = |field: PolicyField| (field.name().replace('-', "_"), keep::value(own, field));
        own_fields(own).map(rule).collect()
    };
    let record = found.iter();
    let namespaces = record
        .map(|(name, own)| OwnRecord { namespace: name.as_str(), own_rules: rules(own) })
        .collect();
    PoliciesDocument { namespaces }
}

fn listed(found: &[(Namespace, OwnPolicy)]) -> String {
    let mut rows = vec![["NAMESPACE", "RULE", "VALUE"].map(str::to_owned).to_vec()];
    for (name, own) in found {
        for field in own_fields(own) {
            rows.push(vec![name.to_string(), field.name().to_owned(), keep::text(own, field)]);
        }
    }
    table(&rows)
}

async fn changed(
    client: &Client,
    namespace: &Namespace,
    edit: PolicyEdit,
) -> Result<ShownPolicy, ClientError> {
    if edit != PolicyEdit::default() {
        client.edit_policy(namespace, edit).await?;
    }
    client.show_policy(namespace).await
}

/// Every rule as it is in force, said by one namespace.
fn in_force(shown: &ShownPolicy) -> OwnPolicy {
    let full = shown.effective();
    keep::said(&full)
}

/// The rules of a namespace.
#[derive(Serialize)]
pub(super) struct PolicyDocument<'a> {
    namespace: &'a str,
    policy_version: u64,
    confirmed: u64,
    /// By name, with `_` for `-`.
    rules: BTreeMap<String, ShownRule<'a>>,
}

#[derive(Serialize)]
struct ShownRule<'a> {
    value: RuleValue,
    /// The namespace that says it; null: nobody does.
    from: Option<&'a str>,
}

pub(super) fn document<'a>(namespace: &'a Namespace, shown: &'a ShownPolicy) -> PolicyDocument<'a> {
    let own = in_force(shown);
    let rule = |field: &PolicyField| {
        let from = shown.from(*field).map(|name| name.as_str());
        let rule = ShownRule { value: keep::value(&own, *field), from };
        (field.name().replace('-', "_"), rule)
    };
    PolicyDocument {
        namespace: namespace.as_str(),
        policy_version: shown.policy_version,
        confirmed: shown.confirmed,
        rules: PolicyField::ALL.iter().map(rule).collect(),
    }
}

pub(super) fn text(namespace: &Namespace, shown: &ShownPolicy) -> String {
    let own = in_force(shown);
    let mut rows = vec![["RULE", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    for field in PolicyField::ALL {
        let from = shown.from(*field).map_or("default", |name| name.as_str());
        rows.push(vec![field.name().to_owned(), keep::text(&own, *field), from.to_owned()]);
    }
    let mut text = table(&rows);
    if shown.effective().retention.rules.is_empty() {
        text.push_str(&format!("no rule of {namespace} lets a checkpoint go: all are kept\n"));
    }
    if shown.confirmed > 0 {
        let checkpoints = plural(shown.confirmed, "checkpoint");
        text.push_str(&format!("confirmed: retention may delete {checkpoints}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_shown_with_the_namespace_that_says_it() {
        let mut shown = ShownPolicy::default();
        let mut top = OwnPolicy::default();
        top.rules.keep_last = Some(5);
        top.retention.within_ms = Some(2 * 86_400_000);
        let mut below = OwnPolicy::default();
        below.rules.keep_last = Some(0);
        shown.said = vec![("a".parse().unwrap(), top), ("a/b".parse().unwrap(), below)];
        let name: Namespace = "a/b".parse().unwrap();
        let text = text(&name, &shown);
        let line = |rule: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{rule} ")));
            line.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(line("keep-last").as_deref(), Some("- a/b"));
        assert_eq!(line("keep-within").as_deref(), Some("2days a"));
        assert_eq!(line("replicas").as_deref(), Some("3 default"));
        assert_eq!(line("time-zone").as_deref(), Some("UTC default"));
        let document = serde_json::to_value(document(&name, &shown)).unwrap();
        assert_eq!(document["rules"]["keep_within"]["value"], 172_800_000);
        assert_eq!(document["rules"]["keep_last"]["from"], "a/b");
        let listed = listed(&shown.said);
        let rows: Vec<Vec<&str>> =
            listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["a", "keep-last", "5"]);
        assert_eq!(rows[2], ["a", "keep-within", "2days"]);
        assert_eq!(rows[3][..2], ["a/b", "keep-last"]);
        assert_eq!(rows.len(), 4, "what a namespace inherits is not listed: {listed}");
        let document = serde_json::to_value(listing(&shown.said)).unwrap();
        assert_eq!(document["namespaces"][0]["own_rules"]["keep_within"], 172_800_000);
        assert_eq!(field("keep-weekly"), Ok(PolicyField::KeepWeekly));
        assert!(field("keep-hour").unwrap_err().contains("keep-hourly"));
    }
}
