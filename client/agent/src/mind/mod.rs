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
mod prune;
mod report;
mod ripe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{CheckpointId, Step};

pub use self::action::{Action, Event, Found, Outcome, PutTask, RemoveTask};
pub use self::report::{CheckpointReport, JobReport, State};

use self::prune::Local;
use self::ripe::{Memory, Rule, Verdict};
use crate::config::{Job, Kind, Watch};
use crate::journal::{JobJournal, Journal, Record, Stamp};
use crate::listing::{Fingerprint, Look, Scan};
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
    /// The files with this fingerprint; `None` for a scheduled run.
    Putting {
        fingerprint: Option<Fingerprint>,
    },
    Removing,
    Failed {
        until: Duration,
        why: String,
    },
    /// For the files with this fingerprint; `None` for a scheduled run.
    Refused {
        fingerprint: Option<Fingerprint>,
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

/// After this pause a removal is tried again.
const KEPT_PAUSE: Duration = Duration::from_secs(60);

/// A checkpoint in a watched directory.
#[derive(Debug)]
struct Candidate {
    name: String,
    memory: Option<Memory>,
    verdict: Verdict,
    /// Of its files now, as far as they could be listed.
    fingerprint: Option<Fingerprint>,
    bytes: u64,
    phase: Phase,
    /// That failed in a row.
    tries: u32,
}

struct JobMind {
    job: Arc<Job>,
    journal: JobJournal,
    /// By step.
    candidates: BTreeMap<u64, Candidate>,
    pointed: Option<u64>,
    /// Names whose step another name has.
    doubles: Vec<String>,
    /// Of a scheduled run.
    run: Phase,
    run_tries: u32,
    running: Option<u64>,
    decision: Option<Decision>,
    /// Why the directory could not be read.
    trouble: Option<String>,
}

pub struct Mind {
    jobs: Vec<JobMind>,
    puts_parallel: usize,
}

impl Mind {
    pub fn new(jobs: &[Arc<Job>], mut journal: Journal, puts_parallel: usize) -> Self {
        let mind = |job: &Arc<Job>| JobMind {
            job: job.clone(),
            journal: journal.jobs.remove(&job.name).unwrap_or_default(),
            candidates: BTreeMap::new(),
            pointed: None,
            doubles: Vec::new(),
            run: Phase::Idle,
            run_tries: 0,
            running: None,
            decision: None,
            trouble: None,
        };
        Self { jobs: jobs.iter().map(mind).collect(), puts_parallel: puts_parallel.max(1) }
    }

    pub fn journal(&self) -> Journal {
        let jobs = self.jobs.iter().map(|it| (it.job.name.clone(), it.journal.clone())).collect();
        Journal { jobs, ..Journal::default() }
    }

    /// Of what is stored, the stamps under which it need not be listed again.
    pub fn settled(&self, job: usize) -> BTreeMap<String, Stamp> {
        let records = self.jobs[job].journal.stored.values();
        records.filter_map(|record| Some((record.name.clone(), record.stamp?))).collect()
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
                actions.extend(this.next_removals(index, now).map(Action::Remove));
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
                fingerprint: None,
                bytes: 0,
                phase: Phase::Idle,
                tries: 0,
            });
            if candidate.name != found.name {
                candidate.name.clone_from(&found.name);
                candidate.memory = None;
            }
            match &found.look {
                Look::Settled => {
                    let record = self.journal.stored.get(&found.step);
                    candidate.fingerprint = record.and_then(|record| record.fingerprint);
                    candidate.bytes = record.map_or(0, |record| record.bytes);
                    if let Some(fingerprint) = candidate.fingerprint {
                        candidate.verdict = Verdict::Finished(fingerprint);
                    }
                }
                look => {
                    candidate.fingerprint = match look {
                        Look::Listed { fingerprint, bytes, .. } => {
                            candidate.bytes = *bytes;
                            Some(*fingerprint)
                        }
                        _ => None,
                    };
                    let memory = &mut candidate.memory;
                    let pointed = scan.pointed;
                    candidate.verdict =
                        rule.judge(memory, (found.step, look), pointed, now.elapsed);
                }
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
                    let fingerprint = self.due(*step, candidate, now)?;
                    Some((*step, Found { name: candidate.name.clone(), fingerprint }))
                };
                let (step, found) = self.candidates.iter().find_map(due)?;
                let fingerprint = Some(found.fingerprint);
                self.candidates.get_mut(&step)?.phase = Phase::Putting { fingerprint };
                Some(PutTask { job: index, step: Step(step), found: Some(found), due_ms: None })
            }
            Kind::Watch(_) => None,
            Kind::Schedule(_) => self.next_run(index, now),
        }
    }

    /// The fingerprint under which a candidate is to be put now.
    fn due(&self, step: u64, candidate: &Candidate, now: Now) -> Option<Fingerprint> {
        let Verdict::Finished(fingerprint) = candidate.verdict else { return None };
        let stored = self.journal.stored.get(&step).and_then(|record| record.fingerprint);
        let waits = match &candidate.phase {
            Phase::Idle | Phase::Kept { .. } => false,
            Phase::Putting { .. } | Phase::Removing => true,
            Phase::Failed { until, .. } => now.elapsed < *until,
            Phase::Refused { fingerprint: refused, .. } => *refused == Some(fingerprint),
        };
        (stored != Some(fingerprint) && !waits).then_some(fingerprint)
    }

    fn next_run(&mut self, index: usize, now: Now) -> Option<PutTask> {
        let Kind::Schedule(scheduled) = &self.job.kind else { return None };
        let done = self.journal.done_ms.unwrap_or(now.wall_ms);
        let decision =
            scheduled.schedule.decide(&self.job.name, done, now.wall_ms, &self.job.windows);
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
        if let Phase::Failed { until, .. } = &self.run
            && now.elapsed < *until
        {
            return None;
        }
        self.running = Some(due);
        Some(PutTask { job: index, step: Step(step_of(due)), found: None, due_ms: Some(due) })
    }

    fn next_removals(&mut self, index: usize, now: Now) -> impl Iterator<Item = RemoveTask> {
        let mut tasks = Vec::new();
        let keep = match &self.job.kind {
            Kind::Watch(Watch { keep_local: Some(keep), .. }) => *keep,
            _ => return tasks.into_iter(),
        };
        let local = |(step, candidate): (&u64, &Candidate)| {
            let record = self.journal.stored.get(step);
            let stored = record.and_then(|record| record.fingerprint);
            let is_kept =
                matches!(&candidate.phase, Phase::Kept { until, .. } if now.elapsed < *until);
            Local {
                step: *step,
                is_stored: stored.is_some() && stored == candidate.fingerprint,
                is_busy: candidate.phase.is_busy() || is_kept,
            }
        };
        let locals: Vec<Local> = self.candidates.iter().map(local).collect();
        for step in prune::removable(&locals, keep, self.pointed) {
            let record = self.journal.stored.get(&step);
            let (Some(record), Some(candidate)) = (record, self.candidates.get_mut(&step)) else {
                continue;
            };
            let Some(fingerprint) = record.fingerprint else { continue };
            candidate.phase = Phase::Removing;
            let found = Found { name: candidate.name.clone(), fingerprint };
            let id = CheckpointId(record.id);
            tasks.push(RemoveTask { job: index, step: Step(step), found, id });
        }
        tasks.into_iter()
    }

    fn heard(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        match &self.job.kind {
            Kind::Watch(_) => self.heard_of_candidate(step, outcome, now),
            Kind::Schedule(_) => self.heard_of_run(step, outcome, now),
        }
    }

    fn heard_of_candidate(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        let Some(candidate) = self.candidates.get_mut(&step) else { return false };
        let put = match candidate.phase {
            Phase::Putting { fingerprint } => fingerprint,
            _ => None,
        };
        let name = &self.job.name;
        candidate.phase = match outcome {
            Outcome::Stored { id, bytes, stamp } => {
                (candidate.phase, candidate.tries) = (Phase::Idle, 0);
                let (name, stored_ms) = (candidate.name.clone(), now.wall_ms);
                let record = Record { name, fingerprint: put, id: id.0, stored_ms, bytes, stamp };
                self.journal.stored.insert(step, record);
                return true;
            }
            Outcome::Changed { why } => {
                (candidate.memory, candidate.tries) = (None, 0);
                candidate.verdict = Verdict::Waiting(why);
                Phase::Idle
            }
            Outcome::Failed { why } => {
                candidate.tries = candidate.tries.saturating_add(1);
                let pause = backoff::pause(candidate.tries, self.job.tries, name, step);
                Phase::Failed { until: now.elapsed + pause, why }
            }
            Outcome::Refused { why } => Phase::Refused { fingerprint: put, why },
            Outcome::Removed => {
                self.candidates.remove(&step);
                return false;
            }
            Outcome::Kept { why } => Phase::Kept { until: now.elapsed + KEPT_PAUSE, why },
            // Of schedules only.
            Outcome::Found(_) => Phase::Idle,
        };
        false
    }

    fn heard_of_run(&mut self, step: u64, outcome: Outcome, now: Now) -> bool {
        let Some(due) = self.running.take() else { return false };
        match outcome {
            Outcome::Stored { id, bytes, .. } => {
                let (name, stored_ms) = (String::new(), now.wall_ms);
                let record =
                    Record { name, fingerprint: None, id: id.0, stored_ms, bytes, stamp: None };
                self.journal.stored.insert(step, record);
                self.journal.done_ms = Some(due);
                self.journal.trim(|_| false);
                (self.run, self.run_tries) = (Phase::Idle, 0);
                true
            }
            Outcome::Found(found) => {
                self.journal.found = Some(found);
                self.journal.done_ms = Some(due);
                (self.run, self.run_tries) = (Phase::Idle, 0);
                true
            }
            Outcome::Refused { why } => {
                self.journal.done_ms = Some(due);
                self.run_tries = 0;
                self.run = Phase::Refused { fingerprint: None, why };
                true
            }
            Outcome::Changed { why } | Outcome::Failed { why } => {
                self.run_tries = self.run_tries.saturating_add(1);
                let (tries, most) = (self.run_tries, self.job.tries);
                let pause = backoff::pause(tries, most, &self.job.name, due);
                self.run = Phase::Failed { until: now.elapsed + pause, why };
                false
            }
            Outcome::Removed | Outcome::Kept { .. } => false,
        }
    }
}

fn rule(watch: &Watch) -> Rule {
    Rule { quiet: watch.quiet, pointer: watch.layout.pointer().map(|pointer| pointer.file) }
}
