//! `sim sweep`: plays many seeds, and reports broken promises and whether enough faults happened
//! (S2).

use std::ops::Range;
use std::sync::Mutex;

use cairn_sim::replay::{Replay, Tuning, parse_set};
use cairn_sim::run::Outcome;
use cairn_sim::scenario::{self, SCENARIOS};
use cairn_sim::trace::Counters;

use super::{View, each_seed, find, play, report_failure};

#[derive(clap::Args)]
pub struct Args {
    /// First seed and the one after the last, as `0..1000`
    #[arg(long, value_parser = parse_range)]
    seeds: Range<u64>,
    #[arg(long, default_value = SCENARIOS[0].0)]
    scenario: String,
    /// Seeds played at a time
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Set a parameter of every plan, as `faults.rot=0`; then nothing is counted
    #[arg(long, value_parser = parse_set)]
    set: Vec<(String, u64)>,
}

/// The results of the seeds so far.
#[derive(Default)]
struct Sum {
    counters: Counters,
    virtual_ms: u64,
    failed: u64,
    vacuous: Vec<String>,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    find(&args.scenario)?;
    let sum = Mutex::new(Sum::default());
    let started = std::time::Instant::now();
    each_seed(args.seeds.clone(), args.jobs, |seed| one(args, seed, &sum))?;
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(conclude(args, sum, started.elapsed().as_secs_f64()))
}

fn one(args: &Args, seed: u64, sum: &Mutex<Sum>) -> anyhow::Result<()> {
    let tuning = Tuning { set: args.set.iter().cloned().collect(), ..Tuning::default() };
    let replay = Replay::new(&args.scenario, seed, tuning);
    let outcome = play(&replay, View::default())?;
    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    report_failure(&replay, &outcome);
    sum.add(&args.scenario, &outcome);
    Ok(())
}

impl Sum {
    fn add(&mut self, scenario: &str, outcome: &Outcome) {
        self.failed += u64::from(!outcome.violations.is_empty());
        self.virtual_ms += outcome.virtual_ms;
        let lacking = scenario::lacking_in_one(scenario, &outcome.counters);
        self.vacuous.extend(lacking.map(|text| format!("seed {}: {text}", outcome.seed)));
        for (name, count) in &outcome.counters {
            *self.counters.entry(name).or_default() += count;
        }
    }
}

fn conclude(args: &Args, sum: Sum, elapsed_s: f64) -> bool {
    let Sum { counters, virtual_ms, failed, mut vacuous } = sum;
    let count = args.seeds.end.saturating_sub(args.seeds.start);
    let simulated_s = virtual_ms as f64 / 1e3;
    let pace = simulated_s / elapsed_s.max(1e-3);
    println!(
        "{count} seeds, {failed} failed; {simulated_s:.0} simulated seconds, {pace:.0} in a real one"
    );
    for (name, count) in &counters {
        println!("  {name}  {count}");
    }
    vacuous.extend(scenario::lacking(&args.scenario, count, &counters));
    if !args.set.is_empty() {
        vacuous.clear();
    }
    vacuous.iter().for_each(|text| println!("VACUOUS: {text}"));
    failed == 0 && vacuous.is_empty()
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let hint = || format!("{text:?} is not like 0..1000");
    let (start, end) = text.split_once("..").ok_or_else(hint)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| hint());
    Ok(number(start)?..number(end)?)
}
