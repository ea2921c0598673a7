//! `cairn agent`

use std::path::{Path, PathBuf};

use cairn_agent::config::{Config, Kind, Work};
use cairn_agent::journal::Finding;
use cairn_agent::mind::{CheckpointReport, JobReport, State};
use cairn_agent::status::Upload;
use cairn_agent::{AgentError, AgentStatus, read_status};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::address::now_ms;
use crate::exit::{Exit, Failure, Outcome};
use crate::foreign;
use crate::output::{bytes, plural, table, wall_time};
use crate::session::{Session, stop_signal};

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// TOML file with the jobs; deploy/cairn-agent.toml explains every key
    #[arg(long, global = true, env = "CAIRN_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<AgentVerb>,
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// Check a configuration file, and say what each job would do
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show what the agent of this configuration does; exit code 8 if a person should look
    Status,
}

pub fn run(session: &Session, args: AgentArgs) -> Outcome {
    let wanted = || {
        Failure::usage("missing required option --config")
            .with_hint("`cairn agent --config FILE` runs the jobs of the file")
    };
    match args.verb {
        None => serve(session, &args.config.ok_or_else(wanted)?),
        Some(AgentVerb::Check { file }) => check(session, &file),
        Some(AgentVerb::Status) => status(session, &args.config.ok_or_else(wanted)?),
    }
}

fn read(file: &Path) -> Result<Config, Failure> {
    Config::read(file).map_err(Failure::usage)
}

fn serve(session: &Session, file: &Path) -> Outcome {
    session.log_by_default("info");
    let config = read(file)?;
    let runtime = session.runtime()?;
    let served = runtime.block_on(async {
        let client = session.client()?;
        let stop = stop_signal()?;
        Ok::<_, Failure>(cairn_agent::run(client, config, stop).await)
    })?;
    // A file system that does not answer must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(3));
    served.map(|()| Exit::Ok).map_err(failure)
}

fn failure(error: AgentError) -> Failure {
    use cairn_agent::StateError;
    let hint = match &error {
        AgentError::State(StateError::InUse { .. }) => {
            "one agent runs per state directory; `cairn agent status` shows what it does"
        }
        AgentError::State(StateError::Damaged { .. }) => {
            "move the file away: the agent asks the cluster what is stored already"
        }
        AgentError::State(StateError::Newer { .. }) => "use the newer version of cairn",
        AgentError::State(StateError::Io { .. }) => "the agent's user must be able to write there",
        AgentError::OneDirectory { .. } => "neither job knows what the other keeps: join them",
        AgentError::Listen { .. } => "another process may be using the port",
    };
    let exit = match &error {
        AgentError::State(StateError::InUse { .. }) => Exit::Refused,
        AgentError::OneDirectory { .. } => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error).with_hint(hint)
}

/// `agent check`.
#[derive(Serialize)]
struct CheckDocument {
    jobs: Vec<CheckRecord>,
}

#[derive(Serialize)]
struct CheckRecord {
    job: String,
    namespace: String,
    /// `watch`, `schedule`, `verify` or `drill`.
    kind: &'static str,
    /// What it stores.
    paths: Vec<String>,
    /// Those of them that are not there.
    missing: Vec<String>,
    /// Of a job that watches: seconds for which nothing may have changed, and how many stored ones stay on
    /// the local disk; null: all.
    quiet_seconds: Option<u64>,
    keep_local: Option<u32>,
    /// Of a schedule: when it is due next.
    next_ms: Option<u64>,
    /// Whether work may begin now; false outside its windows.
    window_open: bool,
    /// Programs that run before and after each put.
    hooks: Vec<String>,
}

