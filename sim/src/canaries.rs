//! S3: known-bad variants of the product, each a canary of `cairn_types::canary`, are played in the
//! ordinary `mix`. Each must be found by the invariant that it breaks.
//!
//! A canary is active in a whole process, so each is played in its own process:
//!
//! ```text
//!   sim canaries ---> sim canaries --play NAME      seed after seed, until one finds it
//!                <--- one line: played, found in, first seed, invariant, milliseconds
//! ```

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cairn_types::canary::{self, CANARIES, Canary};
use clap::Args;

use crate::run::{Options, run};
use crate::scenario::{self, Play, mix};

/// A run that finds nothing in this much virtual time will find nothing.
const VIRTUAL_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The arguments of `sim canaries`.
#[derive(Args)]
pub struct CanaryArgs {
    /// Seeds of the mix to play, from 1 on
    #[arg(long, env = "CAIRN_SIM_SEEDS", default_value_t = 50)]
    seeds: u64,
    /// Canaries played at a time
    #[arg(long, env = "CAIRN_SIM_JOBS", default_value_t = 1)]
    jobs: usize,
    /// This canary alone
    #[arg(long)]
    only: Option<String>,
    /// Play every seed, and count those that find it; by default the first is enough
    #[arg(long)]
    all_seeds: bool,
    /// Play this one in this very process
    #[arg(long, hide = true)]
    play: Option<String>,
}

/// The result of one canary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    played: u64,
    found_in: u64,
    /// The first seed that found it, and the invariant that was broken.
    first: Option<(u64, String)>,
    wall_ms: u64,
}

/// Plays the canaries and prints the table. False if one was not found.
pub fn act(args: &CanaryArgs) -> anyhow::Result<bool> {
    if let Some(name) = &args.play {
        let found = play(name, args.seeds, args.all_seeds)?;
        println!("{}", found.line());
        return Ok(found.first.is_some());
    }
    if !canary::BUILT_IN {
        bail!(
            "this build has no canaries; hint: cargo run -p cairn-sim --features canary -- canaries"
        );
    }
    let wanted: Vec<&Canary> = match &args.only {
        Some(name) => vec![canary::find(name).with_context(|| format!("no canary {name:?}"))?],
        None => CANARIES.iter().collect(),
    };
    let results = play_all(&wanted, args)?;
    let mut missed = 0;
    println!("| canary | what it breaks | found by | first seed | found in | seconds |");
    println!("|---|---|---|---|---|---|");
    for (canary, found) in wanted.iter().zip(results) {
        missed += u32::from(found.first.is_none());
        println!("{}", found.row(canary));
    }
    println!("{} canaries, {missed} missed", wanted.len());
    Ok(missed == 0)
}

/// Plays the mix, seed by seed, with one canary active in this process.
fn play(name: &str, seeds: u64, all_seeds: bool) -> anyhow::Result<Found> {
    let canary = canary::activate(name)?;
    #[allow(clippy::disallowed_methods, reason = "how long it takes people to wait")]
    let started = Instant::now();
    let mut found = Found { played: 0, found_in: 0, first: None, wall_ms: 0 };
    for seed in 1..=seeds {
        let options = Options {
            stop_at: canary.caught_by.to_vec(),
            virtual_limit: VIRTUAL_LIMIT,
            ..Options::new(seed)
        };
        let outcome = run(&options, play_of(canary)).with_context(|| format!("run seed {seed}"))?;
        found.played += 1;
        let named = |it: &&crate::world::Violation| canary.caught_by.contains(&&*it.invariant);
        let by = outcome.violations.iter().find(named);
        for other in outcome.violations.iter().filter(|_| by.is_none()) {
            eprintln!("{name} seed {seed}: only {}: {}", other.invariant, other.text);
        }
        if let Some(violation) = by {
            eprintln!("{name} seed {seed}: {}: {}", violation.invariant, violation.text);
            found.found_in += 1;
            found.first.get_or_insert((seed, violation.invariant.clone()));
            if !all_seeds {
                break;
            }
        }
    }
    found.wall_ms = started.elapsed().as_millis() as u64;
    Ok(found)
}

