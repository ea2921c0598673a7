//! D2, D3, D4 at every entry: its allowed changes to slots and checkpoints, and the conditions of a
//! commit. The first node that applies an entry shows its effect. C3 checks that the others do the
//! same.

use cairn_core::catalogue::Catalogue;
use cairn_core::invariants;

use crate::cluster::{Cluster, Running};
use crate::trace;

#[derive(Default)]
pub struct Checker {
    last: (u64, Catalogue),
    reports: u32,
}

impl Checker {
    /// Call this right after `node` has applied the entry at `index`. Returns the catalogues before
    /// and after it, if this node is the first to apply it.
    pub fn look(
        &mut self,
        cluster: &Cluster,
        node: &Running,
        index: u64,
    ) -> Option<(Catalogue, &Catalogue)> {
        if index <= self.last.0 {
            return None;
        }
        let catalogue = node.catalogue();
        let (before, known) = std::mem::replace(&mut self.last, (index, catalogue));
        // No watched node applied these entries: a node started from a snapshot.
        if before + 1 != index {
            trace::count("checked.steps_missed", index - before - 1);
            return None;
        }
        trace::count("checked.steps", 1);
        if let Err(text) = invariants::check_step(&known, &self.last.1)
            && self.reports < super::REPORTS_MAX
        {
            self.reports += 1;
            let (name, text) = text.split_once(": ").unwrap_or(("C2", &text));
            cluster.world().violation(name, format!("by entry {index}: {text}"));
        }
        Some((known, &self.last.1))
    }
}
