//! Repair and rebalance: new slots for a segment, and release of excess ones.
//! Copy first, then release: a replica is given up only when R others count. The leader's steward
//! uses the same functions for these checks before it proposes.

use super::policy::spread;
use super::stage::LIVE_SLOTS_MAX;
use super::{Apply, Catalogue, Entry, Quorum, Tally, check_batch};
use cairn_types::canary;
use cairn_types::command::{AssignSlots, Refusal, ReleaseSlots, Reply};
use cairn_types::ids::{Incarnation, NodeId, SegmentId};
use cairn_types::limits::{BATCH_SEGMENTS_MAX, REPLICAS_MAX};
use cairn_types::model::{Admin, Duty, Liveness, Node, Segment, Slot, SlotState};

impl Apply for AssignSlots {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.assign_slots(entry, &self.slots)
    }
}

impl Apply for ReleaseSlots {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.release_slots(&self.slots)
    }
}

impl Catalogue {
    pub(super) fn assign_slots(
        &mut self,
        entry: Entry,
        slots: &[(SegmentId, NodeId)],
    ) -> Result<Reply, Refusal> {
        check_batch("slots", slots.len(), BATCH_SEGMENTS_MAX)?;
        let mut tally = Tally::default();
        for (id, node) in slots {
            let may = self.segments.get(*id).is_some_and(|segment| self.may_assign(segment, *node));
            tally.count(may);
            if may {
                self.assign(*id, &[*node], entry);
            }
        }
        Ok(tally.reply())
    }

    pub(super) fn release_slots(
        &mut self,
        slots: &[(SegmentId, NodeId)],
    ) -> Result<Reply, Refusal> {
        check_batch("slots", slots.len(), BATCH_SEGMENTS_MAX)?;
        let mut tally = Tally::default();
        for (id, node) in slots {
            let may =
                self.segments.get(*id).is_some_and(|segment| self.may_release(segment, *node));
            tally.count(may);
            if may {
                let live =
                    |slot: &&mut Slot| slot.node == *node && slot.state != SlotState::Released;
                self.change_segment(*id, |segment| {
                    segment.slots.edit(|slots| {
                        if let Some(slot) = slots.iter_mut().find(live) {
                            (slot.state, slot.until_ms) = (SlotState::Released, 0);
                        }
                    });
                });
            }
        }
        Ok(tally.reply())
    }

    /// Whether to wait for a replica on this node: the node is in service and not drained, and is
    /// up, in maintenance, or not down for long.
    pub(crate) fn is_trusted(&self, node: &Node) -> bool {
        let down_ms = self.cluster.clock_ms.saturating_sub(node.liveness_since_ms);
        node.admin == Admin::InService
            && node.incarnation != Incarnation(0)
            && (node.duty != Duty::Draining || canary!("drained_is_waited_for"))
            && (node.liveness == Liveness::Up
                || (node.is_maintained(self.cluster.clock_ms) && !canary!("no_maintenance"))
                || down_ms < self.cluster.settings.replace_after_ms
                || canary!("wait_for_the_dead"))
    }

    /// Whether to wait for the replica of a slot: its node is worth waiting for, has not declined
    /// it, and has not had it assigned for too long.
    pub(crate) fn trusts(&self, slot: &Slot) -> bool {
        let node = self.nodes.get(&slot.node);
        node.is_some_and(|node| self.is_trusted(node)) && slot.is_awaited(self.cluster.clock_ms)
    }

    /// The nodes of a segment's live slots that are worth waiting for.
    fn trusted_holders<'a>(&'a self, segment: &'a Segment) -> impl Iterator<Item = &'a Node> {
        let slots = segment.live_slots().filter(|slot| self.trusts(slot));
        slots.filter_map(|slot| self.nodes.get(&slot.node))
    }

    /// The number of live slots that are worth waiting for, and of their racks.
    pub(crate) fn trusted_spread(&self, segment: &Segment) -> Quorum {
        spread(self.trusted_holders(segment).map(|node| node.rack.as_str()))
    }

    /// Like [`Catalogue::trusted_spread`], without the slot on `node`.
    pub(crate) fn trusted_spread_without(&self, segment: &Segment, node: NodeId) -> Quorum {
        let others = self.trusted_holders(segment).filter(|holder| holder.id != node);
        spread(others.map(|holder| holder.rack.as_str()))
    }

    /// Whether a referenced segment may get a slot on this node. One of these must be true:
    /// - Fewer than R of its slots are worth waiting for.
    /// - Fewer than R can receive bytes now. The steward decides for which segments that is worth a
    ///   copy.
    /// - None of them counts. Then waiting may never end, and a node may have a copy in quarantine.
    /// - All of them leave a rack empty that this node would fill.
    pub(crate) fn may_assign(&self, segment: &Segment, node: NodeId) -> bool {
        let live: Vec<NodeId> = segment.live_slots().map(|slot| slot.node).collect();
        let wanted = segment.replicas_wanted();
        if wanted == 0
            || live.len() >= (REPLICAS_MAX as usize + 2).min(LIVE_SLOTS_MAX)
            || !self.may_take_slot(node, &live)
        {
            return false;
        }
        let have = self.trusted_spread(segment);
        let rack = self.nodes.get(&node).map(|node| node.rack.as_str());
        let fills_rack = have.racks < wanted.min(self.index.racks)
            && !self.trusted_holders(segment).any(|holder| Some(holder.rack.as_str()) == rack);
        let nodes = live.iter().filter_map(|holder| self.nodes.get(holder));
        let reachable = nodes.filter(|node| node.takes_slots()).count() as u32;
        have.replicas < wanted
            || reachable < wanted
            || self.counting(segment).replicas == 0
            || (have.replicas == wanted && fills_rack)
    }

    /// Whether the live slot on this node may be released (D3): R others count, on R racks or on as
    /// many as before. Replicas on draining nodes, which are about to go, are none of those others.
    pub(crate) fn may_release(&self, segment: &Segment, node: NodeId) -> bool {
        let wanted = segment.replicas_wanted();
        if wanted == 0 || segment.live_slot_on(node).is_none() {
            return false;
        }
        let staying = || {
            let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let nodes = durable.filter_map(|slot| self.nodes.get(&slot.node));
            nodes.filter(|node| node.counts() && node.duty != Duty::Draining)
        };
        let before = spread(staying().map(|node| node.rack.as_str()));
        let others = staying().filter(|other| other.id != node || canary!("release_counts_itself"));
        let after = spread(others.map(|node| node.rack.as_str()));
        let drained = || self.nodes.get(&node).is_some_and(|it| it.duty == Duty::Draining);
        let wanted = if canary!("drained_lets_go") && drained() { 1 } else { wanted };
        after.replicas >= wanted && after.racks >= before.racks.min(wanted)
    }
}
