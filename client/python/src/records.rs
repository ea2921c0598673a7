//! The SDK's records as dictionaries. `cairn.records` makes dataclasses of them; names are those of the
//! command line's JSON.

use std::collections::BTreeMap;

use cairn_client::{
    CheckpointInfo, CheckpointState, ClusterStatus, DeletedFor, GetReport, PutOutcome, PutReport,
    RefList, Watched,
};
use pyo3::prelude::*;

#[derive(IntoPyObject)]
pub(crate) struct Checkpoint {
    namespace: String,
    step: u64,
    id: u64,
    attempt: u64,
    state: &'static str,
    parts: u32,
    parts_missing: u32,
    began_ms: u64,
    client: String,
    job: String,
    committed_ms: Option<u64>,
    files: u64,
    bytes: u64,
    segments: u64,
    segment_bytes: u64,
    new_bytes: Option<u64>,
    labels: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
    replicas_wanted: u32,
    replicas_min: u32,
    racks_min: u32,
    segments_below: u64,
    segments_unavailable: u64,
    quarantine: Option<String>,
    refs: Vec<String>,
    holds: Vec<String>,
    deleted: Option<&'static str>,
}

impl Checkpoint {
    pub(crate) fn of(info: &CheckpointInfo) -> Self {
        let durability = &info.durability;
        Self {
            namespace: info.namespace.to_string(),
            step: info.step.0,
            id: info.id.0,
            attempt: info.attempt.0,
            state: match info.state {
                CheckpointState::Open => "open",
                CheckpointState::Committed => "committed",
                CheckpointState::Deleted => "deleted",
            },
            parts: info.parts_wanted,
            parts_missing: info.parts_missing,
            began_ms: info.began.wall_ms,
            client: info.began.client.clone(),
            job: info.began.job.clone(),
            committed_ms: info.commit.map(|commit| commit.wall_ms),
            files: info.files,
            bytes: info.bytes,
            segments: info.segments,
            segment_bytes: info.segment_bytes,
            new_bytes: info.new_bytes,
            labels: info.labels.clone(),
            metrics: info.metrics.iter().map(|(name, it)| (name.clone(), it.value())).collect(),
            replicas_wanted: durability.replicas_wanted,
            replicas_min: durability.replicas_min,
            racks_min: durability.racks_min,
            segments_below: durability.segments_below,
            segments_unavailable: durability.segments_unavailable,
            quarantine: info.quarantine.as_ref().map(|it| it.reason.clone()),
            refs: info.refs.iter().map(ToString::to_string).collect(),
            holds: info.holds.iter().map(|hold| hold.owner.clone()).collect(),
            deleted: info.deletion.as_ref().map(|deletion| reason(deletion.reason)),
        }
    }
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

#[derive(IntoPyObject)]
pub(crate) struct Put {
    id: Option<u64>,
    attempt: Option<u64>,
    outcome: &'static str,
    parts_sealed: Option<u32>,
    parts: Option<u32>,
    replicas_min: Option<u32>,
    replicas_wanted: Option<u32>,
    racks_min: Option<u32>,
    full: Option<bool>,
    files: u64,
    bytes: u64,
    segments: u64,
    segment_bytes: u64,
    segments_sent: u64,
    bytes_sent: u64,
    segments_kept: u64,
    bytes_kept: u64,
    seconds: f64,
}

impl Put {
    pub(crate) fn of(report: &PutReport) -> Self {
        let (outcome, sealed, durability) = match &report.outcome {
            PutOutcome::Committed { durability } => ("committed", None, Some(durability)),
            PutOutcome::AlreadyCommitted { durability } => {
                ("already_committed", None, Some(durability))
            }
            PutOutcome::Sealed { parts_sealed, parts } => {
                ("sealed", Some((*parts_sealed, *parts)), None)
            }
            PutOutcome::DryRun => ("dry_run", None, None),
        };
        Self {
            id: report.checkpoint.map(|id| id.0),
            attempt: report.attempt.map(|attempt| attempt.0),
            outcome,
            parts_sealed: sealed.map(|it| it.0),
            parts: sealed.map(|it| it.1),
            replicas_min: durability.map(|it| it.replicas_min),
            replicas_wanted: durability.map(|it| it.replicas_wanted),
            racks_min: durability.map(|it| it.racks_min),
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
}

#[derive(IntoPyObject)]
pub(crate) struct Get {
    checkpoint: Checkpoint,
    files: u64,
    bytes: u64,
    files_kept: u64,
    bytes_kept: u64,
    bytes_fetched: u64,
    segments_fetched: u64,
    seconds: f64,
}

impl Get {
    pub(crate) fn of(report: &GetReport) -> Self {
        Self {
            checkpoint: Checkpoint::of(&report.checkpoint),
            files: report.files,
            bytes: report.bytes,
            files_kept: report.files_kept,
            bytes_kept: report.bytes_kept,
            bytes_fetched: report.bytes_fetched,
            segments_fetched: report.segments_fetched,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(IntoPyObject)]
pub(crate) struct Ref {
    name: String,
    generation: u64,
    id: Option<u64>,
    step: Option<u64>,
    moved_ms: Option<u64>,
    by: Option<String>,
}

/// Also refs that were removed; they name nothing.
pub(crate) fn refs(list: &RefList) -> Vec<Ref> {
    let one = |named: &cairn_client::NamedRef| {
        let last = named.target.history.last();
        let checkpoint = named.target.checkpoint;
        Ref {
            name: named.name.to_string(),
            generation: named.target.generation,
            id: checkpoint.map(|id| id.0),
            step: checkpoint.and_then(|id| list.steps.get(&id)).map(|step| step.0),
            moved_ms: last.map(|it| it.wall_ms),
            by: last.map(|it| it.by.clone()),
        }
    };
    list.refs.iter().map(one).collect()
}

#[derive(IntoPyObject)]
pub(crate) struct Told {
    told: &'static str,
    cursor: Option<String>,
    event: Option<&'static str>,
    namespace: Option<String>,
    step: Option<u64>,
    id: Option<u64>,
    at_ms: Option<u64>,
    name: Option<String>,
    generation: Option<u64>,
}

impl Told {
    /// `None` for what a later SDK may say and this module does not know.
    pub(crate) fn of(watched: &Watched) -> Option<Self> {
        let mut told = Self {
            told: "begins",
            cursor: watched.cursor().map(|cursor| cursor.to_string()),
            event: None,
            namespace: None,
            step: None,
            id: None,
            at_ms: None,
            name: None,
            generation: None,
        };
        match watched {
            Watched::Begins => {}
            Watched::Seam(_) => told.told = "seam",
            Watched::Cursor(_) => told.told = "cursor",
            Watched::Checkpoint(it) => {
                told.told = "checkpoint";
                told.namespace = Some(it.namespace.to_string());
                (told.step, told.id) = (Some(it.step.0), Some(it.id.0));
                told.at_ms = Some(it.commit_wall_ms);
            }
            Watched::Ref(it) => {
                told.told = "ref";
                told.namespace = Some(it.namespace.to_string());
                told.name = Some(it.name.to_string());
                told.generation = Some(it.generation);
                told.id = Some(it.checkpoint.0);
            }
            Watched::Event(it) => {
                told.told = "event";
                told.event = Some(it.what.name());
                told.namespace = Some(it.namespace.to_string());
                told.step = it.what.step().map(|step| step.0);
                told.id = it.what.checkpoint().map(|id| id.0);
                told.at_ms = Some(it.wall_ms);
                if let cairn_client::Happened::RefMoved { name, generation, .. } = &it.what {
                    told.name = Some(name.to_string());
                    told.generation = Some(*generation);
                }
            }
            _ => return None,
        }
        Some(told)
    }
}

#[derive(IntoPyObject)]
pub(crate) struct Status {
    cluster: Option<String>,
    leader: Option<u64>,
    nodes: Vec<Node>,
    checkpoints_committed: u64,
    checkpoints_open: u64,
    segments_below: u64,
    segments_unavailable: u64,
    nodes_can_be_lost: u32,
    feature_level: u32,
}

#[derive(IntoPyObject)]
pub(crate) struct Node {
    id: u64,
    address: String,
    host: String,
    rack: String,
    up: bool,
}

impl Status {
    pub(crate) fn of(status: &ClusterStatus) -> Self {
        let node = |node: &cairn_client::NodeInfo| Node {
            id: node.id.0,
            up: node.up,
            address: node.address.clone(),
            host: node.host.clone(),
            rack: node.rack.clone(),
        };
        Self {
            cluster: status.cluster.map(|id| id.to_string()),
            leader: status.leader.map(|id| id.0),
            nodes: status.nodes.iter().filter(|node| !node.removed).map(node).collect(),
            checkpoints_committed: status.checkpoints_committed,
            checkpoints_open: status.checkpoints_open,
            segments_below: status.segments_below,
            segments_unavailable: status.segments_unavailable,
            nodes_can_be_lost: status.nodes_can_be_lost,
            feature_level: status.feature_level,
        }
    }
}