/// The scenario in which a canary is looked for. It is the mix, whose clusters have three or more
/// nodes, unless another scenario shows the defect better.
fn play_of(canary: &Canary) -> Play {
    let story = match canary.name {
        // These need rare events in the mix: a client's upload that a rollback has just aborted, or
        // a quarantine of the checkpoint with the best metric.
        "rollback_leaves_uploads" | "rolled_back_begins_again" | "best_in_quarantine" => {
            scenario::find("marked_checkpoints")
        }
        // The mix's clients put whole checkpoints.
        "voided_part_stays" | "voided_keeps_references" | "close_takes_unsealed" => {
            scenario::find("streamed_files")
        }
        // Clients of the mix have no tokens: every process is trusted there.
        "write_deletes" | "uploads_are_anyones" | "revoked_is_taken" | "reply_authorizes" => {
            scenario::find("stolen_token")
        }
        // In the mix few snapshots are made right before a power cut.
        "audit_skips_after_restart" | "purge_before_audit" => {
            scenario::find("audit_beside_snapshots")
        }
        // The client waits for its upload's Begin.
        "seal_unread" => scenario::find("sealed_before_it_began"),
        // In the mix clients and catch-up read most of what rots.
        "scrub_without_reading" => scenario::find("read_by_nobody"),
        // Truncation by a successor with fewer entries is rare in the mix.
        "truncation_stays" => scenario::find("cut_off_tail"),
        // A run of the mix takes minutes, and its namespaces have few checkpoints.
        "oldest_of_bucket"
        | "retention_ignores_holds"
        | "confirmation_ignored"
        | "trash_drops_references" => scenario::find("rules_and_trash"),
        // The mix starts old disks only in healthy clusters.
        "old_directory_votes" => scenario::find("cold_start_on_an_old_directory"),
        "drained_is_waited_for" | "drained_lets_go" => scenario::find("drained_under_load"),
        "no_maintenance" => scenario::find("maintained"),
        "remove_before_the_vote" => scenario::find("removed_voter_of_two"),
        _ => None,
    };
    story.unwrap_or(mix::play)
}

/// Plays each canary in its own process, as many at a time as there are jobs.
fn play_all(wanted: &[&Canary], args: &CanaryArgs) -> anyhow::Result<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; wanted.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(canary) = wanted.get(place) else { return Ok(()) };
            let found = play_apart(canary.name, args)?;
            if let Ok(mut results) = results.lock() {
                results[place] = Some(found);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        })
    })?;
    let results = results.into_inner().unwrap_or_default();
    results.into_iter().map(|found| found.context("a canary was not played")).collect()
}

fn play_apart(name: &str, args: &CanaryArgs) -> anyhow::Result<Found> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.args(["canaries", "--play", name, "--seeds", &args.seeds.to_string()]);
    if args.all_seeds {
        command.arg("--all-seeds");
    }
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("start a process for {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Found::parse(text.trim())
        .with_context(|| format!("the process of canary {name} ended with {}", output.status))
}

impl Found {
    fn line(&self) -> String {
        let Self { played, found_in, wall_ms, .. } = self;
        let (seed, by) = self.first.clone().unwrap_or((0, "-".to_owned()));
        format!("{played} {found_in} {seed} {by} {wall_ms}")
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [played, found_in, seed, by, wall_ms] = fields[..] else { return None };
        let found_in = found_in.parse().ok()?;
        let first = (seed.parse().ok()?, by.to_owned());
        let first = (found_in > 0).then_some(first);
        Some(Self { played: played.parse().ok()?, found_in, first, wall_ms: wall_ms.parse().ok()? })
    }

    fn row(&self, canary: &Canary) -> String {
        let (by, seed) = match &self.first {
            Some((seed, by)) => (by.clone(), seed.to_string()),
            None => (format!("MISSED, wants {}", canary.caught_by.join(" or ")), "-".to_owned()),
        };
        let Self { played, found_in, wall_ms, .. } = self;
        let seconds = *wall_ms as f64 / 1e3;
        format!(
            "| `{}` | {} | {by} | {seed} | {found_in} of {played} | {seconds:.1} |",
            canary.name, canary.breaks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_a_process_is_read_as_it_was_written() {
        let first = Some((7, "D3".to_owned()));
        let found = Found { played: 7, found_in: 1, first, wall_ms: 12_345 };
        assert_eq!(Found::parse(&found.line()), Some(found.clone()));
        let missed = Found { found_in: 0, first: None, ..found };
        assert_eq!(Found::parse(&missed.line()), Some(missed.clone()));
        assert_eq!(Found::parse("error: out of memory"), None);
        let row = missed.row(&CANARIES[0]);
        assert!(row.contains("MISSED, wants D1"), "{row}");
    }
}
