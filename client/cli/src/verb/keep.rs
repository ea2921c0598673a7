//! Rules of retention as flags, and as people and programs read them.

use std::time::Duration;

use cairn_client::{FullPolicy, PolicyField};
use cairn_types::model::{OwnPolicy, PolicyChange};
use cairn_types::retention::{BestMetric, BestRule, Extreme, LabelRule, RetentionChange};
use clap::Args;
use serde::Serialize;

use crate::exit::Failure;

/// A checkpoint is kept if any rule keeps it. 0 turns a rule off.
#[derive(Debug, Clone, Default, Args)]
#[command(
    next_help_heading = "Retention: a checkpoint is kept if any rule keeps it; 0 ends a rule"
)]
pub struct KeepArgs {
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest of each of the newest N hours that have a checkpoint
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same of days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same of weeks, which begin on Monday
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// The same of years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
    /// Keep what was committed less than this before the newest, such as 2d or 12h
    #[arg(long, value_name = "TIME")]
    keep_within: Option<humantime::Duration>,
    /// Keep steps that are a multiple of N
    #[arg(long, value_name = "N")]
    keep_every_steps: Option<u64>,
    /// Keep the N with the best values of a metric, such as loss:min:3; may be repeated, and replaces
    /// the metrics set before
    #[arg(long, value_name = "METRIC:min|max:N", value_parser = best)]
    keep_best: Vec<Listed<BestRule>>,
    /// Keep what has a label, such as milestone or stage=sft; may be repeated, and replaces the labels
    /// set before
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = label)]
    keep_label: Vec<Listed<LabelRule>>,
    /// Keep what is in quarantine for so long, if there is any rule [default: 14d]
    #[arg(long, value_name = "TIME")]
    keep_quarantined: Option<humantime::Duration>,
    /// Time zone in which hours, days, weeks, months and years begin [default: UTC]
    #[arg(long, value_name = "NAME")]
    time_zone: Option<String>,
    /// Keep everything: end all rules, also those of the namespaces above
    #[arg(long, conflicts_with_all = [
        "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly",
        "keep_within", "keep_every_steps", "keep_best", "keep_label",
    ])]
    keep_all: bool,
}

/// One rule of a list, or its end: `0`.
#[derive(Debug, Clone)]
struct Listed<T>(Option<T>);

impl<T: Clone> Listed<T> {
    fn rules(listed: &[Self]) -> Vec<T> {
        listed.iter().filter_map(|Self(rule)| rule.clone()).collect()
    }
}

/// `METRIC:min` or `METRIC:max`; `0` ends it. The metric may have colons in its name.
pub fn best_metric(text: &str) -> Result<BestMetric, String> {
    if text == "0" {
        return Ok(BestMetric::none());
    }
    let malformed = || "expected METRIC:min or METRIC:max, such as loss:min, or 0".to_owned();
    let (metric, extreme) = text.rsplit_once(':').ok_or_else(malformed)?;
    let extreme = extreme_named(extreme).ok_or_else(malformed)?;
    let best = BestMetric { metric: metric.to_owned(), extreme };
    if best.is_none() { Err(malformed()) } else { Ok(best) }
}

fn extreme_named(text: &str) -> Option<Extreme> {
    match text {
        "min" => Some(Extreme::Min),
        "max" => Some(Extreme::Max),
        _ => None,
    }
}

/// The metric may have colons in its name.
fn best(text: &str) -> Result<Listed<BestRule>, String> {
    if text == "0" {
        return Ok(Listed(None));
    }
    let malformed = || "expected METRIC:min:N or METRIC:max:N, such as loss:min:3".to_owned();
    let (rest, count) = text.rsplit_once(':').ok_or_else(malformed)?;
    let (metric, extreme) = rest.rsplit_once(':').ok_or_else(malformed)?;
    let extreme = extreme_named(extreme).ok_or_else(malformed)?;
    let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(malformed)?;
    if metric.is_empty() {
        return Err(malformed());
    }
    Ok(Listed(Some(BestRule { metric: metric.to_owned(), extreme, count })))
}

