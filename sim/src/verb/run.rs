//! `sim run`: one seed, and what came of it.

use std::path::PathBuf;

use super::{Which, brief_line, play, report};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Write the plan, every event and every log line here
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Print only the seed, the trace's hash and the number of violations
    #[arg(long)]
    brief: bool,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let replay = args.which.replay();
    let outcome = play(&replay, args.trace.clone())?;
    if args.brief {
        println!("{}", brief_line(&outcome));
    } else {
        report(&replay, &outcome)?;
    }
    Ok(outcome.violations.is_empty())
}
