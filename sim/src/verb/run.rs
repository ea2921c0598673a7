//! `sim run`: plays one seed and reports the result.

use std::path::PathBuf;
use std::time::Duration;

use super::{Brief, View, Which, play, report};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Write the plan, every event and every log line here
    #[arg(long)]
    trace: Option<PathBuf>,
    /// End after so many virtual seconds, however far the scenario has come
    #[arg(long, value_name = "SECONDS")]
    until: Option<u64>,
    /// Print only seed, hash of the trace, its events, virtual milliseconds and violations
    #[arg(long)]
    brief: bool,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let replay = args.which.replay();
    let until = args.until.map(Duration::from_secs);
    let outcome = play(&replay, View { trace: args.trace.clone(), until })?;
    if args.brief {
        println!("{}", Brief::of(&outcome));
    } else {
        report(&replay, &outcome)?;
    }
    Ok(outcome.violations.is_empty())
}
