//! `sim meta` (S1): two fresh processes give the same trace, and so does this one after other
//! seeds went before; other seeds give other traces, and a trace says enough to tell.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_sim::replay::{Replay, Tuning};
use cairn_sim::scenario::SCENARIOS;

use super::{View, brief_line, each_seed, play};

/// Events that a minute of virtual time leaves in a trace, at the least.
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
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let mut all = each_seed(1..args.seeds.saturating_add(1), args.jobs, |seed| one(args, seed))?;
    all.sort_by_key(|seen| seen.seed);
    let (mut good, mut hashes, mut fewest) = (true, BTreeMap::new(), u64::MAX);
    for seen in &all {
        if seen.fresh.iter().any(|fresh| *fresh != seen.used) {
            good = false;
            println!("seed {}: TRACES DIFFER: fresh {:?}", seen.seed, seen.fresh);
            println!("  used {:?}", seen.used);
            println!("  hint: write two traces with sim run --trace and compare them");
        }
        if let Some(other) = hashes.insert(&seen.hash, seen.seed) {
            good = false;
            println!("seed {}: THE TRACE OF SEED {other}", seen.seed);
        }
        let lines = seen.lines * 60_000 / seen.virtual_ms.max(1);
        fewest = fewest.min(lines);
        if lines < LINES_A_MINUTE_MIN {
            good = false;
            println!("seed {}: ONLY {lines} EVENTS A VIRTUAL MINUTE", seen.seed);
        }
    }
    let verdict = if good { "each the same three times" } else { "NOT AS THEY SHOULD BE" };
    println!(
        "{} traces of {}, {} virtual seconds: {verdict}; {fewest} events a virtual minute or more",
        all.len(),
        args.scenario,
        all.iter().map(|seen| seen.virtual_ms).sum::<u64>() / 1_000,
    );
    Ok(good)
}

/// One seed's trace, seen three times.
struct Seen {
    seed: u64,
    fresh: [String; 2],
    used: String,
    hash: String,
    lines: u64,
    virtual_ms: u64,
}

fn one(args: &Args, seed: u64) -> anyhow::Result<Seen> {
    let fresh = [fresh_process(args, seed)?, fresh_process(args, seed)?];
    let view = View { until: args.until.map(Duration::from_secs), ..View::default() };
    let outcome = play(&Replay::new(&args.scenario, seed, Tuning::default()), view)?;
    let (lines, virtual_ms) = (outcome.lines, outcome.virtual_ms);
    let used = brief_line(&outcome);
    Ok(Seen { seed, fresh, used, hash: outcome.trace_hash, lines, virtual_ms })
}

fn fresh_process(args: &Args, seed: u64) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["run", "--brief", "--scenario", &args.scenario, "--seed", &seed.to_string()]);
    if let Some(until) = args.until {
        command.args(["--until", &until.to_string()]);
    }
    let output = command.output().context("start a fresh process")?;
    let text = String::from_utf8(output.stdout).context("read a fresh process's answer")?;
    if text.trim().is_empty() {
        bail!("no answer for seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text.trim().to_owned())
}
