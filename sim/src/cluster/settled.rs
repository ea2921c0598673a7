//! The remaining work of a cluster, with all of its nodes or without the one that is left out (L1).

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::catalogue::Catalogue;
use cairn_core::invariants::check_hosts;
use cairn_types::ids::{Incarnation, NodeId, SegmentId};
use cairn_types::model::{Admin, CheckpointState, Duty, Liveness, SlotState};

use super::Cluster;
use crate::checkers::path_of;
use crate::process::ProcessId;

/// For each segment, the highest number of racks that one of its checkpoints wants.
fn racks_wanted(catalogue: &Catalogue) -> BTreeMap<SegmentId, u32> {
    let mut wanted = BTreeMap::new();
    for record in catalogue.checkpoints().filter(|it| it.state != CheckpointState::Deleted) {
        for id in record.references() {
            let racks = wanted.entry(id).or_insert(1);
            *racks = record.policy.min_racks.max(*racks);
        }
    }
    wanted
}

/// What a draining node still holds although enough other hosts could hold it (L3).
fn undrained(catalogue: &Catalogue) -> Option<String> {
    let hosts: BTreeSet<&String> =
        catalogue.nodes().filter(|it| it.takes_slots()).map(|it| &it.host).collect();
    let draining = |id: NodeId| catalogue.node(id).is_some_and(|it| it.duty == Duty::Draining);
    for segment in catalogue.segments().iter() {
        let wanted = segment.references.iter().map(|(replicas, _)| *replicas).max().unwrap_or(0);
        let left = segment.live_slots().find(|slot| draining(slot.node));
        if wanted > 0
            && hosts.len() >= wanted as usize
            && let Some(slot) = left
        {
            return Some(format!("segment {} is still on a draining node: {slot:?}", segment.id));
        }
    }
    None
}

impl Cluster {
    /// The reason why a node that is not left out is not up and in service for the leader. `None`
    /// if there is none.
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

    /// The reason why the cluster is not settled (L1). Settled means: all nodes are in service and
    /// vote as they should, and nothing is left to copy, drop or destroy. `None` if it is settled.
    pub fn unsettled(&self) -> Option<String> {
        if let Some(text) = self.out_of_service() {
            return Some(text);
        }
        let nodes = self.nodes();
        let leader = self.leader()?;
        let catalogue = leader.catalogue();
        let strange = catalogue.nodes().find(|record| {
            let is_ours = nodes.iter().any(|node| self.id_of(*node) == Some(record.id));
            record.admin == Admin::InService && record.incarnation != Incarnation(0) && !is_ours
        });
        if let Some(record) = strange {
            return Some(format!("node {} is in service and is none of the cluster", record.id));
        }
        let status = leader.shared.member.consensus.status();
        let voters = status.voters.len();
        // Two voters tolerate no more failures than one.
        let wanted = if nodes.len() < 3 { 1 } else { 3 };
        if voters < wanted || status.going_to.is_some() {
            return Some(format!("{voters} voters, going to {:?}", status.going_to));
        }
        if let Err(text) = check_hosts(&catalogue) {
            return Some(text);
        }
        if let Some(text) = undrained(&catalogue) {
            return Some(text);
        }
        let staying = catalogue.nodes().filter(|it| it.takes_slots()).count().min(nodes.len());
        let wanted_racks = racks_wanted(&catalogue);
        for segment in catalogue.segments().iter() {
            if let Some(slot) = segment.slots.iter().find(|slot| slot.state != SlotState::Durable) {
                return Some(format!("segment {} has {slot:?}", segment.id));
            }
            let counting = catalogue.counting(segment);
            // Computed here, not with the catalogue's own maximum.
            let most = segment.references.iter().map(|(replicas, _)| *replicas).max();
            let most = most.unwrap_or(0);
            let wanted = most.min(staying as u32);
            let racks = wanted_racks.get(&segment.id).copied().unwrap_or(0);
            let racks = racks.min(catalogue.racks()).min(wanted);
            // Where too few hosts stay, a draining node keeps what nobody else can take.
            let is_whole = (wanted..=most.min(nodes.len() as u32)).contains(&counting.replicas);
            if !is_whole || counting.racks < racks {
                return Some(format!("segment {}: {counting:?} of {wanted}", segment.id));
            }
        }
        let reports =
            self.running().into_iter().find(|node| node.shared.replicas.reporter.pending() > 0);
        if let Some(node) = reports {
            return Some(format!("{} has something to report", node.name));
        }
        let applied = leader.shared.member.consensus.applied();
        let behind = self
            .running()
            .into_iter()
            .find(|node| node.shared.member.consensus.applied() + 5 < applied);
        if let Some(node) = behind {
            return Some(format!("{} has applied less than {applied}", node.name));
        }
        nodes.into_iter().find_map(|node| self.astray(node, &catalogue))
    }

    /// A segment file without a slot on this node, or a slot without a file.
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

    /// The remaining work of the nodes that are not left out: R replicas of every referenced
    /// segment, as far as there are enough nodes (L1). `None` once it is done.
    pub fn core_unsettled(&self) -> Option<String> {
        if let Some(text) = self.out_of_service() {
            return Some(text);
        }
        let (_, catalogue) = self.newest();
        let place = |process| Some((self.id_of(process)?, self.world.rack(process)?));
        let core: BTreeMap<NodeId, String> = self.core().into_iter().filter_map(place).collect();
        // A draining node keeps what it has until others have it, and takes nothing.
        let serves = |id: &NodeId| catalogue.node(*id).is_some_and(|it| it.duty != Duty::Draining);
        let staying = core.keys().filter(|id| serves(id)).count();
        let racks: BTreeSet<&String> =
            core.iter().filter(|(id, _)| serves(id)).map(|(_, rack)| rack).collect();
        let left_out = {
            let inner = self.inner.lock();
            inner.left_out.filter(|_| inner.left_out_counts)
        };
        let mut holders = core.clone();
        holders.extend(left_out.and_then(place));
        let wanted_racks = racks_wanted(&catalogue);
        for segment in catalogue.segments().iter().filter(|segment| segment.is_referenced()) {
            let slots = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let held: Vec<&String> = slots.filter_map(|slot| holders.get(&slot.node)).collect();
            let wanted = (segment.replicas_wanted() as usize).min(staying);
            let spread = held.iter().collect::<BTreeSet<_>>().len();
            let racks_wanted = wanted_racks.get(&segment.id).copied().unwrap_or(0) as usize;
            let racks_wanted = racks_wanted.min(wanted).min(racks.len());
            if held.len() < wanted || spread < racks_wanted {
                let text = format!("segment {}: {held:?} of {wanted}", segment.id);
                return Some(format!("without the one left out, {text}"));
            }
        }
        None
    }
}
