//! What nodes say of their own replicas: inventory, durable, lost, removed.
//!
//! A report counts iff its incarnation and the slot's epoch are current at apply; of a batch,
//! each replica stands for itself.

use super::{Catalogue, Entry, Tally, check_batch};
use crate::canary;
use crate::command::{Refusal, Reply};
use crate::ids::{Epoch, Incarnation, NodeId, SegmentId};
use crate::limits::BATCH_SEGMENTS_MAX;
use crate::model::{Admin, Node, Slot, SlotState};

impl Catalogue {
    pub(super) fn inventory(
        &mut self,
        entry: Entry,
        node: NodeId,
        incarnation: Incarnation,
        missing: &[(SegmentId, Epoch)],
        last: bool,
    ) -> Result<Reply, Refusal> {
        let reply = self.lost(entry, node, incarnation, missing)?;
        if last {
            self.reporting_node(node, incarnation)?.inventoried = true;
        }
        Ok(reply)
    }

    pub(super) fn lost(
        &mut self,
        entry: Entry,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
    ) -> Result<Reply, Refusal> {
        self.set_current(node, incarnation, replicas, |_| (entry.epoch, SlotState::Assigned))
    }

    pub(super) fn durable(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
    ) -> Result<Reply, Refusal> {
        self.set_current(node, incarnation, replicas, |epoch| (epoch, SlotState::Durable))
    }

    /// Gives those slots that are current a new epoch and state.
    fn set_current(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
        becomes: impl Fn(Epoch) -> (Epoch, SlotState),
    ) -> Result<Reply, Refusal> {
        check_batch("replicas", replicas.len(), BATCH_SEGMENTS_MAX)?;
        self.reporting_node(node, incarnation)?;
        let mut tally = Tally::default();
        for (id, epoch) in replicas {
            let current = self.has_live_slot(*id, node, *epoch);
            tally.count(current);
            if current {
                let (epoch, state) = becomes(*epoch);
                self.set_live_slot(*id, node, epoch, state);
            }
        }
        Ok(tally.reply())
    }

    pub(super) fn removed(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
    ) -> Result<Reply, Refusal> {
        check_batch("replicas", replicas.len(), BATCH_SEGMENTS_MAX)?;
        self.reporting_node(node, incarnation)?;
        let mut tally = Tally::default();
        for (id, epoch) in replicas {
            let place = self.segments.get(*id).and_then(|segment| {
                segment.slots.iter().position(|slot| {
                    (slot.node, slot.epoch, slot.state) == (node, *epoch, SlotState::Released)
                })
            });
            tally.count(place.is_some());
            if let Some(place) = place {
                self.change_segment(*id, |segment| segment.slots.remove(place));
                self.forget_if_spent(*id);
            }
        }
        Ok(tally.reply())
    }

    fn reporting_node(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Result<&mut Node, Refusal> {
        let record = self.nodes.get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
        if record.admin == Admin::Removed {
            return Err(Refusal::NodeRemoved(node));
        }
        let current = record.incarnation;
        if current != incarnation || current == Incarnation(0) {
            return Err(Refusal::StaleIncarnation { node, got: incarnation, current });
        }
        Ok(record)
    }

    fn has_live_slot(&self, id: SegmentId, node: NodeId, epoch: Epoch) -> bool {
        let slot = self.segments.get(id).and_then(|segment| segment.live_slot_on(node));
        slot.is_some_and(|slot| slot.epoch == epoch || canary!("stale_epoch"))
    }

    fn set_live_slot(&mut self, id: SegmentId, node: NodeId, epoch: Epoch, state: SlotState) {
        let same = |slot: &Slot| slot.epoch == epoch && slot.state == state;
        let slot = self.segments.get(id).and_then(|segment| segment.live_slot_on(node));
        if slot.is_some_and(same) {
            return;
        }
        self.change_segment(id, |segment| {
            let live = |slot: &&mut Slot| slot.node == node && slot.state != SlotState::Released;
            if let Some(slot) = segment.slots.iter_mut().find(live) {
                (slot.epoch, slot.state) = (epoch, state);
            }
            // A node that holds the file for a live slot has applied that slot, so it will never
            // destroy the file for an older one: nothing is left to be reported removed.
            if state == SlotState::Durable {
                let replaced = |slot: &Slot| slot.node == node && slot.state == SlotState::Released;
                segment.slots.retain(|slot| !replaced(slot));
            }
            segment.slots.sort_unstable();
        });
    }
}
