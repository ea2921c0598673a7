//! What the agent decides: which checkpoints are finished, what is put next, what is removed from
//! the local disk. It reads no clock, no disk and no network; it is told what was seen and what
//! became of its actions.
//!
//! A checkpoint in a watched directory:
//!
//! ```text
//! seen --> waiting --quiet, all there--> due --> putting --committed--> stored --> removing --> gone
//!             ^                           ^        |  |                   |
//!             +---- changed meanwhile ----|--------+  |                   +-- files change: waiting
//!                                         +- pause <--+ failed
//!                                   refused: another content is committed; until its files change
//! ```
//!
//! The puts of one job follow each other in the order of their steps, so that `latest` is the newest
//! of them. One that is finished late is put late.

mod action;
mod backoff;
mod ended;
mod prune;
mod report;
mod ripe;
#[cfg(test)]
mod tests;
mod wake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{CheckpointId, Step};

pub use self::action::{Action, Event, Found, Outcome, PutTask, RemoveTask};
pub use self::report::{CheckpointReport, JobReport, State};

use self::prune::Local;
use self::ripe::{Memory, Rule, Verdict};
use crate::config::{Job, Kind, Watch};
use crate::journal::{JobJournal, Journal, Record};
use crate::listing::{Look, Pointed, Scan, Times, Version, Witness};
use crate::schedule::Decision;
use crate::zone::step_of;

/// Both clocks: the wall clock for schedules and windows, and one that only goes forward.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub wall_ms: u64,
    /// Since the agent began.
    pub elapsed: Duration,
}

/// How a checkpoint's last action ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    /// These files; `None` for a scheduled run.
    Putting {
        version: Option<Version>,
    },
    Removing,
    Failed {
        version: Option<Version>,
        until: Duration,
        why: String,
    },
    /// For these files; `None` for a scheduled run.
    Refused {
        version: Option<Version>,
        why: String,
    },
    /// Not removed from the local disk, and not tried again before `until`.
    Kept {
        until: Duration,
        why: String,
    },
}

impl Phase {
    fn is_busy(&self) -> bool {
        matches!(self, Self::Putting { .. } | Self::Removing)
    }
}

/// A run that is over by this much in the future was stored under a clock that was wrong.
const CLOCK_AHEAD_MS: u64 = 600_000;

/// A checkpoint in a watched directory.
#[derive(Debug)]
struct Candidate {
    name: String,
    memory: Option<Memory>,
    verdict: Verdict,
    /// Of its files now, as far as they could be listed.
    version: Option<Version>,
    times: Times,
    bytes: u64,
    phase: Phase,
    /// Puts that failed in a row, and why the last one did.
    tries: u32,
    last_why: Option<String>,
    /// Removals in a row after which it was still there.
    kept: u32,
    /// Looks in a row that could not list it.
    failed_looks: u32,
}

struct JobMind {
    job: Arc<Job>,
    /// What its pauses and its jitter are drawn by: this agent and this job.
    draw: String,
    journal: JobJournal,
    /// By step.
    candidates: BTreeMap<u64, Candidate>,
    pointed: Pointed,
    needed: Result<BTreeSet<String>, String>,
    /// Names whose step another name has.
    doubles: Vec<String>,
    unmatched: Vec<String>,
    /// What interrupted removals left.
    left: Vec<String>,
    /// Of a scheduled run.
    run: Phase,
    run_tries: u32,
    running: Option<u64>,
    decision: Option<Decision>,
    /// Why the directory could not be read.
    trouble: Option<String>,
    /// What is wrong with the clock.
    clock: Option<String>,
}

pub struct Mind {
    jobs: Vec<JobMind>,
    puts_parallel: usize,
}

impl Mind {
    /// `agent` is the name of this agent.
    pub fn new(jobs: &[Arc<Job>], mut journal: Journal, puts_parallel: usize, agent: &str) -> Self {
        let mind = |job: &Arc<Job>| JobMind {
            job: job.clone(),
            draw: format!("{agent} {}", job.name),
            journal: journal.jobs.remove(&job.name).unwrap_or_default(),
            candidates: BTreeMap::new(),
            pointed: Pointed::NoPointer,
            needed: Ok(BTreeSet::new()),
            doubles: Vec::new(),
            unmatched: Vec::new(),
            left: Vec::new(),
            run: Phase::Idle,
            run_tries: 0,
            running: None,
            decision: None,
            trouble: None,
            clock: None,
        };
        Self { jobs: jobs.iter().map(mind).collect(), puts_parallel: puts_parallel.max(1) }
    }

    pub fn journal(&self) -> Journal {
        let jobs = self.jobs.iter().map(|it| (it.job.name.clone(), it.journal.clone())).collect();
        Journal { jobs, ..Journal::default() }
    }

