//! Which nodes get the missing slots of a segment.
//!
//! The rules, in order:
//! 1. Never two slots on one host, not counting a node that stays down.
//! 2. Racks: as many as the policy requires, and beyond that as even as the nodes allow.
//! 3. The node with the smallest claimed share of its free space.
//!
//! The choice is deterministic: ties go to the lower id.
//!
//! [`Loads`] is the leader's soft state. Bytes that are assigned to a node but not stored yet count
//! as claimed. Bytes of a plan that the catalogue does not know yet also count. So consecutive
//! segments go to different nodes, and no node gets more than fits.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Checkpoint, LIVE_SLOTS_MAX, Quorum};
use cairn_types::canary;
use cairn_types::command::{Obstacle, Refusal, Shortage, StageSegment};
use cairn_types::ids::NodeId;
use cairn_types::limits::SHORTAGE_NODES_MAX;
use cairn_types::model::{Admin, Duty, Node, Policy, Slot};

/// The assumed free space of a node that has not reported it: 1 TiB.
const FREE_BYTES_UNKNOWN: u64 = 1 << 40;

/// The bytes of a segment's file besides its data: header, footer and padding, a page each.
const FILE_OVERHEAD_BYTES: u64 = 12 << 10;

/// The known space and work of the nodes.
#[derive(Debug, Clone, Default)]
pub struct Loads {
    nodes: BTreeMap<NodeId, Load>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    free_bytes: Option<u64>,
    /// Bytes waiting to be received or written there.
    busy_bytes: u64,
    /// Bytes assigned to the node by a plan that is not applied yet.
    planned_bytes: u64,
}

impl Loads {
    /// A heartbeat: the bytes that a node can still take (without the reserve), and the bytes it is
    /// busy with.
    pub fn observe(&mut self, node: NodeId, free_bytes: u64, busy_bytes: u64) {
        let load = Load { free_bytes: Some(free_bytes), busy_bytes, planned_bytes: 0 };
        self.nodes.insert(node, load);
    }

    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// Earlier plans are now applied, so their slots are in the catalogue, or they never will be.
    pub fn settle(&mut self) {
        self.nodes.values_mut().for_each(|load| load.planned_bytes = 0);
    }

    fn of(&self, node: NodeId) -> Load {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    fn charge(&mut self, node: NodeId, bytes: u64) {
        let load = self.nodes.entry(node).or_default();
        load.planned_bytes = load.planned_bytes.saturating_add(bytes);
    }

    /// Bytes that the node can take in addition to those assigned to it or planned for it.
    fn room(&self, catalogue: &Catalogue, node: &Node) -> u64 {
        let claimed = self.claimed(catalogue, node).saturating_add(FILE_OVERHEAD_BYTES);
        self.free(catalogue, node).saturating_sub(claimed)
    }

    fn free(&self, catalogue: &Catalogue, node: &Node) -> u64 {
        let slots = catalogue.node_slots(node.id);
        let stored = slots.map_or(0, |it| it.live_bytes - it.assigned_bytes);
        self.of(node.id).free_bytes.unwrap_or(match node.capacity_bytes {
            0 => FREE_BYTES_UNKNOWN,
            capacity => capacity.saturating_sub(stored),
        })
    }

    /// Bytes that the node still has to store, including the overhead of each file.
    fn claimed(&self, catalogue: &Catalogue, node: &Node) -> u64 {
        let slots = catalogue.node_slots(node.id);
        let assigned = slots.map_or(0, |it| it.assigned_bytes);
        let files = slots.map_or(0, |it| it.assigned.len().saturating_mul(FILE_OVERHEAD_BYTES));
        let planned = self.of(node.id).planned_bytes;
        assigned.saturating_add(files).saturating_add(planned)
    }

    /// The load of the node after `len` more bytes: claimed bytes in 2^32nds of its free space.
    /// `None` if they do not fit.
    fn cost(&self, catalogue: &Catalogue, node: &Node, len: u32) -> Option<u128> {
        let free = self.free(catalogue, node);
        let wanted =
            self.claimed(catalogue, node).saturating_add(u64::from(len) + FILE_OVERHEAD_BYTES);
        let spoken_for = wanted.saturating_add(self.of(node.id).busy_bytes);
        (wanted <= free).then(|| (u128::from(spoken_for) << 32) / u128::from(free.max(1)))
    }
}

/// The target for the slots of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Replicas on nodes that are worth waiting for.
    pub replicas: u32,
    /// Racks that those replicas cover.
    pub racks: u32,
    /// Replicas and racks that can receive bytes now. Without these there is no plan.
    pub quorum: Quorum,
}

