//! `sim meta` (S1): two fresh processes give the same trace. For some seeds this process gives it
//! too, after it has played other seeds. Different seeds give different traces, and a trace has
//! enough lines to distinguish them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_sim::replay::{Replay, Tuning};
use cairn_sim::scenario::SCENARIOS;

use super::{Brief, View, each_seed, play};

/// The least number of events per minute of virtual time in a trace.
const LINES_A_MINUTE_MIN: u64 = 1_000;

#[derive(clap::Args)]
pub struct Args {
    /// Seeds to check, from 1 on
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    #[arg(long, default_value = SCENARIOS[0].0)]
    scenario: String,
    /// Compare the first so many virtual seconds of each
    #[arg(long, value_name = "SECONDS")]
    until: Option<u64>,
    /// Seeds checked at a time
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Every so many seeds, one is played in this process too
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    used_every: u64,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let seeds = 1..args.seeds.saturating_add(1);
    let mut all = each_seed(seeds, args.jobs, |seed| Ok((seed, one(args, seed)?)))?;
    all.sort_by_key(|(seed, _)| *seed);
    let (mut good, mut hashes) = (true, BTreeMap::new());
    let (mut virtual_ms, mut fewest) = (0, u64::MAX);
    for (seed, seen) in &all {
        let Some(first) = seen.first() else { continue };
        if seen.iter().any(|other| other != first) {
            good = false;
            println!("seed {seed}: TRACES DIFFER");
            seen.iter().for_each(|one| println!("  {one}"));
            println!("  hint: write two traces with sim run --trace and compare them");
        }
        if let Some(other) = hashes.insert(&first.hash, seed) {
            good = false;
            println!("seed {seed}: THE TRACE OF SEED {other}");
        }
        let lines = first.lines * 60_000 / first.virtual_ms.max(1);
        if lines < LINES_A_MINUTE_MIN {
            good = false;
            println!("seed {seed}: ONLY {lines} EVENTS A VIRTUAL MINUTE");
        }
        fewest = fewest.min(lines);
        virtual_ms += first.virtual_ms;
    }
    println!(
        "{} traces of {}, {} virtual seconds: {}; {fewest} events a virtual minute or more",
        all.len(),
        args.scenario,
        virtual_ms / 1_000,
        if good { "each the same every time" } else { "NOT AS THEY SHOULD BE" },
    );
    Ok(good)
}

/// One seed's trace in two fresh processes, and perhaps in this one.
fn one(args: &Args, seed: u64) -> anyhow::Result<Vec<Brief>> {
    let mut seen = vec![fresh_process(args, seed)?, fresh_process(args, seed)?];
    if seed.is_multiple_of(args.used_every) {
        let view = View { until: args.until.map(Duration::from_secs), ..View::default() };
        let outcome = play(&Replay::new(&args.scenario, seed, Tuning::default()), view)?;
        seen.push(Brief::of(&outcome));
    }
    Ok(seen)
}

fn fresh_process(args: &Args, seed: u64) -> anyhow::Result<Brief> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["run", "--brief", "--scenario", &args.scenario, "--seed", &seed.to_string()]);
    if let Some(until) = args.until {
        command.args(["--until", &until.to_string()]);
    }
    let output = command.output().context("start a fresh process")?;
    let text = String::from_utf8(output.stdout).context("read a fresh process's answer")?;
    match text.trim().parse() {
        Ok(brief) => Ok(brief),
        Err(error) => {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("seed {seed}: {error}: {text:?} {said}")
        }
    }
}
