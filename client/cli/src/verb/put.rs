//! `cairn put`

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cairn_client::{
    ClientError, Exclude, Links, LocalSource, PutOptions, PutOutcome, PutReport, ScanOptions, Wait,
};
use cairn_types::ids::{Address, Attempt, Selector};
use cairn_types::manifest::check_name;
use cairn_types::model::{Isolation, PolicyChange};
use clap::Args;
use globset::GlobBuilder;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, bytes, plural};
use crate::progress::{LOOK_PERIOD, Progress};
use crate::session::{Session, client_failure};
use crate::whoami;

#[derive(Debug, Args)]
pub struct PutArgs {
    /// Files or directories; names are kept relative to each argument
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// NAMESPACE@STEP, such as llama-70b/pretrain@1000
    address: String,
    /// Upload part I of N; I counts from 0, as ranks do. The last part commits the checkpoint
    #[arg(long, value_name = "I/N")]
    part: Option<String>,
    /// Attempt number of the step: a higher one takes over. All parts pass the same one [default: the
    /// next one; with --part, 1 above the restart count of torchrun or Slurm]
    #[arg(long, env = "CAIRN_ATTEMPT", value_name = "NUMBER")]
    attempt: Option<u64>,
    /// Name of the job; a put refuses to join another job's upload with the same attempt. Each
    /// submission needs its own name, so pass one if torchrun's --rdzv-id is fixed [default: with
    /// --part, SLURM_JOB_ID or TORCHELASTIC_RUN_ID]
    #[arg(long, env = "CAIRN_JOB", value_name = "NAME")]
    job: Option<String>,
    /// Replace the committed checkpoint of this step
    #[arg(long)]
    replace: bool,
    /// Return when W replicas of this part are durable (quorum), when all parts are committed, or
    /// when all R replicas are durable (full)
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    wait: WaitLevel,
    /// With --wait committed or full: exit with code 6 after this long
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait_timeout: humantime::Duration,
    /// Number of replicas of this checkpoint [default: the namespace's, 3]
    #[arg(long, value_name = "R")]
    replicas: Option<u32>,
    /// Number of replicas that must be durable before the commit [default: the namespace's, 2]
    #[arg(long, value_name = "W")]
    write_quorum: Option<u32>,
    /// Number of racks to spread the replicas over [default: the namespace's, 2]
    #[arg(long, value_name = "COUNT")]
    min_racks: Option<u32>,
    /// With too few racks, refuse the write (hard) or accept it with fewer racks (soft)
    #[arg(long, value_name = "RULE")]
    isolation: Option<IsolationRule>,
    /// Keep only the newest N commits of this namespace, from this commit on. The rule stays in force
    /// for later puts without this flag; 0 ends it
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Store all files below this directory; {I} is replaced by the part's number
    #[arg(long, value_name = "DIR")]
    prefix: Option<String>,
    /// Upload the targets of symbolic links, wherever they are
    #[arg(long, conflicts_with = "skip_links")]
    follow_links: bool,
    /// Leave symbolic links out
    #[arg(long)]
    skip_links: bool,
    /// Leave out matching files: a glob without / matches names at any depth, with / whole paths; may
    /// be repeated
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Upload even if there is no file
    #[arg(long)]
    allow_empty: bool,
    /// Label to set; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Read and hash the files, print how much would be sent, change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WaitLevel {
    Quorum,
    Committed,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum IsolationRule {
    Hard,
    Soft,
}

impl IsolationRule {
    pub(super) fn isolation(self) -> Isolation {
        match self {
            Self::Hard => Isolation::Hard,
            Self::Soft => Isolation::Soft,
        }
    }
}

impl PutArgs {
    fn options(&self) -> Result<PutOptions, Failure> {
        let address: Address = self.address.parse().map_err(Failure::usage)?;
        let Selector::Step(step) = address.selector else {
            return Err(Failure::usage(format!("{} names no step", self.address))
                .with_hint("put needs a number after the @, such as run1@1000"));
        };
        let mut options = PutOptions::new(address.namespace, step);
        if let Some(part) = &self.part {
            (options.part, options.parts) = parse_part(part)?;
        }
        options.attempt = self.attempt.map(Attempt);
        options.client = whoami::process();
        options.job = self.job(options.parts, |name| std::env::var(name).ok());
        options.replace = self.replace;
        options.dry_run = self.dry_run;
        options.allow_empty = self.allow_empty;
        options.labels = parse_labels(&self.labels)?;
        options.wait = match self.wait {
            WaitLevel::Quorum => Wait::Quorum,
            WaitLevel::Committed => Wait::Committed { timeout: self.wait_timeout.into() },
            WaitLevel::Full => Wait::Full { timeout: self.wait_timeout.into() },
        };
        options.change = PolicyChange {
            replicas: self.replicas,
            write_quorum: self.write_quorum,
            min_racks: self.min_racks,
            isolation: self.isolation.map(IsolationRule::isolation),
            keep_last: self.keep_last,
        };
        Ok(options)
    }
}

impl PutArgs {
    /// The name of the job. Parts have one whether their attempt is counted or given: a script that
    /// is submitted again gives the same number again.
    fn job(&self, parts: u32, variable: impl Fn(&str) -> Option<String>) -> String {
        let of_launcher = || job_of_launcher(variable).filter(|_| parts > 1);
        self.job.clone().or_else(of_launcher).unwrap_or_default()
    }

