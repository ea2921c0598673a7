//! C2, D4, D6: the properties that a catalogue alone can show, checked on every newest catalogue.
//! D3, D4: the allowed changes between two of them. Also checks that every node's build has the
//! cluster's feature level.

use cairn_core::catalogue::Catalogue;
use cairn_core::invariants;

use crate::cluster::Cluster;
use crate::trace;

#[derive(Default)]
pub struct Checker {
    last: (u64, Catalogue),
    reports: u32,
}

impl Checker {
    pub fn look(&mut self, cluster: &Cluster) {
        let (index, catalogue) = cluster.newest();
        if index == self.last.0 || self.reports >= super::REPORTS_MAX {
            return;
        }
        trace::count("checked.catalogues", 1);
        if let Err(text) = invariants::check(&catalogue) {
            self.reports += 1;
            let (name, text) = text.split_once(": ").unwrap_or(("C2", &text));
            cluster.world().violation(name, format!("at entry {index}: {text}"));
        }
        let (level, lowest) = (catalogue.cluster().feature_level, cluster.lowest_feature_level());
        if level > lowest {
            self.reports += 1;
            let text = format!("feature level {level} with a build of {lowest} at entry {index}");
            cluster.world().violation("level", text);
        }
        self.last = (index, catalogue);
    }
}