    /// Of what is stored, the witnesses under which it need not be listed again.
    pub fn settled(&self, job: usize) -> BTreeMap<String, Witness> {
        let records = self.jobs[job].journal.stored.values();
        records
            .filter_map(|record| Some((record.name.clone(), record.version()?.witness)))
            .collect()
    }

    /// Takes in what a look at a job's directory found.
    pub fn look(&mut self, job: usize, scan: Result<Scan, String>, now: Now) {
        let this = &mut self.jobs[job];
        match scan {
            Ok(scan) => this.look(scan, now),
            Err(why) => this.trouble = Some(why),
        }
    }

    /// What is to be done now. Each action is given once; its event ends it. Without `may_remove`
    /// nothing is removed: the journal could not be written.
    pub fn next(&mut self, now: Now, may_remove: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut free = self.puts_parallel.saturating_sub(self.putting());
        // The job whose turn it is comes first, so that none waits for ever.
        let count = self.jobs.len();
        let first = usize::try_from(now.elapsed.as_secs()).unwrap_or(0) % count.max(1);
        for index in (0..count).map(|it| (it + first) % count) {
            let this = &mut self.jobs[index];
            if free > 0
                && let Some(task) = this.next_put(index, now)
            {
                free -= 1;
                actions.push(Action::Put(task));
            }
            if may_remove {
                actions.extend(this.next_removal(index, now).map(Action::Remove));
            }
        }
        actions
    }

    /// Takes in what became of an action; whether the journal has changed.
    pub fn heard(&mut self, event: Event, now: Now) -> bool {
        match self.jobs.get_mut(event.job) {
            Some(this) => this.heard(event.step.0, event.outcome, now),
            None => false,
        }
    }

    /// Whether the first look at the clock is to be written down.
    pub fn begin(&mut self, now: Now) -> bool {
        let mut is_new = false;
        for this in &mut self.jobs {
            if matches!(this.job.kind, Kind::Schedule(_)) && this.journal.done_ms.is_none() {
                this.journal.done_ms = Some(now.wall_ms);
                is_new = true;
            }
        }
        is_new
    }

    fn putting(&self) -> usize {
        self.jobs.iter().filter(|this| this.is_putting()).count()
    }
}

impl JobMind {
    fn is_putting(&self) -> bool {
        self.running.is_some()
            || self.candidates.values().any(|it| matches!(it.phase, Phase::Putting { .. }))
    }

    fn look(&mut self, scan: Scan, now: Now) {
        let Kind::Watch(watch) = &self.job.kind else { return };
        let rule = rule(watch);
        self.trouble = None;
        self.pointed = scan.pointed;
        (self.needed, self.unmatched, self.left) = (scan.needed, scan.unmatched, scan.left);
        self.doubles.clear();
        let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
        for found in &scan.seen {
            if seen.contains_key(&found.step) {
                self.doubles.push(found.name.clone());
                continue;
            }
            seen.insert(found.step, &found.name);
            let candidate = self.candidates.entry(found.step).or_insert_with(|| Candidate {
                name: found.name.clone(),
                memory: None,
                verdict: Verdict::Waiting("it was seen a moment ago".to_owned()),
                version: None,
                times: Times::default(),
                bytes: 0,
                phase: Phase::Idle,
                tries: 0,
                last_why: None,
                kept: 0,
                failed_looks: 0,
            });
            candidate.times = found.times;
            if candidate.name != found.name {
                candidate.name.clone_from(&found.name);
                candidate.memory = None;
            }
            candidate.failed_looks = match &found.look {
                Look::Failed { .. } => candidate.failed_looks.saturating_add(1),
                _ => 0,
            };
            match &found.look {
                Look::Settled => {
                    let record = self.journal.stored.get(&found.step);
                    candidate.version = record.and_then(Record::version);
                    candidate.bytes = record.map_or(0, |record| record.bytes);
                    if let Some(version) = candidate.version {
                        candidate.verdict = Verdict::Finished(version);
                    }
                }
                look => {
                    candidate.version = match look {
                        Look::Listed { version, bytes, .. } => {
                            candidate.bytes = *bytes;
                            Some(*version)
                        }
                        _ => None,
                    };
                    let seen = (found.step, look, found.times);
                    let memory = &mut candidate.memory;
                    candidate.verdict = rule.judge(memory, seen, &self.pointed, now.elapsed);
                }
            }
            // Other files: what was wrong with those before is over.
            if let Phase::Failed { version, .. } = &candidate.phase
                && *version != candidate.version
            {
                (candidate.phase, candidate.tries, candidate.last_why) = (Phase::Idle, 0, None);
            }
        }
        self.candidates.retain(|step, it| seen.contains_key(step) || it.phase.is_busy());
        self.journal.trim(|step| seen.contains_key(&step));
    }

