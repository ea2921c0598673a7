//! Room for data: of each node, and of the cluster as the next put sees it.

use std::collections::BTreeMap;

use cairn_client::NodeInfo;
use cairn_types::limits::SEGMENT_BYTES_MAX;

use crate::output::bytes;

/// Replicas of a namespace that nobody gave a policy: a put that finds fewer hosts with room leaves
/// its checkpoint below policy, or is refused.
const REPLICAS_USUAL: usize = 3;

/// A cell of the column FREE: the least of the capacity that is left, and of what the file system
/// has beside its reserve.
pub fn cell(node: &NodeInfo) -> String {
    match node.available_bytes {
        _ if !node.up || node.removed => "-".to_owned(),
        None => "?".to_owned(),
        Some(_) if is_full(node) => "full".to_owned(),
        Some(available) => bytes(available),
    }
}

/// Whether not even one more segment of the largest size fits.
fn is_full(node: &NodeInfo) -> bool {
    node.available_bytes.is_some_and(|available| available < SEGMENT_BYTES_MAX)
}

/// What to say if too few hosts have room. A full node beside enough others is no problem yet.
pub fn problems(nodes: &[NodeInfo]) -> Vec<String> {
    let serve = |node: &&NodeInfo| node.up && node.inventoried && !node.removed;
    let mut hosts: BTreeMap<&str, bool> = BTreeMap::new();
    for node in nodes.iter().filter(serve) {
        *hosts.entry(&node.host).or_default() |= !is_full(node);
    }
    let with_room = hosts.values().filter(|has_room| **has_room).count();
    if with_room >= hosts.len().min(REPLICAS_USUAL) {
        return Vec::new();
    }
    let full = nodes.iter().filter(serve).filter(|node| is_full(node));
    let mut problems: Vec<String> = full
        .map(|node| {
            format!(
                "node {} ({}, {}) has no room: {} left (bytes or inodes)",
                node.id,
                node.host,
                node.rack,
                bytes(node.available_bytes.unwrap_or_default())
            )
        })
        .collect();
    let have = if with_room == 1 { "has" } else { "have" };
    problems.push(format!(
        "{with_room} of {} hosts {have} room: new checkpoints do not get all their replicas",
        hosts.len()
    ));
    problems
}
