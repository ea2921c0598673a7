//! D2, D3, D4 at every entry: what it may do to slots and checkpoints, and what a commit needs.
//! The first node that applies an entry shows it; that the others do the same, C3 sees.

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
    /// To be called right after `node` has applied the entry at `index`. The catalogues before
    /// and after it, if it is the first to apply it.
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
        // Entries that no node applied while it was watched: a start from a snapshot.
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
