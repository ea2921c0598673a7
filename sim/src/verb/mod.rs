//! Common parts of the verbs: finding a scenario, playing a replay, reporting the result.

pub mod meta;
pub mod minimize;
pub mod replay;
pub mod run;
pub mod sweep;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_sim::replay::{Mask, Replay, Tuning, parse_set};
use cairn_sim::run::{Options, Outcome};
use cairn_sim::scenario::plan::Plan;
use cairn_sim::scenario::{self, Play, SCENARIOS};
use parking_lot::Mutex;

/// Selects the run.
#[derive(clap::Args)]
pub struct Which {
    #[arg(long, env = "CAIRN_SIM_SEED")]
    seed: u64,
    #[arg(long, default_value = SCENARIOS[0].0)]
    scenario: String,
    /// Set a parameter of the plan, as `nodes=4` or `faults.rot=0`
    #[arg(long, value_parser = parse_set)]
    set: Vec<(String, u64)>,
    /// Faults that do not happen, as `3,7,9-20`
    #[arg(long)]
    mask: Option<Mask>,
}

impl Which {
    fn replay(&self) -> Replay {
        let set = self.set.iter().cloned().collect();
        let tuning = Tuning { set, mask: self.mask.clone().unwrap_or_default() };
        Replay::new(&self.scenario, self.seed, tuning)
    }
}

fn find(name: &str) -> anyhow::Result<Play> {
    scenario::find(name).with_context(|| format!("no scenario {name:?}; hint: sim list"))
}

/// The plan, if the scenario has one.
fn plan_of(replay: &Replay) -> anyhow::Result<Option<Plan>> {
    if scenario::has_plan(&replay.scenario) {
        return Ok(Some(Plan::of(replay.seed, &replay.tuning.set)?));
    }
    if replay.tuning != Tuning::default() {
        bail!("scenario {} has no plan to change", replay.scenario);
    }
    Ok(None)
}

fn plan_text(plan: &Plan) -> String {
    let values = plan.values().into_iter().map(|(name, value)| format!("{name}={value}"));
    values.collect::<Vec<_>>().join(" ")
}

/// Calls `one` for every seed, `jobs` at a time. Returns the answers in order of completion.
fn each_seed<T: Send>(
    seeds: Range<u64>,
    jobs: u64,
    one: impl Fn(u64) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let (next, all) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let answer = one(seed)?;
            all.lock().push(answer);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread that plays seeds panicked"),
        })
    })?;
    Ok(all.into_inner())
}

/// Options for looking at a run.
#[derive(Debug, Clone, Default)]
struct View {
    trace: Option<PathBuf>,
    /// Ends the run at this virtual time.
    until: Option<Duration>,
}

fn play(replay: &Replay, view: View) -> anyhow::Result<Outcome> {
    let plan = plan_of(replay)?;
    let mut head = replay.to_string();
    if let Some(plan) = &plan {
        head.push_str(&format!("# plan {}\n", plan_text(plan)));
    }
    let View { trace, until } = view;
    let options =
        Options { tuning: replay.tuning.clone(), head, trace, until, ..Options::new(replay.seed) };
    cairn_sim::run::run(&options, find(&replay.scenario)?)
        .with_context(|| format!("run seed {}", replay.seed))
}

/// A run on one line: seed, hash of all events, their number, virtual milliseconds, violations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Brief {
    seed: u64,
    hash: String,
    lines: u64,
    virtual_ms: u64,
    violations: usize,
}

impl Brief {
    fn of(outcome: &Outcome) -> Self {
        Self {
            seed: outcome.seed,
            hash: outcome.trace_hash.clone(),
            lines: outcome.lines,
            virtual_ms: outcome.virtual_ms,
            violations: outcome.violations.len(),
        }
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, hash, lines, virtual_ms, violations } = self;
        write!(f, "{seed} {hash} {lines} {virtual_ms} {violations}")
    }
}

impl FromStr for Brief {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split(' ').collect();
        let [seed, hash, lines, virtual_ms, violations] = words[..] else {
            return Err("a brief answer has five words".to_owned());
        };
        let number = |word: &str| word.parse::<u64>().map_err(|error| format!("{word:?}: {error}"));
        Ok(Self {
            seed: number(seed)?,
            hash: hash.to_owned(),
            lines: number(lines)?,
            virtual_ms: number(virtual_ms)?,
            violations: number(violations)? as usize,
        })
    }
}

fn report(replay: &Replay, outcome: &Outcome) -> anyhow::Result<()> {
    let Outcome { seed, trace_hash, lines, virtual_ms, .. } = outcome;
    println!("seed {seed}  trace {trace_hash}  {lines} events  {virtual_ms} virtual ms");
    if let Some(plan) = plan_of(replay)? {
        println!("plan: {}", plan_text(&plan));
    }
    for (name, count) in &outcome.counters {
        println!("  {name}  {count}");
    }
    report_failure(replay, outcome);
    Ok(())
}

/// Prints nothing for a run that kept all promises.
fn report_failure(replay: &Replay, outcome: &Outcome) {
    let Some(first) = outcome.violations.first() else { return };
    for violation in &outcome.violations {
        println!("seed {}: VIOLATION {}: {}", outcome.seed, violation.invariant, violation.text);
    }
    println!("what led to {} (virtual ms | who | what):", first.invariant);
    outcome.story.iter().for_each(|line| println!("  {line}"));
    println!("replay: {} --trace FILE", replay.command());
}
