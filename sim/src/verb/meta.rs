//! `sim meta` (S1): two fresh processes give the same trace, and so does this one after other
//! seeds went before.

use std::process::Command;

use anyhow::{Context, bail};
use cairn_sim::replay::{Replay, Tuning};
use cairn_sim::scenario::SCENARIOS;

use super::{brief_line, play};

#[derive(clap::Args)]
pub struct Args {
    /// Seeds to check, from 1 on
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    #[arg(long, default_value = SCENARIOS[0].0)]
    scenario: String,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let name = &args.scenario;
    let mut same = true;
    for seed in 1..=args.seeds {
        let fresh = [fresh_process(seed, name)?, fresh_process(seed, name)?];
        let used = brief_line(&play(&Replay::new(name, seed, Tuning::default()), None)?);
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
