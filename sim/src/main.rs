//! `sim`: plays scenarios by seed.
//!
//! Exit codes: 0 all promises kept; 1 a promise broken, traces differ, or a sweep whose faults did
//! not happen often enough; 2 wrong usage.

#![allow(clippy::disallowed_methods, reason = "drives runs from outside of them")]

mod verb;

/// Half of a run's time is allocation, all on one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::process::ExitCode;

use cairn_sim::canaries::{self, CanaryArgs};
use cairn_sim::mind::verb as core;
use cairn_sim::scenario;
use cairn_types::canary;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "sim", about = "Deterministic simulation of Cairn clusters")]
struct Args {
    /// Put this known bug back (only in a build with the feature `canary`)
    #[arg(long, global = true, env = "CAIRN_SIM_CANARY", value_name = "NAME")]
    canary: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Play one seed and say what came of it
    Run(verb::run::Args),
    /// Play a file that `minimize` or `run --trace` wrote
    Replay(verb::replay::Args),
    /// Find the fewest faults and the smallest plan that still break a seed's promise
    Minimize(verb::minimize::Args),
    /// Play many seeds; name those that break a promise
    Sweep(verb::sweep::Args),
    /// Check that a seed gives the same trace in fresh processes and in a used one
    Meta(verb::meta::Args),
    /// Put known bugs back, one at a time, and see that each is found
    Canaries(CanaryArgs),
    /// Play `core` alone under a hand-written scheduler
    Core(core::Args),
    /// List the scenarios
    List,
}

fn main() -> ExitCode {
    match begin(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn begin(args: Args) -> anyhow::Result<bool> {
    if let Some(name) = &args.canary {
        canary::activate(name)?;
    }
    act(args.verb)
}

/// Returns whether all promises were kept.
fn act(verb: Verb) -> anyhow::Result<bool> {
    match verb {
        Verb::Run(args) => verb::run::act(&args),
        Verb::Replay(args) => verb::replay::act(&args),
        Verb::Minimize(args) => verb::minimize::act(&args),
        Verb::Sweep(args) => verb::sweep::act(&args),
        Verb::Meta(args) => verb::meta::act(&args),
        Verb::Canaries(args) => canaries::act(&args),
        Verb::Core(args) => core::act(&args),
        Verb::List => {
            for (name, about, _) in scenario::all() {
                println!("{name}  {about}");
            }
            Ok(true)
        }
    }
}