fn check(session: &Session, file: &Path) -> Outcome {
    let config = read(file)?;
    let at_ms = now_ms();
    let record = |job: &std::sync::Arc<cairn_agent::config::Job>| {
        let paths = match &job.kind {
            Kind::Watch(watch) => vec![watch.directory.clone()],
            Kind::Schedule(scheduled) => match &scheduled.work {
                Work::Store { paths } => paths.clone(),
                Work::Drill { scratch, .. } => vec![scratch.clone()],
                Work::Verify { .. } => Vec::new(),
            },
        };
        let shown = |path: &PathBuf| path.display().to_string();
        let (watch, scheduled) = match &job.kind {
            Kind::Watch(watch) => (Some(watch), None),
            Kind::Schedule(scheduled) => (None, Some(scheduled)),
        };
        let hooks = [&job.hooks.before, &job.hooks.after].into_iter().flatten();
        CheckRecord {
            quiet_seconds: watch.map(|watch| watch.quiet.as_secs()),
            keep_local: watch.and_then(|watch| watch.keep_local),
            next_ms: scheduled.and_then(|it| it.schedule.rhythm.next_due(at_ms, &job.windows)),
            window_open: job.windows.are_open(at_ms),
            hooks: hooks.map(|command| command.join(" ")).collect(),
            job: job.name.clone(),
            namespace: job.namespace.to_string(),
            kind: job.kind.word(),
            missing: paths.iter().filter(|path| !path.exists()).map(shown).collect(),
            paths: paths.iter().map(shown).collect(),
        }
    };
    let document = CheckDocument { jobs: config.jobs.iter().map(record).collect() };
    session.output.result(&document, || check_text(&document))?;
    Ok(Exit::Ok)
}

fn check_text(document: &CheckDocument) -> String {
    let mut text = String::new();
    for job in &document.jobs {
        let (paths, namespace) = (job.paths.join(", "), &job.namespace);
        let does = match job.kind {
            "watch" => format!("watches {paths}, stores as {namespace}"),
            "verify" => format!("verifies the newest of {namespace}"),
            "drill" => format!("restores the newest of {namespace} into {paths}"),
            _ => format!("stores {paths} as {namespace}"),
        };
        text.push_str(&format!("{}: {does}\n", foreign::text(&job.job)));
        if let Some(quiet) = job.quiet_seconds {
            let kept = match job.keep_local {
                None => "all stay on the local disk".to_owned(),
                Some(count) => format!("the newest {count} stay on the local disk"),
            };
            text.push_str(&format!("  once nothing has changed for {quiet} s; {kept}\n"));
        }
        if let Some(next_ms) = job.next_ms {
            text.push_str(&format!("  due next at {}\n", wall_time(next_ms)));
        }
        if !job.window_open {
            text.push_str("  its window is closed now: work waits for it\n");
        }
        for hook in &job.hooks {
            text.push_str(&format!("  runs {}\n", foreign::text(hook)));
        }
        for path in &job.missing {
            text.push_str(&format!("  note: {path} does not exist now\n"));
        }
    }
    text.push_str(&format!("{} good\n", plural(document.jobs.len() as u64, "job")));
    text.push_str("nothing was asked of the cluster: `cairn status` shows whether it answers\n");
    text
}

/// `agent status`.
#[derive(Serialize)]
pub(super) struct StatusDocument<'a> {
    /// Whether the agent of this configuration runs now.
    running: bool,
    /// Whether it runs, and has not written its status for three polls, and a minute.
    stale: bool,
    version: &'a str,
    process: u32,
    started_ms: u64,
    /// When the agent said this.
    written_ms: u64,
    /// Bytes a second that uploads may send now; null without a limit.
    rate: Option<u64>,
    /// Why the journal could not be written.
    journal_trouble: Option<&'a str>,
    /// Since when the cluster has not answered; null while it does.
    unanswered_since_ms: Option<u64>,
    uploads: Vec<UploadRecord<'a>>,
    jobs: Vec<JobRecord<'a>>,
}

#[derive(Serialize)]
struct UploadRecord<'a> {
    job: &'a str,
    step: u64,
    bytes: u64,
    bytes_done: u64,
}

#[derive(Serialize)]
struct JobRecord<'a> {
    job: &'a str,
    namespace: &'a str,
    kind: &'a str,
    stored: u64,
    last_stored_step: Option<u64>,
    last_stored_ms: Option<u64>,
    due: u64,
    waiting: u64,
    failed: u64,
    refused: u64,
    unreadable: u64,
    kept: u64,
    next_ms: Option<u64>,
    window_open: bool,
    trouble: Option<&'a str>,
    found: Option<FindingRecord<'a>>,
    checkpoints: Vec<CheckpointRecord<'a>>,
}