    fn next_put(&mut self, index: usize, now: Now) -> Option<PutTask> {
        if self.is_putting() {
            return None;
        }
        match &self.job.kind {
            Kind::Watch(_) if self.job.windows.are_open(now.wall_ms) => {
                let due = |(step, candidate): (&u64, &Candidate)| {
                    let version = self.due(*step, candidate, now)?;
                    Some((*step, Found { name: candidate.name.clone(), version }))
                };
                let (step, found) = self.candidates.iter().find_map(due)?;
                let version = Some(found.version);
                self.candidates.get_mut(&step)?.phase = Phase::Putting { version };
                Some(PutTask { job: index, step: Step(step), found: Some(found), due_ms: None })
            }
            Kind::Watch(_) => None,
            Kind::Schedule(_) => self.next_run(index, now),
        }
    }

    /// The version in which a candidate is to be put now. Where nothing but the witness differs from
    /// what is stored, the put compares the bytes.
    fn due(&self, step: u64, candidate: &Candidate, now: Now) -> Option<Version> {
        let Verdict::Finished(version) = candidate.verdict else { return None };
        let stored = self.journal.stored.get(&step).and_then(Record::version);
        let waits = match &candidate.phase {
            Phase::Idle | Phase::Kept { .. } => false,
            Phase::Putting { .. } | Phase::Removing => true,
            Phase::Failed { until, .. } => now.elapsed < *until,
            Phase::Refused { version: refused, .. } => *refused == Some(version),
        };
        (stored != Some(version) && !waits).then_some(version)
    }

    fn next_run(&mut self, index: usize, now: Now) -> Option<PutTask> {
        let Kind::Schedule(scheduled) = &self.job.kind else { return None };
        let mut done = self.journal.done_ms.unwrap_or(now.wall_ms);
        if done > now.wall_ms.saturating_add(CLOCK_AHEAD_MS) {
            tracing::error!(job = self.job.name, done, "the clock was ahead: no run is over");
            self.clock = Some(
                "a run was stored at a time that has not come: \
                the clock was ahead then, or is behind now"
                    .to_owned(),
            );
            done = now.wall_ms;
            self.journal.done_ms = Some(done);
        }
        let windows = &self.job.windows;
        let decision = scheduled.schedule.decide(
            &self.draw,
            (done, self.journal.begun_ms),
            now.wall_ms,
            windows,
        );
        self.decision = Some(decision);
        let due = match decision {
            Decision::Run { due } => due,
            Decision::Skip { due } => {
                tracing::warn!(job = self.job.name, due_ms = due, "a missed run is skipped");
                self.journal.done_ms = Some(due);
                return None;
            }
            Decision::Idle { .. } | Decision::Waits { .. } => return None,
        };
        if self.journal.begun_ms != Some(due) {
            // What was wrong with the run before is over.
            (self.journal.begun_ms, self.run_tries, self.run) = (Some(due), 0, Phase::Idle);
        }
        if let Phase::Failed { until, .. } = &self.run
            && now.elapsed < *until
        {
            return None;
        }
        self.running = Some(due);
        Some(PutTask { job: index, step: Step(step_of(due)), found: None, due_ms: Some(due) })
    }

    /// One at a time. None while it is not known what the program needs.
    fn next_removal(&mut self, index: usize, now: Now) -> Option<RemoveTask> {
        let Kind::Watch(Watch { keep_local: Some(keep), .. }) = &self.job.kind else { return None };
        let is_removing = |candidate: &Candidate| candidate.phase == Phase::Removing;
        let needed = self.needed.as_ref().ok()?;
        if matches!(self.pointed, Pointed::Unknown { .. })
            || self.candidates.values().any(is_removing)
        {
            return None;
        }
        let local = |(step, candidate): (&u64, &Candidate)| {
            let stored = self.journal.stored.get(step).and_then(Record::version);
            let is_kept =
                matches!(&candidate.phase, Phase::Kept { until, .. } if now.elapsed < *until);
            let is_pointed =
                matches!(self.pointed, Pointed::Step { step: pointed, .. } if pointed == *step);
            Local {
                step: *step,
                times: candidate.times,
                is_stored: stored.is_some() && stored == candidate.version,
                is_busy: candidate.phase.is_busy() || is_kept,
                is_needed: is_pointed || needed.contains(&candidate.name),
            }
        };
        let locals: Vec<Local> = self.candidates.iter().map(local).collect();
        let step = prune::removable(&locals, *keep).into_iter().next()?;
        let record = self.journal.stored.get(&step)?;
        let (version, candidate) = (record.version()?, self.candidates.get_mut(&step)?);
        candidate.phase = Phase::Removing;
        let found = Found { name: candidate.name.clone(), version };
        let (id, cluster) = (CheckpointId(record.id), record.cluster.clone());
        Some(RemoveTask { job: index, step: Step(step), found, id, cluster })
    }
}

fn rule(watch: &Watch) -> Rule {
    Rule { quiet: watch.quiet, pointer: watch.layout.pointer().map(|pointer| pointer.file) }
}
