//! Wall clocks that are wrong, and namespaces that one has labelled into the future.

use std::time::Duration;

use cairn_client::{ClusterStatus, NodeInfo};
use cairn_node::clock;

/// Nodes whose clock is far off the voters' median. Only a leader knows.
pub fn wrong(nodes: &[NodeInfo]) -> Vec<String> {
    let members = nodes.iter().filter(|node| !node.removed);
    let wrong = members.filter_map(|node| {
        let ahead_ms = node.clock_ahead_ms.filter(|ahead_ms| clock::is_wrong(*ahead_ms))?;
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        Some(format!(
            "node {} ({}, {}): its wall clock is {} {side} the voters' median",
            node.id,
            node.host,
            node.rack,
            span(ahead_ms.unsigned_abs())
        ))
    });
    wrong.collect()
}

/// Wrong clocks, and what they have left behind.
pub fn problems(status: &ClusterStatus) -> Vec<String> {
    let mut problems = wrong(&status.nodes);
    for ahead in &status.first_ahead {
        problems.push(format!(
            "namespace {}: its newest commit is labelled {} ahead of the voters' clocks; `cairn \
             namespace repair-time {}` corrects it",
            ahead.namespace,
            span(ahead.ahead_ms),
            ahead.namespace
        ));
    }
    let others = status.namespaces_ahead.saturating_sub(status.first_ahead.len() as u64);
    if others > 0 {
        let are = if others == 1 { "namespace is" } else { "namespaces are" };
        problems.push(format!("{others} more {are} labelled ahead of the voters' clocks"));
    }
    problems
}

/// In whole seconds.
pub fn span(ms: u64) -> String {
    humantime::format_duration(Duration::from_secs(ms / 1_000)).to_string()
}

#[cfg(test)]
mod tests {
    use cairn_client::{NamespaceAhead, NodeId};

    use super::*;

    #[test]
    fn a_clock_that_is_far_off_and_what_it_labelled_are_named() {
        let node = |id, clock_ahead_ms| {
            let mut node = NodeInfo::default();
            node.id = NodeId(id);
            node.host = format!("h{id}");
            node.rack = "a".to_owned();
            node.up = true;
            node.clock_ahead_ms = clock_ahead_ms;
            node
        };
        let mut status = ClusterStatus::default();
        status.nodes = vec![
            node(1, Some(30 * 86_400_000)),
            node(2, Some(-90_500)),
            node(3, Some(9_999)),
            node(4, None),
        ];
        let mut ahead = NamespaceAhead::default();
        ahead.namespace = "run/a".to_owned();
        ahead.ahead_ms = 61_000;
        status.first_ahead = vec![ahead];
        status.namespaces_ahead = 3;
        assert_eq!(
            problems(&status),
            [
                "node 1 (h1, a): its wall clock is 30days ahead of the voters' median",
                "node 2 (h2, a): its wall clock is 1m 30s behind the voters' median",
                "namespace run/a: its newest commit is labelled 1m 1s ahead of the voters' \
                 clocks; `cairn namespace repair-time run/a` corrects it",
                "2 more namespaces are labelled ahead of the voters' clocks",
            ]
        );
    }
}