/// What the last verification or drill found.
#[derive(Serialize)]
struct FindingRecord<'a> {
    at_ms: u64,
    step: u64,
    good: bool,
    said: &'a str,
    rto_ms: Option<u64>,
    rpo_ms: Option<u64>,
}

#[derive(Serialize)]
struct CheckpointRecord<'a> {
    name: &'a str,
    step: u64,
    state: &'static str,
    bytes: u64,
    why: Option<&'a str>,
    retry_seconds: Option<u64>,
    tries: u32,
}

fn status(session: &Session, file: &Path) -> Outcome {
    let config = read(file)?;
    let (status, is_running) = read_status(&config.state).map_err(|error| {
        let hint = "has the agent of this configuration run yet?";
        Failure::new(Exit::NotFound, error).with_hint(hint)
    })?;
    let alive = match (is_running, status.is_stale(now_ms(), config.poll)) {
        (false, _) => Alive::Gone,
        (true, true) => Alive::Silent,
        (true, false) => Alive::Runs,
    };
    let document = document(&status, alive);
    session.output.result(&document, || text(&status, alive))?;
    Ok(if alive == Alive::Runs && !status.is_troubled() { Exit::Ok } else { Exit::BelowPolicy })
}

/// What is known of the agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alive {
    Runs,
    /// It runs, and has not written its status for too long.
    Silent,
    Gone,
}

pub(super) fn document(status: &AgentStatus, alive: Alive) -> StatusDocument<'_> {
    StatusDocument {
        running: alive != Alive::Gone,
        stale: alive == Alive::Silent,
        version: &status.version,
        process: status.process,
        started_ms: status.started_ms,
        written_ms: status.written_ms,
        rate: status.rate,
        journal_trouble: status.journal_trouble.as_deref(),
        unanswered_since_ms: status.unanswered_since_ms,
        uploads: status.uploads.iter().map(upload_record).collect(),
        jobs: status.jobs.iter().map(job_record).collect(),
    }
}

fn upload_record(upload: &Upload) -> UploadRecord<'_> {
    let Upload { job, step, bytes, bytes_done } = upload;
    UploadRecord { job, step: *step, bytes: *bytes, bytes_done: *bytes_done }
}

fn checkpoint_record(it: &CheckpointReport) -> CheckpointRecord<'_> {
    CheckpointRecord {
        name: &it.name,
        step: it.step,
        state: it.state.word(),
        bytes: it.bytes,
        why: it.why.as_deref(),
        retry_seconds: it.retry_seconds,
        tries: it.tries,
    }
}

fn finding_record(found: &Finding) -> FindingRecord<'_> {
    let Finding { at_ms, step, good, said, rto_ms, rpo_ms } = found;
    let (at_ms, step, good) = (*at_ms, *step, *good);
    FindingRecord { at_ms, step, good, said, rto_ms: *rto_ms, rpo_ms: *rpo_ms }
}

fn job_record(job: &JobReport) -> JobRecord<'_> {
    JobRecord {
        job: &job.job,
        namespace: &job.namespace,
        kind: &job.kind,
        stored: job.stored,
        last_stored_step: job.last_stored_step,
        last_stored_ms: job.last_stored_ms,
        due: job.due,
        waiting: job.waiting,
        failed: job.failed,
        refused: job.refused,
        unreadable: job.unreadable,
        kept: job.kept,
        next_ms: job.next_ms,
        window_open: job.window_open,
        trouble: job.trouble.as_deref(),
        found: job.found.as_ref().map(finding_record),
        checkpoints: job.checkpoints.iter().map(checkpoint_record).collect(),
    }
}

