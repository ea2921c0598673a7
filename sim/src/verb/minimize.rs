//! `sim minimize`: the fewest faults and the smallest plan that still break a seed's promise.

use std::path::PathBuf;

use anyhow::{Context, bail};
use cairn_sim::minimize::minimize;

use super::{View, Which, plan_of, play, report_failure};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Runs to spend
    #[arg(long, default_value_t = 150)]
    runs: u32,
    /// Where the replay file goes; without it `SCENARIO-SEED.replay` here
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let replay = args.which.replay();
    if plan_of(&replay)?.is_none() {
        bail!("scenario {} has no plan to shrink; hint: --scenario mix", replay.scenario);
    }
    let mut runs = 0;
    let smallest = minimize(&replay, args.runs, |replay| {
        let outcome = play(replay, View::default()).map_err(std::io::Error::other)?;
        runs += 1;
        let names: Vec<_> = outcome.violations.iter().map(|it| it.invariant.as_str()).collect();
        eprintln!("run {runs}: {} faults struck, breaks {names:?}", outcome.faults.len());
        Ok(outcome)
    })?;
    let name = || format!("{}-{}.replay", replay.scenario, replay.seed).into();
    let out = args.out.clone().unwrap_or_else(name);
    std::fs::write(&out, smallest.replay.to_string())
        .with_context(|| format!("write replay file {}", out.display()))?;
    println!("{} runs; what is left goes wrong like this:", smallest.runs);
    for (ordinal, text) in &smallest.outcome.faults {
        println!("  #{ordinal} at {text}");
    }
    report_failure(&smallest.replay, &smallest.outcome);
    println!("or: sim replay {}", out.display());
    Ok(true)
}
