//! `cairn show`

use std::collections::BTreeMap;

use cairn_client::Shown;
use cairn_types::ids::NodeId;
use cairn_types::model::SlotState;
use clap::Args;
use serde_json::{Value, json};

use super::annotate::annotations;
use super::hold::marks;
use super::ls;
use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::Session;
use crate::{address, foreign};

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// NAMESPACE@SELECTOR, such as run1@latest (`cairn help selectors`)
    address: String,
    /// List every segment with its replicas
    #[arg(long)]
    segments: bool,
}

pub fn run(session: &Session, args: ShowArgs) -> Outcome {
    let address = address::parse(&args.address)?;
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

pub(super) fn document(shown: &Shown) -> Value {
    let mut document = ls::document(&shown.info);
    let files = |(part, manifest): (usize, &cairn_types::manifest::Manifest)| -> Vec<Value> {
        let file = |file: &cairn_types::manifest::FileEntry| {
            let mut document = json!({
                "part": part,
                "bytes": file.len,
                "mode": format!("{:o}", file.mode),
                "mtime_ns": file.mtime_ns,
            });
            match str::from_utf8(&file.name) {
                Ok(name) => document["name"] = name.into(),
                Err(_) => {
                    document["name"] = foreign::name(&file.name).into();
                    document["name_hex"] = hex::encode(&file.name).into();
                }
            }
            document
        };
        manifest.files.iter().map(file).collect()
    };
    document["parts"] = shown.manifests.len().into();
    document["file_list"] =
        shown.manifests.iter().enumerate().flat_map(files).collect::<Vec<_>>().into();
    let segment = |segment: &cairn_client::LocatedSegment| {
        let slots: Vec<Value> = segment
            .slots
            .iter()
            .map(|slot| json!({"node": slot.node.0, "durable": slot.state == SlotState::Durable}))
            .collect();
        json!({
            "digest": segment.digest.to_string(),
            "id": segment.id.map(|id| id.0),
            "bytes": segment.len,
            "replicas": slots,
        })
    };
    document["segment_list"] = shown.segments.iter().map(segment).collect::<Vec<_>>().into();
    document
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
