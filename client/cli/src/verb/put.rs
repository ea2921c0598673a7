//! `cairn put`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cairn_client::{ClientError, LocalSource, PutOptions, PutOutcome, PutReport, Wait};
use cairn_core::ids::{Address, Attempt, Selector};
use cairn_core::model::{Isolation, PolicyChange};
use clap::Args;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, bytes, plural};
use crate::progress::{LOOK_PERIOD, Progress};
use crate::session::{Session, client_failure};

#[derive(Debug, Args)]
pub struct PutArgs {
    /// Files or directories; names are kept relative to each argument
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// NAMESPACE@STEP, such as llama-70b/pretrain@1000
    address: String,
    /// This upload is part I of N (I counts from 0, as ranks do); commits with the last part
    #[arg(long, value_name = "I/N")]
    part: Option<String>,
    /// Orders uploads of one step; all parts pass the same [default: the time in ms]
    #[arg(long, env = "CAIRN_ATTEMPT", value_name = "NUMBER")]
    attempt: Option<u64>,
    /// Take the place of a committed checkpoint of this step
    #[arg(long)]
    replace: bool,
    /// Return when W replicas are safe, or when all R are
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    wait: WaitLevel,
    /// With --wait full: exit with code 6 after this long
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait_timeout: humantime::Duration,
    /// Replicas of this checkpoint [default: the namespace's, 3]
    #[arg(long, value_name = "R")]
    replicas: Option<u32>,
    /// Replicas that must be safe before the commit [default: the namespace's, 2]
    #[arg(long, value_name = "W")]
    write_quorum: Option<u32>,
    /// Racks to spread over [default: the namespace's, 2]
    #[arg(long, value_name = "COUNT")]
    min_racks: Option<u32>,
    /// Whether too few racks refuse the write (hard) or degrade it (soft)
    #[arg(long, value_name = "RULE")]
    isolation: Option<IsolationRule>,
    /// From now on keep the newest N commits of this namespace; 0 keeps all
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Attach a label
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Read and hash, say what would be sent, change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WaitLevel {
    Quorum,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum IsolationRule {
    Hard,
    Soft,
}

impl PutArgs {
    fn options(&self) -> Result<PutOptions, Failure> {
        let address: Address = self.address.parse().map_err(Failure::usage)?;
        let Selector::Step(step) = address.selector else {
            return Err(Failure::usage(format!("{} names no step", self.address))
                .with_hint("put wants a number after the @, such as run1@1000"));
        };
        let mut options = PutOptions::new(address.namespace, step);
        if let Some(part) = &self.part {
            (options.part, options.parts) = parse_part(part)?;
        }
        options.attempt = self.attempt.map(Attempt);
        options.replace = self.replace;
        options.dry_run = self.dry_run;
        options.labels = parse_labels(&self.labels)?;
        options.wait = match self.wait {
            WaitLevel::Quorum => Wait::Quorum,
            WaitLevel::Full => Wait::Full { timeout: self.wait_timeout.into() },
        };
        options.change = PolicyChange {
            replicas: self.replicas,
            write_quorum: self.write_quorum,
            min_racks: self.min_racks,
            isolation: self.isolation.map(|rule| match rule {
                IsolationRule::Hard => Isolation::Hard,
                IsolationRule::Soft => Isolation::Soft,
            }),
            keep_last: self.keep_last,
        };
        Ok(options)
    }
}

/// `I/N`, I from 0 to N-1.
fn parse_part(text: &str) -> Result<(u32, u32), Failure> {
    let malformed = || {
        Failure::usage(format!("malformed part {text:?}"))
            .with_hint("wants I/N with I from 0 to N-1, such as 0/8")
    };
    let (part, parts) = text.split_once('/').ok_or_else(malformed)?;
    let part: u32 = part.parse().map_err(|_| malformed())?;
    let parts: u32 = parts.parse().map_err(|_| malformed())?;
    if part < parts { Ok((part, parts)) } else { Err(malformed()) }
}

fn parse_labels(labels: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let parse = |label: &String| match label.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("malformed label {label:?}: wants KEY=VALUE"))),
    };
    labels.iter().map(parse).collect()
}

pub fn run(session: &Session, args: PutArgs) -> Outcome {
    let options = args.options()?;
    let name = format!("{}@{}", options.namespace, options.step);
    let source = LocalSource::scan(&args.paths)
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
    output.result(&document(&name, &report), || text(&name, &report));
    note(output, &report);
    Ok(if report.full == Some(false) { Exit::NotYetFull } else { Exit::Ok })
}

fn document(name: &str, report: &PutReport) -> Value {
    let (outcome, durability) = match &report.outcome {
        PutOutcome::Committed { durability } => ("committed", Some(durability)),
        PutOutcome::AlreadyCommitted { durability } => ("already_committed", Some(durability)),
        PutOutcome::Sealed { .. } => ("sealed", None),
        PutOutcome::DryRun => ("dry_run", None),
    };
    json!({
        "checkpoint": name,
        "id": report.checkpoint.map(|id| id.0),
        "attempt": report.attempt.0,
        "outcome": outcome,
        "replicas_min": durability.map(|durability| durability.replicas_min),
        "replicas_wanted": durability.map(|durability| durability.replicas_wanted),
        "racks_min": durability.map(|durability| durability.racks_min),
        "full": report.full,
        "files": report.files,
        "bytes": report.bytes,
        "segments": report.segments,
        "segment_bytes": report.segment_bytes,
        "segments_sent": report.segments_sent,
        "bytes_sent": report.bytes_sent,
        "segments_kept": report.segments_kept,
        "bytes_kept": report.bytes_kept,
        "seconds": report.elapsed.as_secs_f64(),
    })
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
        PutOutcome::AlreadyCommitted { .. } => format!("{name} is committed already, the same"),
        PutOutcome::Sealed { parts_sealed, parts } => {
            format!("stored a part of {name}: {parts_sealed} of {parts} parts so far")
        }
        PutOutcome::DryRun => format!("would put {name}"),
    };
    let would = if matches!(report.outcome, PutOutcome::DryRun) { "to send" } else { "sent" };
    format!(
        "{what}\n{}, {}; {} {would}, {} there already; {seconds:.1} s, {}/s\n",
        plural(report.files, "file"),
        bytes(report.bytes),
        bytes(report.bytes_sent),
        bytes(report.bytes_kept),
        bytes((report.bytes as f64 / seconds.max(0.001)) as u64)
    )
}

fn note(output: Output, report: &PutReport) {
    if report.full == Some(false) {
        output.say("note: committed, but not all replicas were there in time; catch-up goes on");
    }
}