impl Wanted {
    pub fn by(catalogue: &Catalogue, policy: &Policy) -> Self {
        Self {
            replicas: policy.replicas,
            racks: catalogue.required_racks(policy),
            quorum: catalogue.quorum(policy),
        }
    }
}

/// Chooses nodes for one segment of `len` bytes in addition to its `live` slots. Chooses none of
/// `exclude`, and slots there do not count as reachable. Fewer than R are accepted if they are a
/// quorum.
///
/// # Errors
/// `NotEnoughHosts` or `NotEnoughRacks`, with the numbers that are available.
pub fn plan(
    catalogue: &Catalogue,
    loads: &mut Loads,
    wanted: Wanted,
    len: u32,
    live: &[Slot],
    exclude: &BTreeSet<NodeId>,
) -> Result<Vec<NodeId>, Refusal> {
    let mut draft = Draft::new(catalogue, live, exclude);
    while draft.falls_short(wanted) {
        let Some(node) = draft.best(loads, wanted, len) else { break };
        draft.take(node);
    }
    draft.check(wanted.quorum, || shortage(catalogue, loads, len, live))?;
    for node in &draft.chosen {
        loads.charge(*node, u64::from(len) + FILE_OVERHEAD_BYTES);
    }
    Ok(draft.chosen)
}

/// Fills in the targets of a `Stage` for an upload: a segment without a quorum of counting replicas
/// gets nodes for its missing slots.
pub fn plan_stage(
    catalogue: &Catalogue,
    loads: &mut Loads,
    upload: &Checkpoint,
    segments: &mut [StageSegment],
    exclude: &BTreeSet<NodeId>,
) -> Result<(), Refusal> {
    let wanted = Wanted::by(catalogue, &upload.policy);
    for item in segments {
        let existing = catalogue.segment_by_digest(&item.digest);
        let kept = existing.is_some_and(|segment| catalogue.meets(segment, wanted.quorum));
        item.targets = if kept {
            Vec::new()
        } else {
            let live: Vec<Slot> =
                existing.map_or(Vec::new(), |segment| segment.live_slots().collect());
            plan(catalogue, loads, wanted, item.form.stored_len(), &live, exclude)?
        };
    }
    Ok(())
}

/// A plan in progress.
struct Draft<'a> {
    catalogue: &'a Catalogue,
    exclude: &'a BTreeSet<NodeId>,
    /// Every node with a live slot, for the host rule.
    holders: Vec<NodeId>,
    /// The racks of the nodes worth waiting for, one entry per node.
    trusted: Vec<&'a str>,
    /// The racks of the nodes that can receive bytes now, one entry per node.
    reachable: Vec<&'a str>,
    chosen: Vec<NodeId>,
}

impl<'a> Draft<'a> {
    fn new(catalogue: &'a Catalogue, live: &[Slot], exclude: &'a BTreeSet<NodeId>) -> Self {
        let nodes = || live.iter().filter_map(|slot| catalogue.node(slot.node));
        let trusted = live.iter().filter(|slot| catalogue.trusts(slot));
        let trusted = trusted.filter_map(|slot| catalogue.node(slot.node));
        let reachable = nodes().filter(|node| node.takes_slots() && !exclude.contains(&node.id));
        Self {
            catalogue,
            exclude,
            holders: live.iter().map(|slot| slot.node).collect(),
            trusted: trusted.map(|node| node.rack.as_str()).collect(),
            reachable: reachable.map(|node| node.rack.as_str()).collect(),
            chosen: Vec::new(),
        }
    }

