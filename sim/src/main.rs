//! `sim`: plays scenarios by seed.
//!
//! Exit codes: 0 all promises kept, 1 a promise broken or traces differ, 2 wrong usage.

#![allow(clippy::disallowed_methods, reason = "drives runs from outside of them")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use cairn_sim::mind::verb as core;
use cairn_sim::run::{Options, Outcome, run};
use cairn_sim::scenario::{self, Play, SCENARIOS};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "sim", about = "Deterministic simulation of Cairn clusters")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Play one seed and say what came of it
    Run {
        #[arg(long, env = "CAIRN_SIM_SEED")]
        seed: u64,
        #[arg(long, default_value = SCENARIOS[0].0)]
        scenario: String,
        /// Write every event and log line here
        #[arg(long)]
        trace: Option<PathBuf>,
        /// Print only the seed, the trace's hash and the number of violations
        #[arg(long)]
        brief: bool,
    },
    /// Play many seeds; name those that break a promise
    Sweep {
        /// First seed and the one after the last, as `0..1000`
        #[arg(long, value_parser = parse_range)]
        seeds: Range<u64>,
        #[arg(long, default_value = SCENARIOS[0].0)]
        scenario: String,
        /// Seeds played at a time
        #[arg(long, default_value_t = 1)]
        jobs: u64,
    },
    /// Check that a seed gives the same trace in fresh processes and in a used one
    Meta {
        /// Seeds to check, from 1 on
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        #[arg(long, default_value = SCENARIOS[0].0)]
        scenario: String,
    },
    /// Play `core` alone under a hand-written scheduler
    Core(core::Args),
    /// List the scenarios
    List,
}

fn main() -> ExitCode {
    match act(Args::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(verb: Verb) -> anyhow::Result<bool> {
    match verb {
        Verb::Run { seed, scenario, trace, brief } => {
            let options = Options { trace, ..Options::new(seed) };
            let outcome = play(&options, find(&scenario)?)?;
            if brief {
                println!("{}", brief_line(&outcome));
            } else {
                report(&outcome);
            }
            Ok(outcome.violations.is_empty())
        }
        Verb::Sweep { seeds, scenario, jobs } => sweep(seeds, &scenario, jobs),
        Verb::Meta { seeds, scenario } => meta(seeds, &scenario),
        Verb::Core(args) => core::act(&args),
        Verb::List => {
            for (name, about, _) in SCENARIOS {
                println!("{name}  {about}");
            }
            Ok(true)
        }
    }
}

fn find(name: &str) -> anyhow::Result<Play> {
    scenario::find(name).with_context(|| format!("no scenario {name:?}; hint: sim list"))
}

fn play(options: &Options, play: Play) -> anyhow::Result<Outcome> {
    run(options, play).with_context(|| format!("run seed {}", options.seed))
}

fn brief_line(outcome: &Outcome) -> String {
    format!("{} {} {}", outcome.seed, outcome.trace_hash, outcome.violations.len())
}

fn report(outcome: &Outcome) {
    let Outcome { seed, trace_hash, lines, virtual_ms, .. } = outcome;
    println!("seed {seed}  trace {trace_hash}  {lines} events  {virtual_ms} virtual ms");
    for (name, count) in &outcome.counters {
        println!("  {name}  {count}");
    }
    for violation in &outcome.violations {
        println!("VIOLATION {}: {}", violation.invariant, violation.text);
    }
    if !outcome.violations.is_empty() {
        println!("last events:");
        outcome.tail.iter().for_each(|line| println!("  {line}"));
    }
}

fn sweep(seeds: Range<u64>, name: &str, jobs: u64) -> anyhow::Result<bool> {
    let scenario = find(name)?;
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let counters = Mutex::new(BTreeMap::<&str, u64>::new());
    let virtual_ms = AtomicU64::new(0);
    let started = std::time::Instant::now();
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let outcome = play(&Options::new(seed), scenario)?;
            for violation in &outcome.violations {
                println!("seed {seed}: VIOLATION {}: {}", violation.invariant, violation.text);
            }
            if !outcome.violations.is_empty() {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("  replay: sim run --scenario {name} --seed {seed} --trace FILE");
            }
            virtual_ms.fetch_add(outcome.virtual_ms, Ordering::Relaxed);
            if let Ok(mut counters) = counters.lock() {
                for (name, count) in outcome.counters {
                    *counters.entry(name).or_default() += count;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a sweep thread panicked"),
        })
    })?;
    let failed = failed.into_inner();
    let count = seeds.end.saturating_sub(seeds.start);
    let simulated_s = virtual_ms.into_inner() as f64 / 1e3;
    let pace = simulated_s / started.elapsed().as_secs_f64().max(1e-3);
    println!(
        "{count} seeds, {failed} failed; {simulated_s:.0} simulated seconds, {pace:.0} in a real one"
    );
    let counters = counters.into_inner().unwrap_or_default();
    for (name, count) in &counters {
        println!("  {name}  {count}");
    }
    // A handful of seeds may well miss some fault.
    let lacking = if count >= 20 { scenario::lacking(name, count, &counters) } else { Vec::new() };
    for text in &lacking {
        println!("VACUOUS: {text}");
    }
    Ok(failed == 0 && lacking.is_empty())
}

/// S1: two fresh processes, and this one after other seeds went before.
fn meta(seeds: u64, name: &str) -> anyhow::Result<bool> {
    let scenario = find(name)?;
    let mut same = true;
    for seed in 1..=seeds {
        let fresh = [fresh_process(seed, name)?, fresh_process(seed, name)?];
        let used = brief_line(&play(&Options::new(seed), scenario)?);
        if fresh[0] == fresh[1] && fresh[0] == used {
            println!("seed {seed}: same trace ({used})");
        } else {
            same = false;
            println!(
                "seed {seed}: TRACES DIFFER: fresh {:?}, {:?}; used {used:?}",
                fresh[0], fresh[1]
            );
            println!("  hint: write two traces with sim run --trace and compare them");
        }
    }
    Ok(same)
}

fn fresh_process(seed: u64, scenario: &str) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    let output = Command::new(program)
        .args(["run", "--brief", "--scenario", scenario, "--seed", &seed.to_string()])
        .output()
        .context("start a fresh process")?;
    let text = String::from_utf8(output.stdout).context("read a fresh process's answer")?;
    if text.trim().is_empty() {
        bail!("no answer for seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text.trim().to_owned())
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let hint = || format!("{text:?} is not like 0..1000");
    let (start, end) = text.split_once("..").ok_or_else(hint)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| hint());
    Ok(number(start)?..number(end)?)
}
