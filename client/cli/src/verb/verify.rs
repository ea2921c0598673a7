//! `cairn verify`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use cairn_client::{
    Annotation, Client, ClientError, GetProgress, LostFile, Selector, VerifyLevel, VerifyReport,
};
use cairn_types::ids::Address;
use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural};
use crate::progress::{LOOK_PERIOD, Progress};
use crate::session::Session;
use crate::{address, foreign};

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// NAMESPACE@SELECTOR, such as run1@latest (`cairn help selectors`)
    address: String,
    /// metadata: the catalogue and the policy. replicas: each node reads its replicas again, past the
    /// page cache; a bad one is replaced. restore: this client reads every byte
    #[arg(long, value_name = "LEVEL", default_value = "replicas")]
    level: Level,
    /// Do not write the result into the checkpoint's labels
    #[arg(long)]
    no_record: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Metadata,
    Replicas,
    Restore,
}

impl Level {
    fn level(self) -> VerifyLevel {
        match self {
            Self::Metadata => VerifyLevel::Metadata,
            Self::Replicas => VerifyLevel::Replicas,
            Self::Restore => VerifyLevel::Restore,
        }
    }
}

fn word(level: VerifyLevel) -> &'static str {
    match level {
        VerifyLevel::Metadata => "metadata",
        VerifyLevel::Replicas => "replicas",
        VerifyLevel::Restore => "restore",
    }
}

pub fn run(session: &Session, args: VerifyArgs) -> Outcome {
    let address = address::parse(&args.address)?;
    let output = session.output;
    let (report, unrecorded) = session.with_client(async |client| {
        let counters = Arc::<GetProgress>::default();
        let verify = client.verify(&address, args.level.level(), Arc::clone(&counters));
        tokio::pin!(verify);
        let mut progress = Progress::new(output, "verify");
        let report = loop {
            match tokio::time::timeout(LOOK_PERIOD, &mut verify).await {
                Ok(result) => break result?,
                Err(_) => {
                    let done = counters.bytes_done.load(Relaxed);
                    progress.show(done, counters.bytes_total.load(Relaxed));
                }
            }
        };
        progress.finish();
        let unrecorded = match args.no_record {
            true => None,
            false => record(client, &report).await.err(),
        };
        Ok((report, unrecorded))
    })?;
    output.result(&document(&report), || text(&report))?;
    if let Some(error) = unrecorded {
        output.say(format!("note: the result is not in the checkpoint's labels: {error}"));
    }
    Ok(exit(&report))
}

fn exit(report: &VerifyReport) -> Exit {
    if report.is_damaged() {
        return Exit::Damaged;
    }
    match (report.is_good(), report.unverified.is_empty()) {
        (true, _) => Exit::Ok,
        (false, false) => Exit::Unreachable,
        (false, true) => Exit::BelowPolicy,
    }
}

/// Writes the result into a label of the checkpoint.
async fn record(client: &Client, report: &VerifyReport) -> Result<(), ClientError> {
    let info = &report.checkpoint;
    let address =
        Address { namespace: info.namespace.clone(), selector: Selector::Step(info.step) };
    let labels = BTreeMap::from([report.label(client.env().wall_ms())]);
    client.annotate(&address, Annotation { labels, ..Annotation::default() }).await.map(drop)
}

/// `verify`.
#[derive(Serialize)]
struct VerifyDocument<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    /// `metadata`, `replicas` or `restore`.
    level: &'static str,
    good: bool,
    problems: &'a [String],
    segments: u64,
    replicas_verified: u64,
    bytes_verified: u64,
    bad: Vec<BadRecord<'a>>,
    unverified: Vec<UnverifiedRecord<'a>>,
    lost: Vec<LostRecord<'a>>,
}

#[derive(Serialize)]
struct BadRecord<'a> {
    node: u64,
    segment: String,
    /// What has bytes in it.
    files: &'a [String],
}

#[derive(Serialize)]
struct UnverifiedRecord<'a> {
    node: u64,
    replicas: u64,
    why: &'a str,
}

/// A file that cannot be restored: in `verify` and `drill`.
#[derive(Serialize)]
pub(super) struct LostRecord<'a> {
    name: &'a str,
    part: u32,
    bytes: u64,
    why: &'a str,
}

impl<'a> LostRecord<'a> {
    pub(super) fn new(file: &'a LostFile) -> Self {
        let LostFile { name, part, bytes, why } = file;
        Self { name, part: *part, bytes: *bytes, why }
    }
}

fn document(report: &VerifyReport) -> VerifyDocument<'_> {
    let info = &report.checkpoint;
    let bad = report.bad.iter().map(|it| BadRecord {
        node: it.node.0,
        segment: it.segment.to_string(),
        files: &it.files,
    });
    let unverified = report.unverified.iter();
    let unverified = unverified.map(|(node, (replicas, why))| UnverifiedRecord {
        node: node.0,
        replicas: *replicas,
        why,
    });
    VerifyDocument {
        namespace: info.namespace.as_str(),
        step: info.step.0,
        id: info.id.0,
        level: word(report.level),
        good: report.is_good(),
        problems: &report.problems,
        segments: report.segments,
        replicas_verified: report.replicas_verified,
        bytes_verified: report.bytes_verified,
        bad: bad.collect(),
        unverified: unverified.collect(),
        lost: report.lost.iter().map(LostRecord::new).collect(),
    }
}

fn text(report: &VerifyReport) -> String {
    let info = &report.checkpoint;
    let name = format!("{}@{}", info.namespace, info.step);
    let is_partial = !report.is_damaged() && !report.unverified.is_empty();
    let word = match (report.is_good(), is_partial) {
        (true, _) => "good",
        (false, true) => "verified in part",
        (false, false) => "not good",
    };
    let what = match report.level {
        VerifyLevel::Metadata => plural(report.segments, "segment"),
        VerifyLevel::Replicas => {
            let (replicas, read) = (report.replicas_verified, bytes(report.bytes_verified));
            format!("{}, {read}", plural(replicas, "replica"))
        }
        VerifyLevel::Restore => bytes(report.bytes_verified),
    };
    let mut text = format!("{name} is {word}: {} verified, {what}\n", self::word(report.level));
    for problem in &report.problems {
        text.push_str(&format!("  {}\n", foreign::text(problem)));
    }
    for bad in &report.bad {
        let (node, digest) = (bad.node, bad.segment.to_string());
        let file = bad.files.first().map_or("no file", String::as_str);
        let more = match bad.files.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let file = foreign::text(file);
        text.push_str(&format!("  node {node}: bad replica of {}: {file}{more}\n", &digest[..16]));
    }
    if !report.bad.is_empty() {
        text.push_str("  each is kept on its node as evidence, and another one is made\n");
    }
    for (node, (replicas, why)) in &report.unverified {
        let replicas = plural(*replicas, "replica");
        text.push_str(&format!("  node {node}: {replicas} not verified: {}\n", foreign::text(why)));
    }
    if is_partial {
        text.push_str("  no replica that was read is bad; verify again once these nodes answer\n");
    }
    text.push_str(&lost_text(&report.lost));
    text
}

/// Lines about files that are lost.
pub(super) fn lost_text(lost: &[LostFile]) -> String {
    let mut text = String::new();
    for file in lost {
        text.push_str(&format!("  lost: {}, {}\n", foreign::text(&file.name), bytes(file.bytes)));
    }
    if !lost.is_empty() {
        let all = lost.iter().map(|file| file.bytes).sum();
        text.push_str(&format!("  in all {}, {}\n", plural(lost.len() as u64, "file"), bytes(all)));
    }
    text
}
