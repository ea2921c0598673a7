//! `cairn show --open`: who uploads what, and how far it is.

use cairn_client::stream::TryStreamExt;
use cairn_client::{CheckpointInfo, ListFilter, ListOptions, ListedStates, Step, UploadProgress};
use serde::Serialize;

use super::clock::span;
use super::ls::CheckpointRecord;
use crate::exit::{Exit, Failure, Outcome};
use crate::foreign;
use crate::output::{bytes, plural};
use crate::session::Session;

/// `prefix`: a namespace, for the uploads in it and below it, or NAMESPACE@STEP.
pub(super) fn run(session: &Session, prefix: Option<&str>) -> Outcome {
    let (prefix, step) = match prefix.map(|text| text.split_once('@').unwrap_or((text, ""))) {
        None => (None, None),
        Some((namespace, step)) => {
            let step = (!step.is_empty()).then(|| step.parse::<u64>()).transpose();
            let step = step.map_err(|_| {
                Failure::usage("an open upload has no name but its step")
                    .with_hint("for example `cairn show --open run1@1000`")
            })?;
            (Some(namespace.parse().map_err(Failure::usage)?), step.map(Step))
        }
    };
    let filter = ListFilter::of(ListedStates { open: true, ..ListedStates::NONE });
    let options = ListOptions { prefix: prefix.clone(), filter };
    let (found, now_ms) = session.with_client(async |client| {
        let mut found: Vec<CheckpointInfo> = client.list_by(options.clone()).try_collect().await?;
        if let (Some(step), Some(namespace)) = (step, &prefix) {
            found.retain(|info| info.step == step && info.namespace == *namespace);
        }
        Ok((found, client.env().wall_ms()))
    })?;
    session.output.result(&document(&found), || text(&found, now_ms))?;
    if found.is_empty() {
        session.output.say("no open uploads");
    }
    Ok(Exit::Ok)
}

/// `show --open`.
#[derive(Serialize)]
pub(super) struct UploadsDocument<'a> {
    uploads: Vec<CheckpointRecord<'a>>,
}

/// Of a checkpoint record that is open.
#[derive(Serialize)]
pub(super) struct UploadRecord {
    /// Of `segment_bytes`, which are announced: those that have the replicas that a commit needs.
    durable_bytes: u64,
    lease_left_ms: u64,
    /// If the lease is not renewed.
    deleted_in_ms: u64,
    /// Since the client last announced or sealed something.
    idle_ms: u64,
    /// Parts that have announced segments and are not sealed, and the first 16 of them.
    parts_begun: u32,
    first_begun: Vec<PartRecord>,
}

#[derive(Serialize)]
struct PartRecord {
    part: u32,
    segments: u64,
    segment_bytes: u64,
    durable_bytes: u64,
}

impl UploadRecord {
    pub(super) fn new(upload: &UploadProgress) -> Self {
        let parts = upload.first_begun.iter().map(|part| PartRecord {
            part: part.part,
            segments: part.segments,
            segment_bytes: part.bytes,
            durable_bytes: part.durable_bytes,
        });
        Self {
            durable_bytes: upload.durable_bytes,
            lease_left_ms: upload.lease_left_ms,
            deleted_in_ms: upload.deleted_in_ms,
            idle_ms: upload.idle_ms,
            parts_begun: upload.parts_begun,
            first_begun: parts.collect(),
        }
    }
}

pub(super) fn document(found: &[CheckpointInfo]) -> UploadsDocument<'_> {
    UploadsDocument { uploads: found.iter().map(CheckpointRecord::new).collect() }
}

pub(super) fn text(found: &[CheckpointInfo], now_ms: u64) -> String {
    let blocks: Vec<String> = found.iter().map(|info| block(info, now_ms)).collect();
    blocks.join("\n")
}

fn block(info: &CheckpointInfo, now_ms: u64) -> String {
    let age = span(now_ms.saturating_sub(info.began.wall_ms));
    let mut text =
        format!("{}@{}  open for {age}, attempt {}\n", info.namespace, info.step, info.attempt);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<9}  {value}\n"));
    line("by", &owner(info));
    line("parts", &parts(info));
    line("missing", &missing(info));
    let Some(upload) = &info.upload else {
        line("announced", &bytes(info.segment_bytes));
        return text;
    };
    line("announced", &progress(info.segment_bytes, upload.durable_bytes));
    for part in &upload.first_begun {
        let announced = progress(part.bytes, part.durable_bytes);
        line(&format!("part {}", part.part), &format!("being written: {announced}"));
    }
    let others = u64::from(upload.parts_begun).saturating_sub(upload.first_begun.len() as u64);
    if others > 0 {
        line("", &format!("and {} being written", plural(others, "more part")));
    }
    let idle = format!("last part or segment announced {} ago", span(upload.idle_ms));
    line(
        "lease",
        &match upload.lease_left_ms {
            0 => format!("ended; {idle}"),
            ms => format!("{} left; {idle}", span(ms)),
        },
    );
    line(
        "deadline",
        &match upload.deleted_in_ms {
            0 => "over: the cluster deletes it soon".to_owned(),
            ms => format!("deleted in {} if its client does not renew the lease", span(ms)),
        },
    );
    text
}

/// `process 7 on gpu-001, job 41, token of train`.
fn owner(info: &CheckpointInfo) -> String {
    let client = if info.began.client.is_empty() { "unknown" } else { &info.began.client };
    let mut owner = foreign::text(client);
    for (what, name) in [("job", &info.began.job), ("token of", &info.began.subject)] {
        if !name.is_empty() {
            owner.push_str(&format!(", {what} {}", foreign::text(name)));
        }
    }
    owner
}

fn parts(info: &CheckpointInfo) -> String {
    let sealed = info.parts_wanted.saturating_sub(info.parts_missing);
    let (files, size) = (plural(info.files, "file"), bytes(info.bytes));
    format!("{sealed} of {} sealed: {files}, {size}", info.parts_wanted)
}

fn missing(info: &CheckpointInfo) -> String {
    let mut missing: Vec<String> = info.first_missing.iter().map(ToString::to_string).collect();
    let others = (info.parts_missing as usize).saturating_sub(missing.len());
    if others > 0 {
        missing.push(format!("and {others} more"));
    }
    missing.join(", ")
}

/// `1.2 GiB, of these 600 MiB durable (50 %)`.
fn progress(announced: u64, durable: u64) -> String {
    let percent = (u128::from(durable) * 100).checked_div(announced.into()).unwrap_or(100);
    format!("{}, of these {} durable ({percent} %)", bytes(announced), bytes(durable))
}
