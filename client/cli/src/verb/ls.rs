//! `cairn ls`

use std::cmp::Reverse;
use std::collections::BTreeMap;

use cairn_client::stream::TryStreamExt;
use cairn_client::{
    CheckpointId, Client, ClientError, LabelRule, ListFilter, ListOptions, ListPlace, ListedStates,
    Namespace, Step,
};
use cairn_types::model::{CheckpointInfo, CheckpointState, DeletedFor, Deletion};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::hold::HoldRecord;
use super::uploads::UploadRecord;
use super::{clock, keep};
use crate::address;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, table, wall_time};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct LsArgs {
    /// This namespace and those below it; llama lists llama and llama/pretrain [default: all]
    #[arg(value_name = "NAMESPACE")]
    prefix: Option<String>,
    /// Show uploads in progress too (`cairn show --open` says more of them)
    #[arg(long)]
    open: bool,
    /// Show only checkpoints in this state; may be repeated [default: committed]
    #[arg(long, value_name = "STATE", value_delimiter = ',', conflicts_with_all = ["open", "deleted"])]
    state: Vec<StateName>,
    /// Show only what has this label, such as eval or eval=done; may be repeated: all of them
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = keep::label_rule)]
    label: Vec<LabelRule>,
    /// Show only what was committed at this time or before, and is still there: an age or a time, such
    /// as 2h or 2026-11-28T18:00+01:00 (`cairn help selectors`)
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Order: by namespace and step; newest commit first; or largest first
    #[arg(long, value_name = "ORDER", default_value = "step")]
    sort: Order,
    /// Show at most N, 1 or more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Go on behind the last checkpoint of an earlier `ls --limit`, as that printed it
    #[arg(long, value_name = "CURSOR", value_parser = cursor)]
    after: Option<ListPlace>,
    /// Show deleted checkpoints too, as long as their grace runs: who deleted them and why, and how long
    /// `cairn undelete` can bring them back
    #[arg(long)]
    deleted: bool,
}

/// As `--state` and `--json` name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateName {
    Committed,
    /// Committed, and in quarantine
    Quarantined,
    Open,
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    Step,
    Time,
    Size,
}

/// `llama/pretrain@1000:17`: a checkpoint's namespace, step and id.
fn cursor(text: &str) -> Result<ListPlace, String> {
    let place = || {
        let (namespace, rest) = text.split_once('@')?;
        let (step, id) = rest.split_once(':')?;
        let (step, id) = (step.parse().ok()?, id.parse().ok()?);
        Some((namespace.parse::<Namespace>().ok()?, Step(step), CheckpointId(id)))
    };
    place().ok_or_else(|| "expected NAMESPACE@STEP:ID, as `ls --limit` printed it".to_owned())
}

fn cursor_text((namespace, step, id): &ListPlace) -> String {
    format!("{namespace}@{step}:{id}")
}

impl LsArgs {
    fn options(&self) -> Result<ListOptions, Failure> {
        let prefix = self.prefix.as_deref().map(str::parse).transpose().map_err(Failure::usage)?;
        let as_of_ms = self.as_of.as_deref().map(address::moment_ms).transpose()?;
        let mut states = ListedStates::NONE;
        for state in &self.state {
            match state {
                StateName::Committed => states.committed = true,
                StateName::Quarantined => states.quarantined = true,
                StateName::Open => states.open = true,
                StateName::Deleted => states.deleted = true,
            }
        }
        if self.state.is_empty() {
            let (open, deleted) = (self.open, self.deleted);
            states = ListedStates { open, deleted, ..ListedStates::COMMITTED };
        }
        let labels = self.label.clone();
        Ok(ListOptions { prefix, filter: ListFilter { states, as_of_ms, labels } })
    }
}

pub fn run(session: &Session, args: LsArgs) -> Outcome {
    let options = args.options()?;
    if args.after.is_some() && args.sort != Order::Step {
        let text = "--after goes on in the order of steps only, not with --sort time or size";
        return Err(Failure::usage(text));
    }
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let (found, next, left_out) = session.with_client(async |client| match args.sort {
        Order::Step => {
            let (found, next) = in_order(client, &options, args.after.clone(), limit).await?;
            Ok((found, next, 0))
        }
        order => {
            let found: Vec<_> = client.list_by(options.clone()).try_collect().await?;
            let all = found.len();
            let found = sorted(found, order, limit);
            let left_out = all - found.len();
            Ok((found, None, left_out as u64))
        }
    })?;
    session.output.result(&listing(&found, next.as_ref(), left_out), || {
        if found.is_empty() { String::new() } else { checkpoint_table(&found) }
    })?;
    if found.is_empty() {
        session.output.say("no checkpoints");
    }
    if let Some(next) = &next {
        session.output.say(format!("there may be more: --after {}", cursor_text(next)));
    }
    if left_out > 0 {
        session.output.say(format!("{left_out} more: a higher --limit shows them"));
    }
    Ok(Exit::Ok)
}

/// The largest page that is asked for at once.
const PAGE_MAX: usize = 500;

/// At most `limit` checkpoints behind a place, and where the rest begins, if there may be more.
async fn in_order(
    client: &Client,
    options: &ListOptions,
    mut after: Option<ListPlace>,
    limit: usize,
) -> Result<(Vec<CheckpointInfo>, Option<ListPlace>), ClientError> {
    let mut found = Vec::new();
    while found.len() < limit {
        let page = PAGE_MAX.min(limit - found.len()) as u32;
        let page = client.list_page(options, after.as_ref(), page).await?;
        found.extend(page.checkpoints);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok((found, after))
}

/// Equal ones stay in the order of steps.
fn sorted(mut found: Vec<CheckpointInfo>, order: Order, limit: usize) -> Vec<CheckpointInfo> {
    // An upload has no commit, and is newer than all that have one.
    let time = |info: &CheckpointInfo| info.commit.map_or(u64::MAX, |commit| commit.wall_ms);
    match order {
        Order::Step => {}
        Order::Time => found.sort_by_key(|info| Reverse(time(info))),
        Order::Size => found.sort_by_key(|info| Reverse(info.bytes)),
    }
    found.truncate(limit);
    found
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
        (Some(_), CheckpointState::Committed) => "quarantined",
        _ => state(info),
    }
}

