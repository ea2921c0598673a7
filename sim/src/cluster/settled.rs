//! What a cluster has still to do, with all of its nodes or without the one that is left out (L1).

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::catalogue::Catalogue;
use cairn_core::ids::NodeId;
use cairn_core::invariants::check_hosts;
use cairn_core::model::{Liveness, SlotState};

use super::Cluster;
use crate::checkers::path_of;
use crate::process::ProcessId;

/// The racks that replicas of one segment are on, where there are so many.
const RACKS_WANTED: u32 = 2;

impl Cluster {
    /// All nodes that are not left out are up and in service, in their leader's eyes. `None` if so.
    pub fn out_of_service(&self) -> Option<String> {
        let nodes = self.core();
        let Some(leader) = self.leader() else { return Some("no leader".to_owned()) };
        let catalogue = leader.catalogue();
        let serves = |process: &ProcessId| {
            let record = self.id_of(*process).and_then(|id| catalogue.node(id));
            record.is_some_and(|node| node.inventoried && node.liveness == Liveness::Up)
        };
        let count = nodes.iter().filter(|node| serves(node)).count();
        if count < nodes.len() {
            return Some(format!("{count} of {} nodes in service", nodes.len()));
        }
        None
    }

    /// All nodes in service, voting where they should, nothing left to be copied, dropped or
    /// destroyed (L1). `None` if so.
    pub fn unsettled(&self) -> Option<String> {
        if let Some(text) = self.out_of_service() {
            return Some(text);
        }
        let nodes = self.nodes();
        let leader = self.leader()?;
        let catalogue = leader.catalogue();
        let status = leader.shared.consensus.status();
        let voters = status.voters.len();
        if voters < nodes.len().min(3) || status.going_to.is_some() {
            return Some(format!("{voters} voters, going to {:?}", status.going_to));
        }
        if let Err(text) = check_hosts(&catalogue) {
            return Some(text);
        }
        for segment in catalogue.segments().iter() {
            if let Some(slot) = segment.slots.iter().find(|slot| slot.state != SlotState::Durable) {
                return Some(format!("segment {} has {slot:?}", segment.id));
            }
            let (counting, wanted) = (catalogue.counting(segment), segment.replicas_wanted());
            let racks = wanted.min(catalogue.racks()).min(RACKS_WANTED);
            if counting.replicas != wanted || counting.racks < racks {
                return Some(format!("segment {}: {counting:?} of {wanted}", segment.id));
            }
        }
        let reports = self.running().into_iter().find(|node| node.shared.reporter.pending() > 0);
        if let Some(node) = reports {
            return Some(format!("{} has something to report", node.name));
        }
        let applied = leader.shared.consensus.applied();
        let behind =
            self.running().into_iter().find(|node| node.shared.consensus.applied() + 5 < applied);
        if let Some(node) = behind {
            return Some(format!("{} has applied less than {applied}", node.name));
        }
        nodes.into_iter().find_map(|node| self.astray(node, &catalogue))
    }

    /// A segment file without a slot on this node, or the other way round.
    fn astray(&self, process: ProcessId, catalogue: &Catalogue) -> Option<String> {
        let disk = self.disk(process)?;
        let id = self.id_of(process)?;
        let wanted: BTreeSet<String> = catalogue
            .slots_on(id, SlotState::Durable)
            .map(|(segment, _)| path_of(segment.digest))
            .collect();
        let paths = disk.paths().into_iter().filter(|path| path.starts_with("segments/"));
        let held: BTreeSet<String> = paths.collect();
        let odd = held.symmetric_difference(&wanted).next()?;
        let what =
            if held.contains(odd) { "a file without a slot" } else { "a slot without a file" };
        Some(format!("{} has {what}: {odd}", disk.name))
    }

    /// What the nodes that are not left out still have to do: R replicas of every referenced
    /// segment as far as there are enough of them (L1). `None` once it is done.
    pub fn core_unsettled(&self) -> Option<String> {
        if let Some(text) = self.out_of_service() {
            return Some(text);
        }
        let (_, catalogue) = self.newest();
        let core: BTreeMap<NodeId, String> = self
            .core()
            .into_iter()
            .filter_map(|process| Some((self.id_of(process)?, self.world.rack(process)?)))
            .collect();
        let racks: BTreeSet<&String> = core.values().collect();
        for segment in catalogue.segments().iter().filter(|segment| segment.is_referenced()) {
            let slots = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let held: Vec<&String> = slots.filter_map(|slot| core.get(&slot.node)).collect();
            let wanted = (segment.replicas_wanted() as usize).min(core.len());
            let spread = held.iter().collect::<BTreeSet<_>>().len();
            let racks_wanted = wanted.min(racks.len()).min(RACKS_WANTED as usize);
            if held.len() < wanted || spread < racks_wanted {
                let text = format!("segment {}: {held:?} of {wanted}", segment.id);
                return Some(format!("without the one left out, {text}"));
            }
        }
        None
    }
}
