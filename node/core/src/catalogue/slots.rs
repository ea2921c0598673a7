//! Repair and rebalance: slots beside those a segment has, and excess ones given up.
//!
//! Copy first, then release: a replica is given up only when R others count. The leader's steward
//! asks the same questions before it proposes, through the same functions.

use super::policy::spread;
use super::stage::LIVE_SLOTS_MAX;
use super::{Catalogue, Entry, Quorum, Tally, check_batch};
use crate::canary;
use crate::command::{Refusal, Reply};
use crate::ids::{Incarnation, NodeId, SegmentId};
use crate::limits::{BATCH_SEGMENTS_MAX, REPLICAS_MAX};
use crate::model::{Admin, Liveness, Node, Segment, SlotState};

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
                self.change_segment(*id, |segment| {
                    let mut slots = segment.slots.iter_mut();
                    let live =
                        slots.find(|slot| slot.node == *node && slot.state != SlotState::Released);
                    if let Some(slot) = live {
                        slot.state = SlotState::Released;
                    }
                });
            }
        }
        Ok(tally.reply())
    }

    /// Whether a replica on this node is worth waiting for: it is in service, and up or not down
    /// for long.
    pub(crate) fn is_trusted(&self, node: &Node) -> bool {
        let down_ms = self.cluster.clock_ms.saturating_sub(node.liveness_since_ms);
        node.admin == Admin::InService
            && node.incarnation != Incarnation(0)
            && (node.liveness == Liveness::Up
                || down_ms < self.cluster.settings.replace_after_ms
                || canary!("wait_for_the_dead"))
    }

    /// The nodes of a segment's live slots that are worth waiting for.
    fn trusted_holders<'a>(&'a self, segment: &'a Segment) -> impl Iterator<Item = &'a Node> {
        let nodes = segment.live_slots().filter_map(|slot| self.nodes.get(&slot.node));
        nodes.filter(|node| self.is_trusted(node))
    }

    /// How many live slots are worth waiting for, and in how many racks.
    pub(crate) fn trusted_spread(&self, segment: &Segment) -> Quorum {
        spread(self.trusted_holders(segment).map(|node| node.rack.as_str()))
    }

    /// As [`Catalogue::trusted_spread`], without the slot on `node`.
    pub(crate) fn trusted_spread_without(&self, segment: &Segment, node: NodeId) -> Quorum {
        let others = self.trusted_holders(segment).filter(|holder| holder.id != node);
        spread(others.map(|holder| holder.rack.as_str()))
    }

    /// Whether a referenced segment may get a slot on this node: it has fewer than R that are
    /// worth waiting for, or all of them leave a rack empty that this one would fill.
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
        have.replicas < wanted || (have.replicas == wanted && fills_rack)
    }

    /// Whether the live slot on this node may go (D3): R others count, on as many racks as
    /// before, or on R of them.
    pub(crate) fn may_release(&self, segment: &Segment, node: NodeId) -> bool {
        let wanted = segment.replicas_wanted();
        if wanted == 0 || segment.live_slot_on(node).is_none() {
            return false;
        }
        let counting = || {
            let durable = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            let nodes = durable.filter_map(|slot| self.nodes.get(&slot.node));
            nodes.filter(|node| node.counts())
        };
        let before = spread(counting().map(|node| node.rack.as_str()));
        let others =
            counting().filter(|other| other.id != node || canary!("release_counts_itself"));
        let after = spread(others.map(|node| node.rack.as_str()));
        after.replicas >= wanted && after.racks >= before.racks.min(wanted)
    }
}