    fn scan_options(&self, part: u32) -> Result<ScanOptions, Failure> {
        let prefix = self.prefix.as_ref().map(|prefix| prefix.replace("{I}", &part.to_string()));
        if let Some(prefix) = &prefix {
            check_name(prefix.trim_end_matches('/').as_bytes()).map_err(|_| {
                Failure::usage(format!("malformed prefix {prefix:?}"))
                    .with_hint("expected a relative directory without '.' and '..', such as rank0")
            })?;
        }
        let links = match (self.follow_links, self.skip_links) {
            (true, _) => Links::Follow,
            (_, true) => Links::Skip,
            _ => Links::Refuse,
        };
        let prefix = prefix.map(String::into_bytes);
        Ok(ScanOptions { prefix, links, exclude: exclude(&self.exclude)? })
    }
}

/// Matches a glob without a slash against each last component, others against the whole name.
fn exclude(globs: &[String]) -> Result<Option<Exclude>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let matcher = |glob: &String| {
        let whole = glob.contains('/');
        let text = glob.trim_start_matches("./").trim_end_matches('/');
        let made = GlobBuilder::new(text).literal_separator(true).build();
        made.map(|made| (whole, made.compile_matcher())).map_err(Failure::usage)
    };
    let matchers = globs.iter().map(matcher).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(Arc::new(move |name: &[u8]| {
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        matchers.iter().any(|(whole, matcher)| {
            let name = if *whole { name } else { last };
            matcher.is_match(std::path::Path::new(std::ffi::OsStr::from_bytes(name)))
        })
    })))
}

/// `I/N`, I from 0 to N-1.
fn parse_part(text: &str) -> Result<(u32, u32), Failure> {
    let malformed = || {
        Failure::usage(format!("malformed part {text:?}"))
            .with_hint("expected I/N with I from 0 to N-1, such as 0/8")
    };
    let (part, parts) = text.split_once('/').ok_or_else(malformed)?;
    let part: u32 = part.parse().map_err(|_| malformed())?;
    let parts: u32 = parts.parse().map_err(|_| malformed())?;
    if part < parts { Ok((part, parts)) } else { Err(malformed()) }
}

pub(super) fn parse_labels(labels: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut parsed = BTreeMap::new();
    for label in labels {
        let (key, value) = match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key, value),
            _ => {
                return Err(Failure::usage(format!(
                    "malformed label {label:?}: expected KEY=VALUE"
                )));
            }
        };
        let before = parsed.insert(key.to_owned(), value.to_owned());
        if let Some(before) = before.filter(|before| before != value) {
            let text = format!("label {key} is given twice, as {before:?} and as {value:?}");
            return Err(Failure::usage(text));
        }
    }
    Ok(parsed)
}

/// Variables in which launchers count restarts: 0 at the first start. torchrun's count starts over
/// with each requeue of the job, which Slurm counts: Slurm's goes above it.
const TORCH_RESTARTS: &str = "TORCHELASTIC_RESTART_COUNT";
const SLURM_RESTARTS: &str = "SLURM_RESTART_COUNT";
/// Both fit into one attempt, below the highest that is taken by hand.
const SLURM_RESTARTS_MAX: u64 = 1 << 29;
const TORCH_RESTARTS_MAX: u64 = u32::MAX as u64;