fn label(text: &str) -> Result<Listed<LabelRule>, String> {
    match text {
        "0" => Ok(Listed(None)),
        _ => label_rule(text).map(|rule| Listed(Some(rule))),
    }
}

pub fn label_rule(text: &str) -> Result<LabelRule, String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    match key.is_empty() {
        true => Err("expected KEY or KEY=VALUE, such as stage=sft".to_owned()),
        false => Ok(LabelRule { key: key.to_owned(), value }),
    }
}

impl KeepArgs {
    /// What these flags say.
    pub fn policy(&self) -> Result<OwnPolicy, Failure> {
        let off = |value: Option<u32>| if self.keep_all { Some(0) } else { value };
        let ms = |time: &Option<humantime::Duration>| time.map(|time| millis(time.into()));
        let zero = self.keep_all.then_some(0);
        let list = |is_empty: bool| !is_empty || self.keep_all;
        let retention = RetentionChange {
            hourly: off(self.keep_hourly),
            daily: off(self.keep_daily),
            weekly: off(self.keep_weekly),
            monthly: off(self.keep_monthly),
            yearly: off(self.keep_yearly),
            within_ms: zero.or(ms(&self.keep_within)),
            every_steps: zero.or(self.keep_every_steps),
            best: list(self.keep_best.is_empty()).then(|| Listed::rules(&self.keep_best)),
            labels: list(self.keep_label.is_empty()).then(|| Listed::rules(&self.keep_label)),
            time_zone: self.time_zone.clone(),
            quarantined_ms: ms(&self.keep_quarantined),
            best_metric: None,
        };
        if let Some(problem) = retention.problem() {
            return Err(Failure::usage(problem));
        }
        let rules = PolicyChange { keep_last: off(self.keep_last), ..PolicyChange::default() };
        Ok(OwnPolicy { rules, retention })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A policy in force as one namespace would say it. Rules that are off are not said.
pub fn said(full: &FullPolicy) -> OwnPolicy {
    let (policy, retention) = (&full.policy, &full.retention);
    let rules = &retention.rules;
    OwnPolicy {
        rules: PolicyChange {
            replicas: Some(policy.replicas),
            write_quorum: Some(policy.write_quorum),
            min_racks: Some(policy.min_racks),
            isolation: Some(policy.isolation),
            keep_last: rules.last,
        },
        retention: RetentionChange {
            hourly: rules.hourly,
            daily: rules.daily,
            weekly: rules.weekly,
            monthly: rules.monthly,
            yearly: rules.yearly,
            within_ms: rules.within_ms,
            every_steps: rules.every_steps,
            best: (!rules.best.is_empty()).then(|| rules.best.clone()),
            labels: (!rules.labels.is_empty()).then(|| rules.labels.clone()),
            time_zone: Some(retention.time_zone.clone()),
            quarantined_ms: Some(retention.quarantined_ms),
            best_metric: retention.best.clone(),
        },
    }
}

/// The value of one rule; null where it is off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RuleValue {
    Number(Option<u64>),
    Milliseconds(Option<u64>),
    Text(Option<String>),
    Texts(Vec<String>),
}

pub fn value(own: &OwnPolicy, field: PolicyField) -> RuleValue {
    let OwnPolicy { rules, retention } = own;
    let number = |count: Option<u32>| RuleValue::Number(count.map(Into::into));
    match field {
        PolicyField::Replicas => number(rules.replicas),
        PolicyField::WriteQuorum => number(rules.write_quorum),
        PolicyField::MinRacks => number(rules.min_racks),
        PolicyField::Isolation => RuleValue::Text(rules.isolation.map(|rule| rule.to_string())),
        PolicyField::KeepLast => number(rules.keep_last),
        PolicyField::KeepHourly => number(retention.hourly),
        PolicyField::KeepDaily => number(retention.daily),
        PolicyField::KeepWeekly => number(retention.weekly),
        PolicyField::KeepMonthly => number(retention.monthly),
        PolicyField::KeepYearly => number(retention.yearly),
        PolicyField::KeepWithin => RuleValue::Milliseconds(retention.within_ms),
        PolicyField::KeepEverySteps => RuleValue::Number(retention.every_steps),
        PolicyField::KeepBest => texts(retention.best.as_deref()),
        PolicyField::KeepLabel => texts(retention.labels.as_deref()),
        PolicyField::TimeZone => RuleValue::Text(retention.time_zone.clone()),
        PolicyField::KeepQuarantined => RuleValue::Milliseconds(retention.quarantined_ms),
        PolicyField::Best => {
            RuleValue::Text(retention.best_metric.as_ref().map(ToString::to_string))
        }
    }
}

fn texts<T: ToString>(rules: Option<&[T]>) -> RuleValue {
    RuleValue::Texts(rules.unwrap_or_default().iter().map(ToString::to_string).collect())
}

/// The same for people; `-` where it is off.
pub fn text(own: &OwnPolicy, field: PolicyField) -> String {
    let text = match value(own, field) {
        RuleValue::Number(number) => number.map(|number| number.to_string()),
        RuleValue::Milliseconds(ms) => ms.map(span),
        RuleValue::Text(text) => text,
        RuleValue::Texts(texts) => (!texts.is_empty()).then(|| texts.join(", ")),
    };
    text.unwrap_or_else(|| "-".to_owned())
}

/// `2days 12h`.
pub fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_best_rule_is_a_metric_a_side_and_a_count() {
        let rule = best("eval/loss:nll:min:3").unwrap();
        assert_eq!(rule.0.as_ref().unwrap().to_string(), "eval/loss:nll:min:3");
        assert_eq!(rule.0.unwrap().metric, "eval/loss:nll");
        for bad in ["loss", "loss:3", "loss:least:3", "loss:min:0", ":min:1", "loss:min:"] {
            assert!(best(bad).unwrap_err().contains("loss:min:3"), "{bad}");
        }
    }

