//! `cairn ls`

use std::collections::BTreeMap;

use cairn_client::stream::TryStreamExt;
use cairn_types::ids::Namespace;
use cairn_types::model::{CheckpointInfo, CheckpointState, DeletedFor, Deletion};
use clap::Args;
use serde::Serialize;

use super::clock;
use super::hold::HoldRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, table, wall_time};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct LsArgs {
    /// This namespace and those below it; llama lists llama and llama/pretrain [default: all]
    #[arg(value_name = "NAMESPACE")]
    prefix: Option<String>,
    /// Show uploads in progress too
    #[arg(long)]
    open: bool,
    /// Show deleted checkpoints too, as long as their grace runs: who deleted them and why, and how long
    /// `cairn undelete` can bring them back
    #[arg(long)]
    deleted: bool,
}

pub fn run(session: &Session, args: LsArgs) -> Outcome {
    let prefix: Option<Namespace> =
        args.prefix.as_deref().map(str::parse).transpose().map_err(Failure::usage)?;
    let found: Vec<CheckpointInfo> = session.with_client(async |client| match args.deleted {
        false => client.list(prefix.as_ref(), args.open).try_collect().await,
        true => client.list_with_deleted(prefix.as_ref(), args.open).try_collect().await,
    })?;
    session.output.result(&listing(&found), || {
        if found.is_empty() { String::new() } else { checkpoint_table(&found) }
    })?;
    if found.is_empty() {
        session.output.say("no checkpoints");
    }
    Ok(Exit::Ok)
}

pub fn state(info: &CheckpointInfo) -> &'static str {
    match info.state {
        CheckpointState::Open => "open",
        CheckpointState::Committed => "committed",
        CheckpointState::Deleted => "deleted",
    }
}

/// The state as people look for it: what is in quarantine is not just committed.
pub fn shown_state(info: &CheckpointInfo) -> &'static str {
    match (&info.quarantine, info.state) {
        (Some(_), CheckpointState::Committed) => "quarantine",
        _ => state(info),
    }
}

/// `2 of 3, 2 racks`.
pub fn durability(info: &CheckpointInfo) -> String {
    let durability = &info.durability;
    let racks = crate::output::plural(u64::from(durability.racks_min), "rack");
    format!("{} of {}, {racks}", durability.replicas_min, durability.replicas_wanted)
}

/// `3 of 8 parts, missing 1, 4, 5, ...`.
fn progress(info: &CheckpointInfo) -> String {
    let sealed = info.parts_wanted.saturating_sub(info.parts_missing);
    let mut missing: Vec<String> = info.first_missing.iter().map(ToString::to_string).collect();
    if missing.len() < info.parts_missing as usize {
        missing.push("...".to_owned());
    }
    format!("{sealed} of {} parts, missing {}", info.parts_wanted, missing.join(", "))
}

fn reason(reason: DeletedFor) -> &'static str {
    match reason {
        DeletedFor::Asked => "asked",
        DeletedFor::Retention => "retention",
        DeletedFor::Replaced => "replaced",
        DeletedFor::Expired => "expired",
        DeletedFor::RolledBack => "rolled-back",
    }
}

/// `asked by ann@gpu-001, 59m 10s left`.
fn trashed(deletion: &Deletion) -> String {
    let by = if deletion.by.is_empty() { "".into() } else { format!(" by {}", deletion.by) };
    let left = match deletion.restorable_ms {
        0 => "cannot be undeleted".to_owned(),
        ms => format!("{} left", clock::span(ms)),
    };
    format!("{}{by}, {left}", reason(deletion.reason))
}

