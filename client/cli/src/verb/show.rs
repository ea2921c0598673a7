//! `cairn show`

use std::borrow::Cow;
use std::collections::BTreeMap;

use cairn_client::{LocatedSegment, Shown};
use cairn_types::ids::NodeId;
use cairn_types::manifest::FileEntry;
use cairn_types::model::{Slot, SlotState};
use clap::Args;
use serde::Serialize;

use super::annotate::annotations;
use super::hold::marks;
use super::ls::{self, CheckpointRecord};
use super::uploads;
use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::Session;
use crate::{address, foreign};

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// NAMESPACE@SELECTOR, such as run1@latest (`cairn help selectors`); with --open a namespace, or
    /// NAMESPACE@STEP
    #[arg(required_unless_present = "open")]
    address: Option<String>,
    /// Show uploads in progress: who uploads, which parts are missing, how many bytes are durable, and
    /// when the cluster gives the upload up; without an ADDRESS all of them
    #[arg(long, conflicts_with = "segments")]
    open: bool,
    /// List every segment with its replicas
    #[arg(long)]
    segments: bool,
}

pub fn run(session: &Session, args: ShowArgs) -> Outcome {
    let address = args.address.as_deref();
    if args.open {
        return uploads::run(session, address);
    }
    let address = address::parse(address.unwrap_or_default())?;
    let shown = session.with_client(async |client| client.show(&address).await)?;
    session.output.result(&document(&shown), || text(&shown, args.segments))?;
    Ok(Exit::Ok)
}

/// (durable, assigned) replicas by node.
fn replicas(shown: &Shown) -> BTreeMap<NodeId, (u64, u64)> {
    let mut replicas: BTreeMap<NodeId, (u64, u64)> = BTreeMap::new();
    for slot in shown.segments.iter().flat_map(|segment| &segment.slots) {
        let counts = replicas.entry(slot.node).or_default();
        match slot.state {
            SlotState::Durable => counts.0 += 1,
            SlotState::Assigned => counts.1 += 1,
            SlotState::Released => {}
        }
    }
    replicas
}

/// `show`.
#[derive(Serialize)]
pub(super) struct ShowDocument<'a> {
    #[serde(flatten)]
    checkpoint: CheckpointRecord<'a>,
    file_list: Vec<FileRecord<'a>>,
    segment_list: Vec<SegmentRecord>,
    /// The checkpoint of its namespace with which it shares most; null if there is none.
    shared_most: Option<SharedRecord>,
}

#[derive(Serialize)]
struct SharedRecord {
    step: u64,
    id: u64,
    bytes: u64,
    /// Checkpoints that were compared: the nearest ones.
    compared: u64,
}

#[derive(Serialize)]
struct FileRecord<'a> {
    /// In a name that is not UTF-8, `\xNN` stands for such bytes.
    name: Cow<'a, str>,
    /// The exact name of such a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    part: usize,
    bytes: u64,
    /// Octal.
    mode: String,
    mtime_ns: i64,
}

#[derive(Serialize)]
struct SegmentRecord {
    digest: String,
    /// Null where the catalogue does not know the segment any more.
    id: Option<u64>,
    bytes: u32,
    replicas: Vec<ReplicaRecord>,
}

#[derive(Serialize)]
struct ReplicaRecord {
    node: u64,
    durable: bool,
}

impl<'a> FileRecord<'a> {
    fn new(part: usize, file: &'a FileEntry) -> Self {
        let (name, name_hex) = match str::from_utf8(&file.name) {
            Ok(name) => (name.into(), None),
            Err(_) => (foreign::name(&file.name).into(), Some(hex::encode(&file.name))),
        };
        let mode = format!("{:o}", file.mode);
        Self { name, name_hex, part, bytes: file.len, mode, mtime_ns: file.mtime_ns }
    }
}

impl SegmentRecord {
    fn new(segment: &LocatedSegment) -> Self {
        let replicas = segment.slots.iter();
        let replica = |slot: &Slot| ReplicaRecord {
            node: slot.node.0,
            durable: slot.state == SlotState::Durable,
        };
        Self {
            digest: segment.digest.to_string(),
            id: segment.id.map(|id| id.0),
            bytes: segment.len,
            replicas: replicas.map(replica).collect(),
        }
    }
}

pub(super) fn document(shown: &Shown) -> ShowDocument<'_> {
    let mut checkpoint = CheckpointRecord::new(&shown.info);
    checkpoint.parts = shown.manifests.len() as u64;
    let manifests = shown.manifests.iter().enumerate();
    let files = manifests.flat_map(|(part, it)| it.files.iter().map(move |file| (part, file)));
    ShowDocument {
        checkpoint,
        file_list: files.map(|(part, file)| FileRecord::new(part, file)).collect(),
        segment_list: shown.segments.iter().map(SegmentRecord::new).collect(),
        shared_most: shown.shared.map(|shared| SharedRecord {
            step: shared.step.0,
            id: shared.checkpoint.0,
            bytes: shared.bytes,
            compared: shared.compared,
        }),
    }
}

pub(super) fn text(shown: &Shown, segments: bool) -> String {
    let info = &shown.info;
    let mut text = format!("{}@{}  {}", info.namespace, info.step, ls::shown_state(info));
    if let Some(commit) = info.commit {
        text.push_str(&format!("  {}  log index {}", wall_time(commit.wall_ms), commit.index));
    }
    text.push_str(&format!(
        "\nattempt {}, {}, {}, {} in {}\n",
        info.attempt,
        plural(info.parts.len() as u64, "part"),
        plural(info.files, "file"),
        bytes(info.bytes),
        plural(info.segments, "segment")
    ));
    if let Some(new) = ls::new_bytes(info) {
        text.push_str(&format!(
            "new at its commit: {} of {}\n",
            bytes(new),
            bytes(info.segment_bytes)
        ));
    }
    if let Some(shared) = &shown.shared {
        let (size, step) = (bytes(shared.bytes), shared.step);
        let of = match shared.compared {
            0 | 1 => String::new(),
            compared => format!(", most of {compared} compared"),
        };
        text.push_str(&format!("shares {size} with step {step}{of}\n"));
    }
    text.push_str(&format!("replicas: {}\n", ls::durability(info)));
    text.push_str(&annotations(info));
    text.push_str(&marks(info));
    let mut rows = vec![["PART", "SIZE", "FILE"].map(str::to_owned).to_vec()];
    for (part, manifest) in shown.manifests.iter().enumerate() {
        for file in &manifest.files {
            rows.push(vec![part.to_string(), bytes(file.len), foreign::name(&file.name)]);
        }
    }
    text.push('\n');
    text.push_str(&table(&rows));
    let mut rows = vec![["NODE", "DURABLE", "PENDING"].map(str::to_owned).to_vec()];
    for (node, (durable, assigned)) in replicas(shown) {
        rows.push(vec![node.to_string(), durable.to_string(), assigned.to_string()]);
    }
    text.push('\n');
    text.push_str(&table(&rows));
    if segments {
        let mut rows = vec![["SEGMENT", "SIZE", "DURABLE ON"].map(str::to_owned).to_vec()];
        for segment in &shown.segments {
            let on: Vec<String> = segment
                .slots
                .iter()
                .filter(|slot| slot.state == SlotState::Durable)
                .map(|slot| slot.node.to_string())
                .collect();
            rows.push(vec![segment.digest.to_string(), bytes(segment.len.into()), on.join(" ")]);
        }
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text
}
