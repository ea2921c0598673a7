//! `cairn ls`

use cairn_client::stream::TryStreamExt;
use cairn_types::ids::Namespace;
use cairn_types::model::{CheckpointInfo, CheckpointState};
use clap::Args;
use serde_json::{Value, json};

use super::hold::hold_document;
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
}

pub fn run(session: &Session, args: LsArgs) -> Outcome {
    let prefix: Option<Namespace> =
        args.prefix.as_deref().map(str::parse).transpose().map_err(Failure::usage)?;
    let found: Vec<CheckpointInfo> = session
        .with_client(async |client| client.list(prefix.as_ref(), args.open).try_collect().await)?;
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

/// One checkpoint as JSON; also the head of `show`.
pub fn document(info: &CheckpointInfo) -> Value {
    let metrics = info.metrics.iter().map(|(name, metric)| (name.clone(), metric.value().into()));
    let metrics: serde_json::Map<String, Value> = metrics.collect();
    json!({
        "namespace": info.namespace.as_str(),
        "step": info.step.0,
        "id": info.id.0,
        "attempt": info.attempt.0,
        "state": state(info),
        "parts": info.parts_wanted,
        "parts_missing": info.parts_missing,
        "first_missing": info.first_missing,
        "began_ms": info.began.wall_ms,
        "client": info.began.client,
        "job": info.began.job,
        "committed_ms": info.commit.map(|commit| commit.wall_ms),
        "files": info.files,
        "bytes": info.bytes,
        "segments": info.segments,
        "segment_bytes": info.segment_bytes,
        "labels": info.labels,
        "metrics": metrics,
        "replicas_wanted": info.durability.replicas_wanted,
        "replicas_min": info.durability.replicas_min,
        "racks_min": info.durability.racks_min,
        "segments_below": info.durability.segments_below,
        "segments_unavailable": info.durability.segments_unavailable,
        "quarantine": info.quarantine.as_ref().map(|quarantine| json!({
            "reason": quarantine.reason,
            "by": quarantine.by,
            "since_ms": quarantine.wall_ms,
        })),
        "refs": info.refs.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        "holds": info.holds.iter().map(hold_document).collect::<Vec<_>>(),
    })
}

pub(super) fn listing(found: &[CheckpointInfo]) -> Value {
    let checkpoints: Vec<Value> = found.iter().map(document).collect();
    json!({ "checkpoints": checkpoints })
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
                _ => durability(info),
            },
        ]);
    }
    table(&rows)
}
