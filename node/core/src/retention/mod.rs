//! Retention: which checkpoints of a namespace its rules keep, and why (D7).
//!
//! ```text
//!   rules, time zone
//!   commits with labels, metrics, refs, holds, quarantine ---> each: kept, with every reason
//!   now                                                              or let go
//! ```
//!
//! A pure function. The leader evaluates it and proposes deletions. Apply has no calendar: it checks
//! that the policy is still the one that was evaluated, and refs, holds and the newest good commit.
//!
//! Rules, all of restic's words and of training's. They look at good checkpoints only: committed, and
//! not in quarantine. A checkpoint is kept if any of them keeps it:
//!
//! * last: the newest N, by commit or by the begin of their upload. Where uploads overlap, one that
//!   began early may commit late; it must not push out what began after it.
//! * hourly to yearly: the newest of each of the newest N hours, days, weeks of ISO 8601, months or
//!   years that have a checkpoint, on the clock of the time zone. An hour that the clock shows
//!   twice, when summer time ends, is one hour.
//! * within: what was committed less than that before the newest. A run that stands still loses
//!   nothing as time goes by. What a wrong clock labelled later than now is kept, but is not the newest.
//! * every-steps: all steps that are a multiple.
//! * best: the N with the best values of a metric; of equal ones the newest. Without the metric a
//!   checkpoint is none of them.
//! * label: all that have it.
//!
//! Always kept, also without a rule that does: what a ref names, what is on hold, and the newest good
//! one. In quarantine, a checkpoint is kept for a time from then on. Without any rule all are kept.

mod calendar;

use std::collections::BTreeMap;

use cairn_types::canary;
use cairn_types::ids::{CheckpointId, Step};
use cairn_types::model::Metric;
use cairn_types::retention::{BestRule, Extreme, LabelRule, Retention, Rules};

pub use calendar::{Bucket, Period, TimeZone, UnknownTimeZone};

/// A committed checkpoint, as far as retention looks at it.
#[derive(Debug, Clone)]
pub struct Commit<'a> {
    pub id: CheckpointId,
    pub step: Step,
    /// Log indexes of its commit and of the begin of its upload.
    pub index: u64,
    pub began_index: u64,
    /// Label of its commit, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    pub labels: &'a BTreeMap<String, String>,
    pub metrics: &'a BTreeMap<String, Metric>,
    /// Since when it is in quarantine, if it is.
    pub quarantined_ms: Option<u64>,
    /// Names of refs that point to it, and its active holds, as people read them.
    pub refs: Vec<String>,
    pub holds: Vec<String>,
}

/// Why a checkpoint is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The namespace has no rules.
    NoRules,
    Ref(String),
    Hold(String),
    NewestGood,
    Last(u32),
    Newest(Bucket),
    Within(u64),
    EverySteps(u64),
    Best(BestRule),
    Label(LabelRule),
    /// In quarantine, until then.
    Quarantined(u64),
}

/// What becomes of a namespace's commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// For each commit, in the order given, why it is kept; without a reason it is let go.
    pub reasons: Vec<Vec<Reason>>,
    /// Wall clock from which the same commits may come to something else.
    pub next_ms: Option<u64>,
}

impl Evaluation {
    /// Places of what is let go.
    pub fn let_go(&self) -> impl Iterator<Item = usize> {
        let places = self.reasons.iter().enumerate();
        places.filter(|(_, reasons)| reasons.is_empty()).map(|(place, _)| place)
    }
}

