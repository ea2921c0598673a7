//! `cairn show`

use std::collections::BTreeMap;

use cairn_client::Shown;
use cairn_core::ids::{Address, NodeId};
use cairn_core::model::SlotState;
use clap::Args;
use serde_json::{Value, json};

use super::ls;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{bytes, plural, table, wall_time};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// NAMESPACE@SELECTOR, such as run1@latest
    address: String,
    /// List every segment with its replicas
    #[arg(long)]
    segments: bool,
}

pub fn run(session: &Session, args: ShowArgs) -> Outcome {
    let address: Address = args.address.parse().map_err(Failure::usage)?;
    let shown = session.with_client(async |client| client.show(&address).await)?;
    session.output.result(&document(&shown), || text(&shown, args.segments));
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

fn document(shown: &Shown) -> Value {
    let mut document = ls::document(&shown.info);
    let files = |(part, manifest): (usize, &cairn_proto::manifest::Manifest)| -> Vec<Value> {
        let file = |file: &cairn_proto::manifest::FileEntry| {
            json!({
                "name": String::from_utf8_lossy(&file.name),
                "part": part,
                "bytes": file.len,
                "mode": format!("{:o}", file.mode),
                "mtime_ns": file.mtime_ns,
            })
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

fn text(shown: &Shown, segments: bool) -> String {
    let info = &shown.info;
    let mut text = format!("{}@{}  {}", info.namespace, info.step, ls::state(info));
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
    for (key, value) in &info.labels {
        text.push_str(&format!("label {key}={value}\n"));
    }
    let mut rows = vec![["PART", "SIZE", "FILE"].map(str::to_owned).to_vec()];
    for (part, manifest) in shown.manifests.iter().enumerate() {
        for file in &manifest.files {
            let name = String::from_utf8_lossy(&file.name).into_owned();
            rows.push(vec![part.to_string(), bytes(file.len), name]);
        }
    }
    text.push('\n');
    text.push_str(&table(&rows));
    let mut rows = vec![["NODE", "DURABLE", "TO COME"].map(str::to_owned).to_vec()];
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
