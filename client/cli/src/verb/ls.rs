//! `cairn ls`

use cairn_core::ids::Namespace;
use cairn_core::model::{CheckpointInfo, CheckpointState};
use clap::Args;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, table, wall_time};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct LsArgs {
    /// A namespace, or the first components of several; all without it
    prefix: Option<String>,
    /// Show uploads in progress too
    #[arg(long)]
    open: bool,
}

pub fn run(session: &Session, args: LsArgs) -> Outcome {
    let prefix: Option<Namespace> =
        args.prefix.as_deref().map(str::parse).transpose().map_err(Failure::usage)?;
    let found =
        session.with_client(async |client| client.list(prefix.as_ref(), args.open).await)?;
    let documents: Vec<Value> = found.iter().map(document).collect();
    session.output.result(&documents, || {
        if found.is_empty() { String::new() } else { checkpoint_table(&found) }
    });
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

/// `2 of 3, 2 racks`.
pub fn durability(info: &CheckpointInfo) -> String {
    let durability = &info.durability;
    let racks = crate::output::plural(u64::from(durability.racks_min), "rack");
    format!("{} of {}, {racks}", durability.replicas_min, durability.replicas_wanted)
}

/// One checkpoint as JSON; also the head of `show`.
pub fn document(info: &CheckpointInfo) -> Value {
    json!({
        "namespace": info.namespace.as_str(),
        "step": info.step.0,
        "id": info.id.0,
        "attempt": info.attempt.0,
        "state": state(info),
        "committed_ms": info.commit.map(|commit| commit.wall_ms),
        "files": info.files,
        "bytes": info.bytes,
        "segments": info.segments,
        "segment_bytes": info.segment_bytes,
        "labels": info.labels,
        "replicas_wanted": info.durability.replicas_wanted,
        "replicas_min": info.durability.replicas_min,
        "racks_min": info.durability.racks_min,
        "segments_below": info.durability.segments_below,
        "segments_unavailable": info.durability.segments_unavailable,
    })
}

fn checkpoint_table(found: &[CheckpointInfo]) -> String {
    let heads = ["CHECKPOINT", "STATE", "COMMITTED", "FILES", "SIZE", "REPLICAS"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for info in found {
        rows.push(vec![
            format!("{}@{}", info.namespace, info.step),
            state(info).to_owned(),
            info.commit.map_or("-".to_owned(), |commit| wall_time(commit.wall_ms)),
            info.files.to_string(),
            bytes(info.bytes),
            durability(info),
        ]);
    }
    table(&rows)
}
