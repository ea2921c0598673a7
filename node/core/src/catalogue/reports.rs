//! Nodes' reports about their own replicas: inventory, durable, lost, declined, removed.
//!
//! A report counts only if its incarnation and the slot's epoch are current at apply. The replicas
//! of a batch are handled independently.

use std::sync::Arc;

use super::{Apply, Catalogue, Entry, Tally, check_batch};
use cairn_types::canary;
use cairn_types::command::{Declined, Durable, Inventory, Lost, Refusal, Removed, Reply};
use cairn_types::ids::{Epoch, Incarnation, NodeId, SegmentId};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use cairn_types::model::{Admin, Node, Slot, SlotState};

impl Apply for Inventory {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        let Self { node, incarnation, missing, last } = self;
        catalogue.inventory(entry, *node, *incarnation, missing, *last)
    }
}

impl Apply for Durable {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.durable(self.node, self.incarnation, &self.replicas)
    }
}

impl Apply for Lost {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.lost(entry, self.node, self.incarnation, &self.replicas)
    }
}

impl Apply for Declined {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.declined(self.node, self.incarnation, &self.replicas)
    }
}

impl Apply for Removed {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.removed(self.node, self.incarnation, &self.replicas)
    }
}

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
            self.note_counting(node);
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
        let until_ms = self.assigned_until_ms();
        let state = SlotState::Assigned;
        self.set_current(node, incarnation, replicas, |slot| {
            let epoch = if canary!("lost_keeps_its_epoch") { slot.epoch } else { entry.epoch };
            Some(Slot { epoch, state, until_ms, ..*slot })
        })
    }

    /// The node declines these Assigned slots, so they are no longer waited for. A slot that is
    /// Durable by now stays Durable.
    pub(super) fn declined(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
    ) -> Result<Reply, Refusal> {
        self.set_current(node, incarnation, replicas, |slot| {
            (slot.state == SlotState::Assigned).then_some(Slot { until_ms: 0, ..*slot })
        })
    }

    pub(super) fn durable(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
    ) -> Result<Reply, Refusal> {
        let state = SlotState::Durable;
        self.set_current(node, incarnation, replicas, |slot| {
            Some(Slot { state, until_ms: 0, ..*slot })
        })
    }

    /// Changes those of the live slots that are current and that allow the change.
    fn set_current(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        replicas: &[(SegmentId, Epoch)],
        becomes: impl Fn(&Slot) -> Option<Slot>,
    ) -> Result<Reply, Refusal> {
        check_batch("replicas", replicas.len(), BATCH_SEGMENTS_MAX)?;
        self.reporting_node(node, incarnation)?;
        let mut tally = Tally::default();
        for (id, epoch) in replicas {
            let slot = self.current_slot(*id, node, *epoch);
            let slot = slot.and_then(|slot| becomes(&Slot { epoch: *epoch, ..slot }));
            tally.count(slot.is_some());
            if let Some(slot) = slot {
                self.set_live_slot(*id, slot);
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
                self.change_segment(*id, |segment| segment.slots.edit(|slots| slots.remove(place)));
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
        let record =
            Arc::make_mut(&mut self.nodes).get_mut(&node).ok_or(Refusal::UnknownNode(node))?;
        if record.admin == Admin::Removed {
            return Err(Refusal::NodeRemoved(node));
        }
        let current = record.incarnation;
        if current != incarnation || current == Incarnation(0) {
            return Err(Refusal::StaleIncarnation { node, got: incarnation, current });
        }
        Ok(record)
    }

    /// The node's live slot, if it has this epoch.
    fn current_slot(&self, id: SegmentId, node: NodeId, epoch: Epoch) -> Option<Slot> {
        let slot = self.segments.get(id)?.live_slot_on(node)?;
        (slot.epoch == epoch || canary!("stale_epoch")).then_some(slot)
    }

    /// Replaces its node's live slot with `new`.
    fn set_live_slot(&mut self, id: SegmentId, new: Slot) {
        let old = self.segments.get(id).and_then(|segment| segment.live_slot_on(new.node));
        if old == Some(new) {
            return;
        }
        self.change_segment(id, |segment| {
            segment.slots.edit(|slots| {
                let live =
                    |slot: &&mut Slot| slot.node == new.node && slot.state != SlotState::Released;
                if let Some(slot) = slots.iter_mut().find(live) {
                    *slot = new;
                }
                // A node that holds the file for a live slot has applied that slot. So it will
                // never destroy the file for an older slot, and no removal will be reported.
                if new.state == SlotState::Durable {
                    let replaced =
                        |slot: &Slot| slot.node == new.node && slot.state == SlotState::Released;
                    slots.retain(|slot| !replaced(slot));
                }
                slots.sort_unstable();
            });
        });
    }
}