pub(super) fn text(status: &AgentStatus, alive: Alive) -> String {
    let (process, written) = (status.process, wall_time(status.written_ms));
    let mut text = match alive {
        Alive::Runs => format!("agent runs, process {process}\n"),
        Alive::Silent => format!(
            "agent runs, process {process}, but has not written its status\n\
             since {written}: it hangs, or the disk of its state directory is full\n"
        ),
        Alive::Gone => format!("agent does not run; last seen {written}\n"),
    };
    if let Some(rate) = status.rate {
        text.push_str(&format!("uploads are limited to {} a second\n", bytes(rate)));
    }
    if let Some(why) = &status.journal_trouble {
        text.push_str(&format!("the journal is not written: {}\n", foreign::text(why)));
    }
    if let Some(since_ms) = status.unanswered_since_ms {
        let since = wall_time(since_ms);
        text.push_str(&format!("the cluster does not answer since {since}: nothing is stored\n"));
    }
    let mut rows = vec![
        ["JOB", "STORED", "LAST", "DUE", "WAITING", "FAILED", "NEXT"].map(str::to_owned).to_vec(),
    ];
    for job in &status.jobs {
        rows.push(vec![
            job.job.clone(),
            job.stored.to_string(),
            job.last_stored_step.map_or("-".to_owned(), |step| step.to_string()),
            job.due.to_string(),
            job.waiting.to_string(),
            (job.failed + job.refused).to_string(),
            job.next_ms.map_or("-".to_owned(), wall_time),
        ]);
    }
    text.push_str(&table(&rows));
    for job in &status.jobs {
        text.push_str(&words(job));
    }
    for upload in &status.uploads {
        let (done, all) = (bytes(upload.bytes_done), bytes(upload.bytes));
        text.push_str(&format!("{}: step {}: {done} of {all}\n", upload.job, upload.step));
    }
    text
}

/// What is to be said of a job beside its row.
fn words(job: &JobReport) -> String {
    let mut text = String::new();
    if let Some(why) = &job.trouble {
        text.push_str(&format!("{}: {}\n", job.job, foreign::text(why)));
    }
    if let Some(found) = &job.found {
        let (word, at) = (if found.good { "good" } else { "NOT GOOD" }, wall_time(found.at_ms));
        let (step, said) = (found.step, foreign::text(&found.said));
        text.push_str(&format!("{}: {} of step {step}, {at}: {word}\n", job.job, job.kind));
        text.push_str(&format!("  {said}\n"));
    }
    if !job.window_open && job.due > 0 {
        text.push_str(&format!("{}: waits for its window\n", job.job));
    }
    let is_said = |it: &&CheckpointReport| match it.state {
        State::Due => false,
        // Why it stays on the local disk, and why the last try failed.
        _ => it.why.is_some(),
    };
    for it in job.checkpoints.iter().filter(is_said) {
        let (step, word) = (it.step, it.state.word());
        let why = foreign::text(it.why.as_deref().unwrap_or_default());
        let what = match (it.state, it.tries) {
            (State::Stored, _) => "stored, and not removed from the local disk".to_owned(),
            (_, 0 | 1) => word.to_owned(),
            (_, tries) => format!("{word} ({tries} tries failed)"),
        };
        text.push_str(&format!("{}: step {step} is {what}: {why}\n", job.job));
        if let Some(seconds) = it.retry_seconds {
            text.push_str(&format!("  next try in {seconds} s\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_does_not_write_its_status_is_said_to_hang() {
        let text_of = r#"{"form": 1, "version": "1", "process": 7, "started_ms": 0, "written_ms": 0,
            "rate": null, "journal_trouble": null, "uploads": [], "jobs": []}"#;
        let status: AgentStatus = serde_json::from_str(text_of).unwrap();
        let shown = |alive| (document(&status, alive).stale, text(&status, alive));
        let (is_stale, said) = shown(Alive::Silent);
        assert!(is_stale && said.contains("process 7, but has not written"), "{said}");
        assert!(said.lines().all(|line| line.len() <= 80), "{said}");
        let (is_stale, said) = shown(Alive::Runs);
        assert!(!is_stale && said.starts_with("agent runs, process 7\n"), "{said}");
        assert!(!document(&status, Alive::Gone).running);
        let alone = AgentStatus { unanswered_since_ms: Some(0), ..status };
        let said = text(&alone, Alive::Runs);
        assert!(said.contains("does not answer since 1970-01-01T00:00:00Z"), "{said}");
        assert!(said.lines().all(|line| line.len() <= 80), "{said}");
    }
}
