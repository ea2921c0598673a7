//! `sim core`: many seeds of the mind alone, in threads.

#![allow(clippy::disallowed_methods, reason = "drives runs from outside of them")]

use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{Outcome, play};
use crate::trace::Counters;

/// Steps under faults, by default: uploads expire and nodes are replaced within them.
pub const STEPS: u64 = 10_000;
/// Fewer seeds may well miss something.
const SEEDS_JUDGED: u64 = 20;

/// What must have happened so often in a hundred seeds of [`STEPS`] steps for their passing to
/// mean anything (S2).
const MINIMUMS: [(&str, u64); 33] = [
    ("bytes.stale_slot", 70),
    ("checked.digests", 150_000),
    ("commits", 400),
    ("commits.replacing", 20),
    ("crashes", 700),
    ("deletes.asked", 60),
    ("deletes.retention", 30),
    ("disks.lost", 12),
    ("files.destroyed", 2_000),
    ("files.fetched", 700),
    ("files.received", 7_000),
    ("inventories.missing", 1),
    ("leaders", 700),
    ("letters.late", 1_800),
    ("letters.lost", 8_000),
    ("letters.twice", 10_000),
    ("losses.made_good", 10),
    ("proposals.lost", 70),
    ("refused.fenced", 150),
    ("refused.incarnation", 15),
    ("refused.other_run", 25),
    ("reports.lost", 12),
    ("reports.stale_epoch", 100),
    ("requests.repeated", 600),
    ("requests.stale", 300),
    ("rot", 20),
    ("seals.lacking", 1_500),
    ("segments.kept", 1_200),
    ("snapshots.installed", 25),
    ("upkeep.assigned", 100),
    ("upkeep.expired", 60),
    ("upkeep.reaped", 200),
    ("upkeep.released", 300),
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

/// Plays them all; whether every promise was kept and everything happened often enough.
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
    let judged = seeds >= SEEDS_JUDGED && args.steps >= STEPS;
    let lacking = if judged { lacking(seeds, &sum.counters) } else { Vec::new() };
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

/// Plays a failing seed once more, for its last events.
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

/// Which minimums so many seeds have missed.
fn lacking(seeds: u64, counters: &Counters) -> Vec<String> {
    let missed = MINIMUMS.iter().filter_map(|(counter, minimum)| {
        let got = counters.get(counter).copied().unwrap_or(0);
        let wanted = minimum * seeds / 100;
        (got < wanted).then(|| format!("{counter} {got}, wants {wanted}"))
    });
    missed.collect()
}
