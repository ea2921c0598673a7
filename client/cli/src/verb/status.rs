//! `cairn status`: the cluster at a glance; exit code 8 when something is below its policy.

use cairn_core::ids::ClusterId;
use cairn_proto::wire::StatusReply;
use clap::Args;
use serde_json::{Value, json};

use super::node;
use crate::exit::{Exit, Outcome};
use crate::output::{bytes, plural};
use crate::session::Session;

#[derive(Debug, Args)]
pub struct StatusArgs {}

pub fn run(session: &Session, _args: StatusArgs) -> Outcome {
    let status = session.with_client(async |client| client.status().await)?;
    session.output.result(&document(&status), || text(&status));
    Ok(if problems(&status).is_empty() { Exit::Ok } else { Exit::BelowPolicy })
}

/// Voters that may still be lost with the catalogue writable: those that are down already count.
fn voters_can_be_lost(status: &StatusReply) -> u32 {
    let down = status.nodes.iter().filter(|node| node.voter && !node.up).count();
    (status.voters.saturating_sub(1) / 2).saturating_sub(u32::try_from(down).unwrap_or(u32::MAX))
}

/// What is not as policy wants it, in words.
pub fn problems(status: &StatusReply) -> Vec<String> {
    let mut problems = Vec::new();
    let down = status.nodes.iter().filter(|node| !node.up && !node.removed && node.incarnation > 0);
    for node in down {
        problems.push(format!("node {} ({}, {}) is down", node.id, node.host, node.rack));
    }
    if status.segments_unavailable > 0 {
        let count = plural(status.segments_unavailable, "segment");
        problems.push(format!("{count} cannot be read: no node that holds a replica is up"));
    }
    if status.segments_below > 0 {
        problems.push(format!(
            "{} ({}) below the wanted number of replicas",
            plural(status.segments_below, "segment"),
            bytes(status.bytes_below)
        ));
    }
    if status.segments_short_of_racks > 0 {
        let count = plural(status.segments_short_of_racks, "segment");
        problems.push(format!("{count} in fewer racks than policy asks for"));
    }
    problems
}

fn cluster(status: &StatusReply) -> String {
    <[u8; 16]>::try_from(status.cluster.as_ref())
        .map_or("?".to_owned(), |bytes| ClusterId(u128::from_be_bytes(bytes)).to_string())
}

fn document(status: &StatusReply) -> Value {
    let nodes: Vec<Value> =
        status.nodes.iter().map(|info| node::document(info, status.leader)).collect();
    json!({
        "cluster": cluster(status),
        "lineage": status.lineage,
        "leader": status.leader,
        "leader_address": status.leader_address,
        "term": status.term,
        "applied_index": status.applied_index,
        "voters": status.voters,
        "voters_can_be_lost": voters_can_be_lost(status),
        "nodes": nodes,
        "checkpoints_committed": status.checkpoints_committed,
        "checkpoints_open": status.checkpoints_open,
        "segments": status.segments,
        "segment_bytes": status.segment_bytes,
        "segments_below": status.segments_below,
        "bytes_below": status.bytes_below,
        "segments_unavailable": status.segments_unavailable,
        "segments_short_of_racks": status.segments_short_of_racks,
        "segments_unreferenced": status.segments_unreferenced,
        "bytes_unreferenced": status.bytes_unreferenced,
        "nodes_can_be_lost": status.nodes_can_be_lost,
        "racks_can_be_lost": status.racks_can_be_lost,
        "problems": problems(status),
    })
}

fn text(status: &StatusReply) -> String {
    let mut lines = vec![format!(
        "cluster {}  leader node {} at {}  term {}  index {}",
        &cluster(status)[..8.min(cluster(status).len())],
        status.leader,
        status.leader_address,
        status.term,
        status.applied_index
    )];
    lines.push(String::new());
    lines.push(node::node_table(&status.nodes, status.leader));
    lines.push(format!(
        "data       {}, {} in {}; {} awaiting deletion",
        plural(status.checkpoints_committed, "checkpoint"),
        bytes(status.segment_bytes),
        plural(status.segments, "segment"),
        bytes(status.bytes_unreferenced),
    ));
    if status.checkpoints_open > 0 {
        lines.push(format!("uploads    {} in progress", status.checkpoints_open));
    }
    if status.checkpoints_committed > 0 {
        lines.push(format!(
            "can lose   any {}, or any {}, without losing data",
            plural(u64::from(status.nodes_can_be_lost), "node"),
            plural(u64::from(status.racks_can_be_lost), "rack")
        ));
    }
    let writes = match voters_can_be_lost(status) {
        0 => "no further voter".to_owned(),
        count => format!("any {}", plural(u64::from(count), "voter")),
    };
    lines.push(format!("can lose   {writes} of {} without stopping writes", status.voters));
    let problems = problems(status);
    if problems.is_empty() {
        lines.push("health     everything is as policy wants it".to_owned());
    }
    for (index, problem) in problems.iter().enumerate() {
        let label = if index == 0 { "health" } else { "" };
        lines.push(format!("{label:10} {problem}"));
    }
    lines.join("\n") + "\n"
}