/// The attempt of a part that was given none: what its launcher counts is the same for all ranks,
/// and rises with each restart.
fn attempt_of_launcher(output: Output) -> Result<Attempt, Failure> {
    let torch = restarts(TORCH_RESTARTS, TORCH_RESTARTS_MAX)?;
    let slurm = restarts(SLURM_RESTARTS, SLURM_RESTARTS_MAX)?;
    let named = match (torch, slurm) {
        (None, None) => return Err(Failure::usage("--part needs --attempt").with_hint(PART_HINT)),
        (Some(_), None) => TORCH_RESTARTS.to_owned(),
        (None, Some(_)) => SLURM_RESTARTS.to_owned(),
        (Some(_), Some(_)) => format!("{SLURM_RESTARTS} and {TORCH_RESTARTS}"),
    };
    let attempt = (slurm.unwrap_or(0) << 32) + torch.unwrap_or(0) + 1;
    output.say(format!("attempt {attempt}, from {named}"));
    Ok(Attempt(attempt))
}

/// Variables in which launchers name the job: the name stays through restarts. Slurm gives a job
/// that is submitted again another one. torchrun's is its --rdzv-id: where a script fixes that, each
/// submission has the same name and joins an upload of the one before, unless it passes --job.
const JOBS: [&str; 2] = ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"];
/// What torchrun says where nobody named the run.
const NO_RUN: &str = "none";

fn job_of_launcher(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let name = |name: &str| variable(name).map(|name| name.trim().to_owned());
    JOBS.into_iter().filter_map(name).find(|name| !name.is_empty() && name != NO_RUN)
}

const PART_HINT: &str = "all parts pass the same --attempt, a number that rises with each restart \
    and each new job; the default comes from TORCHELASTIC_RESTART_COUNT and SLURM_RESTART_COUNT if \
    they are set";

fn restarts(name: &str, most: u64) -> Result<Option<u64>, Failure> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let count = text.to_str().and_then(|text| text.trim().parse::<u64>().ok());
    match count.filter(|count| *count < most) {
        Some(count) => Ok(Some(count)),
        None => {
            let text = format!("{name} is {text:?}, not a number below {most}");
            Err(Failure::usage(text).with_hint(PART_HINT))
        }
    }
}

pub fn run(session: &Session, args: PutArgs) -> Outcome {
    let mut options = args.options()?;
    if options.parts > 1 && options.attempt.is_none() {
        options.attempt = Some(attempt_of_launcher(session.output)?);
    }
    let (namespace, step) = (options.namespace.to_string(), options.step.0);
    let name = format!("{namespace}@{step}");
    let source = LocalSource::scan_with(&args.paths, args.scan_options(options.part)?)
        .map_err(|error| client_failure(ClientError::Source(error)))?;
    let output = session.output;
    let report = session.with_client(async |client| {
        let counters = Arc::clone(&options.progress);
        let put = client.put(Arc::new(source), options);
        tokio::pin!(put);
        let mut progress = Progress::new(output, "put");
        loop {
            match tokio::time::timeout(LOOK_PERIOD, &mut put).await {
                Ok(result) => {
                    progress.finish();
                    return result;
                }
                Err(_) => {
                    let done =
                        counters.bytes_acked.load(Relaxed) + counters.bytes_kept.load(Relaxed);
                    progress.show(done, counters.bytes_total.load(Relaxed));
                }
            }
        }
    })?;
    output.result(&document(&namespace, step, &report), || text(&name, &report))?;
    let waited = args.wait != WaitLevel::Quorum;
    let is_sealed = matches!(report.outcome, PutOutcome::Sealed { .. });
    if waited && is_sealed {
        output.say("note: this part is stored, but the checkpoint was not committed in time");
        return Ok(Exit::NotYetFull);
    }
    if report.full == Some(false) {
        output
            .say("note: committed, but not all replicas were durable in time; catch-up continues");
        return Ok(Exit::NotYetFull);
    }
    Ok(Exit::Ok)
}

/// `put`.
#[derive(Serialize)]
struct PutDocument<'a> {
    namespace: &'a str,
    step: u64,
    /// Null with `--dry-run`, as the attempt is.
    id: Option<u64>,
    attempt: Option<u64>,
    /// `committed`, `already_committed`, `sealed` or `dry_run`.
    outcome: &'static str,
    /// Of an upload that is not committed yet.
    parts_sealed: Option<u32>,
    parts: Option<u32>,
    /// Of a commit, as the next two.
    replicas_min: Option<u32>,
    replicas_wanted: Option<u32>,
    racks_min: Option<u32>,
    /// Whether all replicas were durable within `--wait-timeout`.
    full: Option<bool>,
    files: u64,
    bytes: u64,
    segments: u64,
    segment_bytes: u64,
    segments_sent: u64,
    bytes_sent: u64,
    /// Already in the cluster.
    segments_kept: u64,
    bytes_kept: u64,
    seconds: f64,
}

