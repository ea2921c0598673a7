//! D3: a segment file leaves its place only when the catalogue had released the slot, or for
//! quarantine.
//!
//! Compared are two looks: a file that is gone while its slot is live under the same epoch in
//! both catalogues, or that no catalogue knew, must be in quarantine. Both the newest catalogue
//! and the node's own may say that the slot was released: one that was cut off reaps by entries
//! the others have long left behind. A power cut may take names that were never synced; D1
//! watches over those that were reported.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::catalogue::Catalogue;
use cairn_types::ids::{NodeId, SegmentDigest};
use cairn_types::model::{Slot, SlotState};

use crate::cluster::{Cluster, exchange};
use crate::process::ProcessId;
use crate::trace;

#[derive(Default)]
pub struct Checker {
    files: BTreeMap<ProcessId, BTreeSet<SegmentDigest>>,
    /// Crashes of each disk at the last look: what one took is not the node's doing.
    crashes: BTreeMap<ProcessId, u64>,
    catalogue: Catalogue,
    own: BTreeMap<ProcessId, Own>,
    /// Changes of names on each disk at the last look: without any, nothing is gone.
    names: BTreeMap<ProcessId, u64>,
    reports: u32,
}

impl Checker {
    /// Somebody else takes this file away.
    pub fn vanished(&mut self, process: ProcessId, digest: SegmentDigest) {
        if let Some(files) = self.files.get_mut(&process) {
            files.remove(&digest);
        }
    }

    /// What the next look finds is the beginning.
    pub fn forget(&mut self, process: ProcessId) {
        self.files.remove(&process);
    }

    /// Each has the other's disk now.
    pub fn exchanged(&mut self, one: ProcessId, other: ProcessId) {
        exchange(&mut self.files, one, other);
        exchange(&mut self.crashes, one, other);
        exchange(&mut self.own, one, other);
        exchange(&mut self.names, one, other);
    }

    pub fn look(&mut self, cluster: &Cluster) {
        let (index, catalogue) = cluster.newest();
        for process in cluster.nodes() {
            let Some(disk) = cluster.disk(process) else { continue };
            self.step(cluster, process);
            if self.crashes.insert(process, disk.crashes()) != Some(disk.crashes()) {
                self.files.remove(&process);
            }
            if self.files.contains_key(&process)
                && self.names.insert(process, disk.names()) == Some(disk.names())
            {
                continue;
            }
            let paths = disk.paths();
            let in_place = paths.iter().filter_map(|path| path.strip_prefix("segments/"));
            let files: BTreeSet<SegmentDigest> =
                in_place.filter_map(|path| path.get(3..)?.parse().ok()).collect();
            let old = self.files.remove(&process).unwrap_or_default();
            for gone in old.difference(&files) {
                trace::count("checked.vanished_files", 1);
                let Some(id) = cluster.id_of(process) else { continue };
                let aside = format!("quarantine/{gone}.");
                let allowed = paths.iter().any(|path| path.starts_with(&aside))
                    || was_released(&self.catalogue, &catalogue, id, gone)
                    || self
                        .own
                        .get(&process)
                        .is_some_and(|own| was_released(&own.before, &own.now, id, gone));
                if !allowed && self.reports < super::REPORTS_MAX {
                    self.reports += 1;
                    let text = format!(
                        "at entry {index} the file of {gone} is gone from {}, slot not released",
                        disk.name
                    );
                    cluster.world().violation("D3", text);
                }
            }
            self.files.insert(process, files);
        }
        self.catalogue = catalogue;
    }

    /// Remembers what the node has applied by now, if it runs.
    fn step(&mut self, cluster: &Cluster, process: ProcessId) {
        let Some(running) = cluster.running_node(process) else { return };
        let own = self.own.entry(process).or_default();
        let applied = running.shared.member.consensus.applied();
        if own.applied != applied {
            own.applied = applied;
            own.before = std::mem::replace(&mut own.now, running.catalogue());
            own.moved = true;
        } else if std::mem::take(&mut own.moved) {
            own.before = own.now.clone();
        }
    }
}

/// What a node itself had applied at the last two looks.
#[derive(Default)]
struct Own {
    applied: u64,
    before: Catalogue,
    now: Catalogue,
    /// Between the two looks.
    moved: bool,
}

/// A slot of the node was released in one of the two, or is another one by now.
fn was_released(
    before: &Catalogue,
    after: &Catalogue,
    node: NodeId,
    digest: &SegmentDigest,
) -> bool {
    let slots = |catalogue: &Catalogue| -> Vec<Slot> {
        let segment = catalogue.segment_by_digest(digest);
        let slots = segment.into_iter().flat_map(|segment| &segment.slots);
        slots.filter(|slot| slot.node == node).collect()
    };
    let (old, new) = (slots(before), slots(after));
    let is_live = |slot: &&Slot| slot.state != SlotState::Released;
    let released = old.iter().chain(&new).any(|slot| !is_live(&slot));
    let replaced = old
        .iter()
        .filter(is_live)
        .any(|old| !new.iter().filter(is_live).any(|new| new.epoch == old.epoch));
    released || replaced
}