    fn falls_short(&self, wanted: Wanted) -> bool {
        let short = (self.trusted.len() as u32) < wanted.replicas
            || (self.reachable.len() as u32) < wanted.quorum.replicas
            || self.racks_short(wanted);
        short && self.holders.len() < LIVE_SLOTS_MAX
    }

    fn racks_short(&self, wanted: Wanted) -> bool {
        distinct(&self.trusted) < wanted.racks || distinct(&self.reachable) < wanted.quorum.racks
    }

    fn best(&self, loads: &Loads, wanted: Wanted, len: u32) -> Option<&'a Node> {
        let enough = (self.trusted.len() as u32) >= wanted.replicas
            && (self.reachable.len() as u32) >= wanted.quorum.replicas;
        let candidates = self.catalogue.nodes().filter(|node| {
            let fills = |racks: &[&str]| !racks.contains(&node.rack.as_str());
            // Once there are enough replicas, another one helps only if it fills a missing rack.
            let helps = !enough
                || (distinct(&self.trusted) < wanted.racks && fills(&self.trusted))
                || (distinct(&self.reachable) < wanted.quorum.racks && fills(&self.reachable));
            helps
                && !self.exclude.contains(&node.id)
                && self.catalogue.may_take_slot(node.id, &self.holders)
        });
        let ranked = candidates.filter_map(|node| {
            let rack = node.rack.as_str();
            let misses_rack = self.racks_short(wanted)
                && distinct(&self.reachable) < wanted.quorum.racks
                && self.reachable.contains(&rack);
            let in_rack = self.trusted.iter().filter(|other| **other == rack).count();
            let in_rack = if canary!("quorum_ignores_racks") { 0 } else { in_rack };
            let cost = loads.cost(self.catalogue, node, len)?;
            Some(((misses_rack, in_rack, cost, node.id), node))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, node)| node)
    }

    fn take(&mut self, node: &'a Node) {
        self.holders.push(node.id);
        self.trusted.push(&node.rack);
        self.reachable.push(&node.rack);
        self.chosen.push(node.id);
    }

    fn check(&self, quorum: Quorum, shortage: impl FnOnce() -> Shortage) -> Result<(), Refusal> {
        let have = self.reachable.len() as u32;
        if have < quorum.replicas {
            let (want, shortage) = (quorum.replicas, shortage());
            return Err(Refusal::NotEnoughHosts { have, want, shortage });
        }
        let have = distinct(&self.reachable);
        if have < quorum.racks {
            let (want, shortage) = (quorum.racks, shortage());
            return Err(Refusal::NotEnoughRacks { have, want, shortage });
        }
        Ok(())
    }
}

/// The nodes in service that cannot take `len` more bytes, and why. A node with a live slot needs
/// no room, but it must be up.
pub(crate) fn shortage(catalogue: &Catalogue, loads: &Loads, len: u32, live: &[Slot]) -> Shortage {
    let in_service = catalogue
        .nodes()
        .filter(|node| node.admin == Admin::InService && node.duty != Duty::Draining);
    let obstacle = |node: &Node| {
        if !node.takes_slots() {
            return Some(Obstacle::Down);
        }
        let holds = live.iter().any(|slot| slot.node == node.id);
        let free_bytes = loads.room(catalogue, node);
        (!holds && free_bytes < u64::from(len)).then_some(Obstacle::Full { free_bytes })
    };
    let nodes = in_service.filter_map(|node| Some((node.id, obstacle(node)?)));
    Shortage { bytes: len.into(), nodes: nodes.take(SHORTAGE_NODES_MAX).collect() }
}

fn distinct(racks: &[&str]) -> u32 {
    let first = |(at, rack): &(usize, &&str)| !racks[..*at].contains(*rack);
    racks.iter().enumerate().filter(first).count() as u32
}
