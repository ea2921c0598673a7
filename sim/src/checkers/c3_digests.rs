//! C3: equal applied index, equal catalogue digest on every node.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Running};
use crate::process::ProcessId;
use crate::trace;

/// Limit on remembered indexes. Nodes that are further apart are compared again when the slower one
/// has caught up.
const INDEXES_MAX: usize = 20_000;
/// Every node is compared at multiples of this, and at each look by time. A digest walks the whole
/// catalogue, so not every entry is compared. A difference does not disappear.
const EVERY: u64 = 4;

#[derive(Default)]
pub struct Checker {
    /// The digest first seen at an applied index, and the node.
    seen: BTreeMap<u64, ([u8; 32], String)>,
    /// By process: the life and the applied index of the last look.
    done: BTreeMap<ProcessId, (u32, u64)>,
    /// The term of the newest leader seen.
    term: u64,
    reports: u32,
}

impl Checker {
    pub fn look(&mut self, cluster: &Cluster) {
        for node in cluster.running() {
            let term = node.shared.member.consensus.term();
            if node.shared.member.consensus.is_leader() && term > self.term {
                self.term = term;
                trace::event(&node.name, "leads", format_args!("term {term}"));
                trace::count("cluster.elections", 1);
            }
            self.compare(cluster, &node, node.shared.member.consensus.applied());
        }
    }

    /// Call this right after `node` has applied the entry at `index`.
    pub fn entry(&mut self, cluster: &Cluster, node: &Running, index: u64) {
        if index.is_multiple_of(EVERY) {
            self.compare(cluster, node, index);
        }
    }

    fn compare(&mut self, cluster: &Cluster, node: &Running, index: u64) {
        let now = (node.life(), index);
        if index == 0 || self.done.insert(node.process, now) == Some(now) {
            return;
        }
        let who = format!("{} life {}", node.name, node.life());
        let digest = node.shared.member.read(|catalogue| catalogue.digest());
        let (first, other) = self.seen.entry(index).or_insert_with(|| {
            let text = digest.iter().take(4).map(|byte| format!("{byte:02x}"));
            let text: String = text.collect();
            trace::event(&node.name, "applied", format_args!("{index} digest {text}"));
            (digest, who.clone())
        });
        if *other != who {
            trace::count("checked.equal_digests", 1);
        }
        if *first != digest && self.reports < super::REPORTS_MAX {
            self.reports += 1;
            let text = format!("at entry {index} {who} differs from {other}");
            cluster.world().violation("C3", text);
        }
        while self.seen.len() > INDEXES_MAX {
            self.seen.pop_first();
        }
    }
}
