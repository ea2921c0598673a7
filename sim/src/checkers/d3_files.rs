//! D3: a segment file leaves its place only after the catalogue has released the slot, or for
//! quarantine.
//!
//! Two looks are compared. A missing file must be in quarantine if its slot is live under the same
//! epoch in both catalogues, or if no catalogue knew it. The newest catalogue or the node's own may
//! show that the slot was released: a node that was cut off reaps by entries that the others
//! applied long ago. A power cut may remove names that were never synced. D1 checks the replicas
//! that were reported.

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
    /// Crashes of each disk at the last look. The node did not cause losses by a crash.
    crashes: BTreeMap<ProcessId, u64>,
    catalogue: Catalogue,
    own: BTreeMap<ProcessId, Own>,
    /// Changes of names on each disk at the last look. Without a change no file is missing.
    names: BTreeMap<ProcessId, u64>,
    reports: u32,
}

impl Checker {
    /// This file is removed from outside.
    pub fn vanished(&mut self, process: ProcessId, digest: SegmentDigest) {
        if let Some(files) = self.files.get_mut(&process) {
            files.remove(&digest);
        }
    }

    /// The next look is a new start.
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

    /// Stores the node's applied catalogue, if it runs.
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

/// A node's own applied catalogue at the last two looks.
#[derive(Default)]
struct Own {
    applied: u64,
    before: Catalogue,
    now: Catalogue,
    /// Changed between the two looks.
    moved: bool,
}

/// Whether a slot of the node was released in one of the two catalogues, or has been replaced.
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
