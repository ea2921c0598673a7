//! `sim core`: plays many seeds of `mind` alone, in threads.

#![allow(clippy::disallowed_methods, reason = "drives runs from outside of them")]

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Outcome, play};
use crate::trace::Counters;

/// Default number of steps with faults: enough for uploads to expire and nodes to be replaced.
pub const STEPS: u64 = 10_000;
/// Number of seeds of [`STEPS`] steps in which all of [`OFTEN`] happens. Fewer seeds may miss some.
const SEEDS_JUDGED: u64 = 20;
/// Number of seeds in which all of [`SELDOM`] happens too.
const SEEDS_FOR_ALL: u64 = 100;

/// Events that must happen in a sweep. Without them its passing means nothing (S2).
const OFTEN: &[&str] = &[
    "checked.digests",
    "commits",
    "crashes",
    "files.destroyed",
    "files.fetched",
    "files.received",
    "leaders",
    "letters.late",
    "letters.lost",
    "letters.twice",
    "refused.fenced",
    "reports.stale_epoch",
    "requests.repeated",
    "requests.stale",
    "seals.lacking",
    "segments.kept",
    "upkeep.assigned",
    "upkeep.reaped",
    "upkeep.released",
];
const SELDOM: &[&str] = &[
    "bytes.stale_slot",
    "commits.replacing",
    "deletes.asked",
    "deletes.retention",
    "disks.lost",
    "inventories.missing",
    "losses.made_good",
    "proposals.lost",
    "refused.incarnation",
    "refused.other_run",
    "reports.lost",
    "rot",
    "snapshots.installed",
    "upkeep.expired",
];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// First seed and the one after the last, as `0..1000`
    #[arg(long)]
    seeds: Seeds,
    /// Steps of a seed under faults, before all must converge
    #[arg(long, default_value_t = STEPS)]
    steps: u64,
    /// Seeds played at a time
    #[arg(long, default_value_t = 1)]
    jobs: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seeds(u64, u64);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("{text:?} is not like 0..1000");
        let (start, end) = text.split_once("..").ok_or_else(hint)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| hint());
        Ok(Self(number(start)?, number(end)?))
    }
}

#[derive(Default)]
struct Sum {
    steps: u64,
    entries: u64,
    failed: u64,
    counters: Counters,
}

/// Plays all seeds. Returns whether every promise was kept and every event happened.
pub fn act(args: &Args) -> anyhow::Result<bool> {
    let Seeds(start, end) = args.seeds;
    let (next, sum) = (AtomicU64::new(start), Mutex::new(Sum::default()));
    let began = Instant::now();
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return;
            }
            let outcome = play(seed, args.steps, false);
            if outcome.violation.is_some() {
                report(seed, args.steps);
            }
            if let Ok(mut sum) = sum.lock() {
                sum.add(&outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let sum = sum.into_inner().unwrap_or_default();
    let seconds = began.elapsed().as_secs_f64().max(1e-3);
    let seeds = end.saturating_sub(start);
    println!(
        "{seeds} seeds, {} failed; {} steps, {} entries, {:.0} steps a second",
        sum.failed,
        sum.steps,
        sum.entries,
        sum.steps as f64 / seconds
    );
    for (name, count) in &sum.counters {
        println!("  {name}  {count}");
    }
    let seeds_whole = if args.steps >= STEPS { seeds } else { 0 };
    let lacking = lacking(seeds_whole, &sum.counters);
    for text in &lacking {
        println!("VACUOUS: {text}");
    }
    Ok(sum.failed == 0 && lacking.is_empty())
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.steps += outcome.steps;
        self.entries += outcome.entries;
        self.failed += u64::from(outcome.violation.is_some());
        for (name, count) in &outcome.counters {
            *self.counters.entry(name).or_default() += count;
        }
    }
}

/// Plays a failing seed once more, to show its last events.
fn report(seed: u64, steps: u64) {
    let outcome = play(seed, steps, true);
    let mut text = String::new();
    for event in &outcome.events {
        text.push_str(&format!("  {event}\n"));
    }
    if let Some(violation) = &outcome.violation {
        let name = &violation.invariant;
        text.push_str(&format!("seed {seed}: VIOLATION {name}: {}\n", violation.text));
    }
    let end = seed + 1;
    println!("{text}  replay: sim core --seeds {seed}..{end} --steps {steps}");
}

/// The events that should have happened in this many seeds but did not.
fn lacking(seeds: u64, counters: &Counters) -> Vec<String> {
    let listed = |list: &'static [&'static str], of: u64| list.iter().filter(move |_| seeds >= of);
    listed(OFTEN, SEEDS_JUDGED)
        .chain(listed(SELDOM, SEEDS_FOR_ALL))
        .filter(|counter| counters.get(**counter).is_none_or(|count| *count == 0))
        .map(|counter| format!("{counter} never happened"))
        .collect()
}