/// One checkpoint, in every document about one. `show` adds its files and segments.
#[derive(Serialize)]
pub struct CheckpointRecord<'a> {
    namespace: &'a str,
    step: u64,
    id: u64,
    attempt: u64,
    /// `open`, `committed` or `deleted`.
    state: &'static str,
    pub(super) parts: u64,
    /// Parts that an upload still needs, and the first of them.
    parts_missing: u32,
    first_missing: &'a [u32],
    /// Start of its upload, by the wall clock.
    began_ms: u64,
    /// The client that uploads or uploaded it, and its job.
    client: &'a str,
    job: &'a str,
    /// Null while it is open.
    committed_ms: Option<u64>,
    files: u64,
    /// The size of its files.
    bytes: u64,
    /// Stored for it, each segment counted once.
    segments: u64,
    segment_bytes: u64,
    labels: &'a BTreeMap<String, String>,
    metrics: BTreeMap<&'a str, f64>,
    /// R of its policy.
    replicas_wanted: u32,
    /// Of its segment with the fewest.
    replicas_min: u32,
    racks_min: u32,
    /// Segments with fewer than `replicas_wanted`.
    segments_below: u64,
    /// Segments without any replica that counts.
    segments_unavailable: u64,
    /// Null, or why it must not be used.
    quarantine: Option<QuarantineRecord<'a>>,
    /// Names of refs that point to it.
    refs: Vec<&'a str>,
    holds: Vec<HoldRecord<'a>>,
    /// Null unless it is deleted.
    deletion: Option<DeletionRecord<'a>>,
}

#[derive(Serialize)]
struct DeletionRecord<'a> {
    /// `asked`, `retention`, `replaced`, `expired` or `rolled-back`.
    reason: &'static str,
    by: &'a str,
    at_ms: u64,
    /// How long undelete can bring it back; 0: it cannot.
    restorable_ms: u64,
}

#[derive(Serialize)]
struct QuarantineRecord<'a> {
    reason: &'a str,
    by: &'a str,
    since_ms: u64,
}

impl<'a> CheckpointRecord<'a> {
    pub fn new(info: &'a CheckpointInfo) -> Self {
        Self {
            namespace: info.namespace.as_str(),
            step: info.step.0,
            id: info.id.0,
            attempt: info.attempt.0,
            state: state(info),
            parts: info.parts_wanted.into(),
            parts_missing: info.parts_missing,
            first_missing: &info.first_missing,
            began_ms: info.began.wall_ms,
            client: &info.began.client,
            job: &info.began.job,
            committed_ms: info.commit.map(|commit| commit.wall_ms),
            files: info.files,
            bytes: info.bytes,
            segments: info.segments,
            segment_bytes: info.segment_bytes,
            labels: &info.labels,
            metrics: info.metrics.iter().map(|(name, it)| (&**name, it.value())).collect(),
            replicas_wanted: info.durability.replicas_wanted,
            replicas_min: info.durability.replicas_min,
            racks_min: info.durability.racks_min,
            segments_below: info.durability.segments_below,
            segments_unavailable: info.durability.segments_unavailable,
            quarantine: info.quarantine.as_ref().map(|quarantine| QuarantineRecord {
                reason: &quarantine.reason,
                by: &quarantine.by,
                since_ms: quarantine.wall_ms,
            }),
            refs: info.refs.iter().map(|name| name.as_str()).collect(),
            holds: info.holds.iter().map(HoldRecord::new).collect(),
            deletion: info.deletion.as_ref().map(|deletion| DeletionRecord {
                reason: reason(deletion.reason),
                by: &deletion.by,
                at_ms: deletion.wall_ms,
                restorable_ms: deletion.restorable_ms,
            }),
        }
    }
}

/// `ls`.
#[derive(Serialize)]
pub(super) struct LsDocument<'a> {
    checkpoints: Vec<CheckpointRecord<'a>>,
}

pub(super) fn listing(found: &[CheckpointInfo]) -> LsDocument<'_> {
    LsDocument { checkpoints: found.iter().map(CheckpointRecord::new).collect() }
}

pub(super) fn checkpoint_table(found: &[CheckpointInfo]) -> String {
    let heads = ["CHECKPOINT", "STATE", "COMMITTED", "FILES", "SIZE", "REPLICAS"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for info in found {
        rows.push(vec![
            format!("{}@{}", info.namespace, info.step),
            shown_state(info).to_owned(),
            info.commit.map_or("-".to_owned(), |commit| wall_time(commit.wall_ms)),
            info.files.to_string(),
            bytes(info.bytes),
            match info.state {
                CheckpointState::Open => progress(info),
                CheckpointState::Deleted => info.deletion.as_ref().map_or("-".to_owned(), trashed),
                _ => durability(info),
            },
        ]);
    }
    table(&rows)
}