/// `2 of 3, 2 racks`.
pub fn durability(info: &CheckpointInfo) -> String {
    let durability = &info.durability;
    let racks = crate::output::plural(u64::from(durability.racks_min), "rack");
    format!("{} of {}, {racks}", durability.replicas_min, durability.replicas_wanted)
}

/// `3 of 8 parts, missing 1, 4, 5, ...`. Or, where the number of parts is open: `3 parts, no end yet`.
fn progress(info: &CheckpointInfo) -> String {
    if info.open_ended {
        let parts = crate::output::plural(u64::from(info.parts_wanted), "part");
        return format!("{parts}, no end yet");
    }
    let sealed = info.parts_wanted.saturating_sub(info.parts_missing);
    let mut missing: Vec<String> = info.first_missing.iter().map(ToString::to_string).collect();
    if missing.len() < info.parts_missing as usize {
        missing.push("...".to_owned());
    }
    format!("{sealed} of {} parts, missing {}", info.parts_wanted, missing.join(", "))
}

pub(super) fn reason(reason: DeletedFor) -> &'static str {
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
    /// The upload left the number of parts open; `parts` are those sealed so far.
    open_ended: bool,
    first_missing: &'a [u32],
    /// Start of its upload, by the wall clock.
    began_ms: u64,
    /// The client that uploads or uploaded it, and its job.
    client: &'a str,
    job: &'a str,
    /// Whose token began it; empty where none did.
    subject: &'a str,
    /// Null while it is open.
    committed_ms: Option<u64>,
    files: u64,
    /// The size of its files.
    bytes: u64,
    /// Stored for it, each segment counted once.
    segments: u64,
    segment_bytes: u64,
    /// Of these: what no other committed checkpoint had at its commit; null while it is open, and where
    /// the token is not for everything.
    new_bytes: Option<u64>,
    /// Of these: the rest, which it shared.
    shared_bytes: Option<u64>,
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
    /// Null unless it is open.
    upload: Option<UploadRecord>,
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
            open_ended: info.open_ended,
            first_missing: &info.first_missing,
            began_ms: info.began.wall_ms,
            client: &info.began.client,
            job: &info.began.job,
            subject: &info.began.subject,
            committed_ms: info.commit.map(|commit| commit.wall_ms),
            files: info.files,
            bytes: info.bytes,
            segments: info.segments,
            segment_bytes: info.segment_bytes,
            new_bytes: new_bytes(info),
            shared_bytes: shared_bytes(info),
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
            upload: info.upload.as_ref().map(UploadRecord::new),
        }
    }
}

/// `ls`.
#[derive(Serialize)]
pub(super) struct LsDocument<'a> {
    checkpoints: Vec<CheckpointRecord<'a>>,
    /// Null at the end, or what `--after` takes to go on.
    next: Option<String>,
    /// Checkpoints that `--limit` left out, with `--sort time` or `size`.
    left_out: u64,
}

pub(super) fn listing<'a>(
    found: &'a [CheckpointInfo],
    next: Option<&ListPlace>,
    left_out: u64,
) -> LsDocument<'a> {
    let checkpoints = found.iter().map(CheckpointRecord::new).collect();
    LsDocument { checkpoints, next: next.map(cursor_text), left_out }
}

/// What a commit added to the cluster; an upload has not added all of it yet.
pub fn new_bytes(info: &CheckpointInfo) -> Option<u64> {
    info.new_bytes.filter(|_| info.commit.is_some())
}

pub fn shared_bytes(info: &CheckpointInfo) -> Option<u64> {
    new_bytes(info).map(|new| info.segment_bytes.saturating_sub(new))
}

pub(super) fn checkpoint_table(found: &[CheckpointInfo]) -> String {
    // A column that says the same of each is left out: lines are to fit a terminal.
    let with_state = found.iter().any(|info| shown_state(info) != "committed");
    let columns = |first: String, state: &str, rest: [String; 4]| {
        let state = with_state.then(|| state.to_owned());
        [first].into_iter().chain(state).chain(rest).collect::<Vec<_>>()
    };
    let heads = ["COMMITTED", "SIZE", "NEW", "REPLICAS"].map(str::to_owned);
    let mut rows = vec![columns("CHECKPOINT".to_owned(), "STATE", heads)];
    for info in found {
        let rest = [
            info.commit.map_or("-".to_owned(), |commit| wall_time(commit.wall_ms)),
            bytes(info.bytes),
            new_bytes(info).map_or("-".to_owned(), bytes),
            match info.state {
                CheckpointState::Open => progress(info),
                CheckpointState::Deleted => info.deletion.as_ref().map_or("-".to_owned(), trashed),
                _ => durability(info),
            },
        ];
        rows.push(columns(format!("{}@{}", info.namespace, info.step), shown_state(info), rest));
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_printed() {
        let place = ("llama/pretrain".parse().unwrap(), Step(1000), CheckpointId(17));
        assert_eq!(cursor(&cursor_text(&place)), Ok(place));
        for bad in ["", "llama", "llama@1000", "llama@1000:", "@1:2", "llama@x:2"] {
            assert!(cursor(bad).unwrap_err().contains("--limit"), "{bad}");
        }
    }
}
