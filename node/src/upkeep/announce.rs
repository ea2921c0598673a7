//! Logs when a node joins, goes down, comes back or is removed. Every node logs each change once,
//! because the leader may be the node that is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_types::ids::{Incarnation, NodeId};
use cairn_types::model::{Admin, Liveness, Node};

use crate::shared::Member;

/// Changes are collected for this long and then compared once.
const GATHER: Duration = Duration::from_millis(200);

/// The state of a node, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Up,
    Down,
    Removed,
}

pub async fn run(member: Arc<Member>) {
    let mut before = BTreeMap::new();
    let mut seen = 0;
    loop {
        member.consensus.wait_for_applied(seen + 1).await;
        seen = member.consensus.applied();
        let now = member.read(standings);
        // Entries of an earlier process's time are no news.
        if member.this.incarnation().is_some() {
            for (node, was, is) in changes(&before, &now) {
                let host = member.read(|it| it.node(node).map(|record| record.host.clone()));
                say(node, &host.unwrap_or_default(), was, is);
            }
        }
        before = now;
        tokio::time::sleep(GATHER).await;
    }
}

fn standings(catalogue: &Catalogue) -> BTreeMap<NodeId, Standing> {
    let registered = |node: &&Node| node.incarnation != Incarnation(0);
    let standing = |node: &Node| match node {
        Node { admin: Admin::Removed, .. } => Standing::Removed,
        Node { liveness: Liveness::Up, .. } => Standing::Up,
        Node { .. } => Standing::Down,
    };
    catalogue.nodes().filter(registered).map(|node| (node.id, standing(node))).collect()
}

/// Nodes whose state changed, and new nodes.
fn changes(
    before: &BTreeMap<NodeId, Standing>,
    now: &BTreeMap<NodeId, Standing>,
) -> Vec<(NodeId, Option<Standing>, Standing)> {
    let changed = now.iter().filter(|(node, standing)| before.get(node) != Some(standing));
    changed.map(|(node, standing)| (*node, before.get(node).copied(), *standing)).collect()
}

fn say(node: NodeId, host: &str, was: Option<Standing>, is: Standing) {
    match (was, is) {
        (_, Standing::Removed) => tracing::info!(%node, host, "node was removed"),
        (_, Standing::Down) => tracing::warn!(%node, host, "node is down"),
        (None, Standing::Up) => tracing::info!(%node, host, "node joined"),
        (Some(_), Standing::Up) => tracing::info!(%node, host, "node is back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let (one, two) = (NodeId(1), NodeId(2));
        let first = BTreeMap::from([(one, Standing::Up)]);
        let then = BTreeMap::from([(one, Standing::Down), (two, Standing::Up)]);
        let told = changes(&first, &then);
        let joined = (two, None, Standing::Up);
        assert_eq!(told, [(one, Some(Standing::Up), Standing::Down), joined]);
        assert_eq!(changes(&then, &then), []);
    }
}