/// What the rules keep of `commits` at the wall clock `now_ms`.
pub fn evaluate(
    retention: &Retention,
    commits: &[Commit],
    now_ms: u64,
) -> Result<Evaluation, UnknownTimeZone> {
    let mut found = Evaluation { reasons: vec![Vec::new(); commits.len()], next_ms: None };
    let mut newest_first: Vec<usize> = (0..commits.len()).collect();
    newest_first.sort_by_key(|at| std::cmp::Reverse(commits[*at].index));
    for at in &newest_first {
        found.reasons[*at] = protections(&commits[*at]);
    }
    if retention.rules.is_empty() {
        found.reasons.iter_mut().for_each(|reasons| reasons.push(Reason::NoRules));
        return Ok(found);
    }
    let is_good =
        |at: &usize| commits[*at].quarantined_ms.is_none() || canary!("retention_counts_bad");
    let good = newest_first.iter().copied().filter(is_good);
    let good = Good { commits, newest_first: good.collect() };
    for (at, reason) in good.kept(retention, now_ms)? {
        found.reasons[at].push(reason);
    }
    for (at, commit) in commits.iter().enumerate() {
        let Some(since_ms) = commit.quarantined_ms else { continue };
        let until_ms = since_ms.saturating_add(retention.quarantined_ms);
        if now_ms < until_ms {
            found.reasons[at].push(Reason::Quarantined(until_ms));
            found.next_ms = earlier(found.next_ms, until_ms);
        }
    }
    if retention.rules.within_ms.is_some() {
        // A label in the future starts to count as the newest once its time has come.
        let future = good.all().map(|(_, commit)| commit.wall_ms).filter(|ms| *ms > now_ms).min();
        found.next_ms = future.map_or(found.next_ms, |ms| earlier(found.next_ms, ms));
    }
    Ok(found)
}

fn earlier(known: Option<u64>, ms: u64) -> Option<u64> {
    Some(known.map_or(ms, |known| known.min(ms)))
}

/// What keeps a checkpoint without any rule.
fn protections(commit: &Commit) -> Vec<Reason> {
    let holds = commit.holds.iter().cloned().map(Reason::Hold);
    let holds = holds.filter(|_| !canary!("retention_ignores_holds"));
    commit.refs.iter().cloned().map(Reason::Ref).chain(holds).collect()
}

/// The commits that count.
struct Good<'a> {
    commits: &'a [Commit<'a>],
    newest_first: Vec<usize>,
}

impl<'a> Good<'a> {
    /// Newest commit first, with their places.
    fn all(&self) -> impl Iterator<Item = (usize, &'a Commit<'a>)> {
        self.newest_first.iter().map(|at| (*at, &self.commits[*at]))
    }

    /// What the rules keep, each with a reason; one checkpoint may have several.
    fn kept(
        &self,
        retention: &Retention,
        now_ms: u64,
    ) -> Result<Vec<(usize, Reason)>, UnknownTimeZone> {
        let rules = &retention.rules;
        let mut kept: Vec<(usize, Reason)> =
            self.newest_first.first().map(|at| (*at, Reason::NewestGood)).into_iter().collect();
        if let Some(count) = rules.last {
            self.last(count, &mut kept);
        }
        self.buckets(rules, &retention.time_zone, &mut kept)?;
        if let Some(within_ms) = rules.within_ms {
            self.within(within_ms, now_ms, &mut kept);
        }
        if let Some(every) = rules.every_steps {
            let multiples = self.all().filter(|(_, commit)| commit.step.0 % every == 0);
            kept.extend(multiples.map(|(at, _)| (at, Reason::EverySteps(every))));
        }
        for rule in &rules.best {
            self.best(rule, &mut kept);
        }
        for rule in &rules.labels {
            let labelled = self.all().filter(|(_, commit)| rule.admits(commit.labels));
            kept.extend(labelled.map(|(at, _)| (at, Reason::Label(rule.clone()))));
        }
        Ok(kept)
    }

    fn last(&self, count: u32, kept: &mut Vec<(usize, Reason)>) {
        let most = count as usize;
        let mut newest: Vec<usize> = self.newest_first.iter().copied().take(most).collect();
        let mut by_begin = self.newest_first.clone();
        by_begin.sort_by_key(|at| std::cmp::Reverse(self.commits[*at].began_index));
        newest.extend(by_begin.into_iter().take(most));
        newest.sort_unstable();
        newest.dedup();
        kept.extend(newest.into_iter().map(|at| (at, Reason::Last(count))));
    }