fn document<'a>(namespace: &'a str, step: u64, report: &PutReport) -> PutDocument<'a> {
    let (outcome, durability) = match &report.outcome {
        PutOutcome::Committed { durability } => ("committed", Some(durability)),
        PutOutcome::AlreadyCommitted { durability } => ("already_committed", Some(durability)),
        PutOutcome::Sealed { .. } => ("sealed", None),
        PutOutcome::DryRun => ("dry_run", None),
    };
    let parts = match &report.outcome {
        PutOutcome::Sealed { parts_sealed, parts } => Some((*parts_sealed, *parts)),
        _ => None,
    };
    PutDocument {
        namespace,
        step,
        id: report.checkpoint.map(|id| id.0),
        attempt: report.attempt.map(|attempt| attempt.0),
        outcome,
        parts_sealed: parts.map(|(sealed, _)| sealed),
        parts: parts.map(|(_, parts)| parts),
        replicas_min: durability.map(|durability| durability.replicas_min),
        replicas_wanted: durability.map(|durability| durability.replicas_wanted),
        racks_min: durability.map(|durability| durability.racks_min),
        full: report.full,
        files: report.files,
        bytes: report.bytes,
        segments: report.segments,
        segment_bytes: report.segment_bytes,
        segments_sent: report.segments_sent,
        bytes_sent: report.bytes_sent,
        segments_kept: report.segments_kept,
        bytes_kept: report.bytes_kept,
        seconds: report.elapsed.as_secs_f64(),
    }
}

fn text(name: &str, report: &PutReport) -> String {
    let seconds = report.elapsed.as_secs_f64();
    let what = match &report.outcome {
        PutOutcome::Committed { durability } => format!(
            "committed {name}: {} of {} replicas, {}",
            durability.replicas_min,
            durability.replicas_wanted,
            plural(durability.racks_min.into(), "rack")
        ),
        PutOutcome::AlreadyCommitted { .. } if report.bytes_sent > 0 => {
            format!(
                "{name} is already committed with identical content; sent missing replicas again"
            )
        }
        PutOutcome::AlreadyCommitted { .. } => {
            format!("{name} is already committed with identical content")
        }
        PutOutcome::Sealed { parts_sealed, parts } => {
            format!("stored a part of {name}: {parts_sealed} of {parts} parts so far")
        }
        PutOutcome::DryRun => format!("would put {name}"),
    };
    let would = if matches!(report.outcome, PutOutcome::DryRun) { "to send" } else { "sent" };
    format!(
        "{what}\n{}, {}; {} {would}, {} already there; {seconds:.1} s, {}/s\n",
        plural(report.files, "file"),
        bytes(report.bytes),
        bytes(report.bytes_sent),
        bytes(report.bytes_kept),
        bytes((report.bytes as f64 / seconds.max(0.001)) as u64)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Verb;
    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_part_names_its_job_also_with_an_attempt_given_by_hand() {
        let job = |flags: &[&str], variables: &[(&str, &str)]| {
            let words = ["cairn", "put", "out", "run1@1"].iter().chain(flags);
            let Verb::Put(args) = Cli::try_parse_from(words).unwrap().verb else { unreachable!() };
            let parts = args.part.as_deref().map_or(1, |part| parse_part(part).unwrap().1);
            let value = |name: &str| variables.iter().find(|(it, _)| *it == name);
            args.job(parts, |name| value(name).map(|(_, value)| (*value).to_owned()))
        };
        let slurm = [("SLURM_JOB_ID", "41"), ("TORCHELASTIC_RUN_ID", "run")];
        assert_eq!(job(&["--part", "0/2"], &slurm), "41");
        assert_eq!(job(&["--part", "0/2", "--attempt", "2"], &slurm), "41");
        assert_eq!(job(&["--part", "0/2", "--attempt", "2"], &slurm[1..]), "run");
        assert_eq!(job(&["--part", "0/2", "--attempt", "2", "--job", "mine"], &slurm), "mine");
        assert_eq!(job(&["--part", "0/2"], &[("TORCHELASTIC_RUN_ID", "none")]), "");
        assert_eq!(job(&[], &slurm), "", "a single part takes the next attempt");
    }
}