    #[test]
    fn a_best_metric_is_a_name_and_a_side() {
        assert_eq!(best_metric("eval/loss:nll:min").unwrap().to_string(), "eval/loss:nll:min");
        assert!(best_metric("0").unwrap().is_none());
        for bad in ["loss", "loss:least", ":min", "", "loss:min:3"] {
            assert!(best_metric(bad).unwrap_err().contains("loss:min"), "{bad}");
        }
    }

    #[test]
    fn a_label_rule_may_have_a_value() {
        assert_eq!(label("stage=a=b").unwrap().0.unwrap().value.as_deref(), Some("a=b"));
        assert_eq!(label("milestone").unwrap().0.unwrap().value, None);
        assert!(label("=x").is_err());
    }

    #[test]
    fn keeping_all_says_that_every_rule_is_off() {
        let args = KeepArgs { keep_all: true, ..KeepArgs::default() };
        let own = args.policy().unwrap();
        let full = FullPolicy::default().below(&own);
        assert!(full.retention.rules.is_empty());
        let is_rule = |field: &&PolicyField| {
            let name = field.name();
            name.starts_with("keep-") && name != "keep-quarantined"
        };
        assert!(PolicyField::ALL.iter().filter(is_rule).all(|field| own.says(*field)));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        keep: KeepArgs,
    }

    #[test]
    fn zero_ends_the_rules_of_a_list() {
        let retention = |flags: &[&str]| {
            let line = <Line as clap::Parser>::try_parse_from(["line"].iter().chain(flags));
            line.map_err(|error| error.to_string()).unwrap().keep.policy().unwrap().retention
        };
        let ended = retention(&["--keep-label", "0", "--keep-best", "0"]);
        assert_eq!((ended.labels, ended.best), (Some(vec![]), Some(vec![])));
        let said = retention(&["--keep-label", "stage=0"]);
        let rule = LabelRule { key: "stage".to_owned(), value: Some("0".to_owned()) };
        assert_eq!((said.labels, said.best), (Some(vec![rule]), None));
        let all = retention(&["--keep-all"]);
        assert_eq!((all.labels, all.best), (Some(vec![]), Some(vec![])));
    }
}
