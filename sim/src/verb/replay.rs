//! `sim replay`: plays the run of a file, and checks whether it still breaks the promise named
//! there.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use cairn_sim::replay::Replay;

use super::{View, play, report};

/// The longest head of a trace.
const HEAD_BYTES_MAX: u64 = 64 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// Written by `sim minimize` or by `sim run --trace`
    file: PathBuf,
    /// Write the plan, every event and every log line here
    #[arg(long)]
    trace: Option<PathBuf>,
}

pub fn act(args: &Args) -> anyhow::Result<bool> {
    let replay = read(&args.file)?;
    let outcome = play(&replay, View { trace: args.trace.clone(), until: None })?;
    report(&replay, &outcome)?;
    if let Some(known) = &replay.breaks {
        let still = outcome.violations.iter().any(|it| it.invariant == *known);
        println!(
            "{known}, which this run is known to break: {}",
            if still { "broken" } else { "kept" }
        );
    }
    Ok(outcome.violations.is_empty())
}

fn read(path: &Path) -> anyhow::Result<Replay> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("open replay file {shown}"))?;
    let mut bytes = Vec::new();
    file.take(HEAD_BYTES_MAX).read_to_end(&mut bytes).with_context(|| format!("read {shown}"))?;
    String::from_utf8_lossy(&bytes).parse().with_context(|| format!("read replay file {shown}"))
}