    fn buckets(
        &self,
        rules: &Rules,
        time_zone: &str,
        kept: &mut Vec<(usize, Reason)>,
    ) -> Result<(), UnknownTimeZone> {
        let periods = [
            (Period::Hour, rules.hourly),
            (Period::Day, rules.daily),
            (Period::Week, rules.weekly),
            (Period::Month, rules.monthly),
            (Period::Year, rules.yearly),
        ];
        if periods.iter().all(|(_, count)| count.is_none()) {
            return Ok(());
        }
        let zone = TimeZone::named(time_zone)?;
        let local: Vec<_> = self.all().map(|(at, it)| (at, zone.local(it.wall_ms))).collect();
        for (period, count) in periods {
            let mut taken: BTreeMap<Bucket, usize> = BTreeMap::new();
            for (at, local) in &local {
                let bucket = Bucket::of(period, *local);
                if canary!("oldest_of_bucket") && taken.contains_key(&bucket) {
                    taken.insert(bucket, *at);
                } else if taken.len() < count.unwrap_or(0) as usize {
                    taken.entry(bucket).or_insert(*at);
                }
            }
            kept.extend(taken.into_iter().map(|(bucket, at)| (at, Reason::Newest(bucket))));
        }
        Ok(())
    }

    fn within(&self, within_ms: u64, now_ms: u64, kept: &mut Vec<(usize, Reason)>) {
        let newest = self.all().map(|(_, commit)| commit.wall_ms).filter(|ms| *ms <= now_ms).max();
        let recent = self.all().filter(|(_, commit)| {
            newest.is_none_or(|newest| commit.wall_ms.saturating_add(within_ms) > newest)
        });
        kept.extend(recent.map(|(at, _)| (at, Reason::Within(within_ms))));
    }

    fn best(&self, rule: &BestRule, kept: &mut Vec<(usize, Reason)>) {
        let value = |commit: &Commit| commit.metrics.get(&rule.metric).map(|it| it.value());
        let mut measured: Vec<(usize, f64)> =
            self.all().filter_map(|(at, commit)| Some((at, value(commit)?))).collect();
        // Stable: of equal ones the newest comes first.
        measured.sort_by(|(_, one), (_, other)| match rule.extreme {
            Extreme::Min => one.total_cmp(other),
            Extreme::Max => other.total_cmp(one),
        });
        if canary!("retention_keeps_worst") {
            measured.reverse();
        }
        let best = measured.into_iter().take(rule.count as usize);
        kept.extend(best.map(|(at, _)| (at, Reason::Best(rule.clone()))));
    }
}

impl Reason {
    /// The rule's name, as the flags of `cairn policy set` spell it behind `--keep-`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::Ref(_) => "ref",
            Self::Hold(_) => "hold",
            Self::NewestGood => "newest-good",
            Self::Last(_) => "last",
            Self::Newest(bucket) => bucket.period.rule(),
            Self::Within(_) => "within",
            Self::EverySteps(_) => "every-steps",
            Self::Best(_) => "best",
            Self::Label(_) => "label",
            Self::Quarantined(_) => "quarantined",
        }
    }

    /// What the rule found: the bucket, the name, its number. Durations and times are milliseconds.
    pub fn detail(&self) -> String {
        match self {
            Self::NoRules | Self::NewestGood => String::new(),
            Self::Ref(name) | Self::Hold(name) => name.clone(),
            Self::Last(count) => count.to_string(),
            Self::Newest(bucket) => bucket.to_string(),
            Self::Within(ms) | Self::EverySteps(ms) | Self::Quarantined(ms) => ms.to_string(),
            Self::Best(rule) => rule.to_string(),
            Self::Label(rule) => rule.to_string(),
        }
    }
}
