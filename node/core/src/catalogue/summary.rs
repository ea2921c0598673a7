//! The catalogue at a glance: what `status` and the metrics show.

use super::{Catalogue, policy};
use crate::ids::NodeId;
use crate::model::{CheckpointState, Liveness, Segment, Slot, SlotState};
use crate::segment_set::SegmentSet;

/// Totals over the whole catalogue. Costs a walk over all segments: take a clone of the
/// catalogue, which is cheap, and walk that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub checkpoints_committed: u64,
    pub checkpoints_open: u64,
    /// Referenced segments and their raw bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Of committed checkpoints: with fewer than R replicas that count.
    pub segments_below: u64,
    pub bytes_below: u64,
    /// Of committed checkpoints: without any replica that counts.
    pub segments_unavailable: u64,
    /// Of committed checkpoints: in fewer racks than their R replicas could and should stand in.
    pub segments_short_of_racks: u64,
    pub segments_unreferenced: u64,
    pub bytes_unreferenced: u64,
    /// Nodes, and racks, whose loss every committed segment survives; what an empty catalogue
    /// would survive is no loss at all.
    pub nodes_can_be_lost: u32,
    pub racks_can_be_lost: u32,
}

/// Replicas of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeTally {
    pub assigned: u64,
    pub durable: u64,
    pub released: u64,
    /// Stored bytes of its live slots.
    pub bytes_live: u64,
}

impl Catalogue {
    pub fn summary(&self) -> Summary {
        let mut sum = Summary::default();
        for record in self.checkpoints() {
            match record.state {
                CheckpointState::Committed => sum.checkpoints_committed += 1,
                CheckpointState::Open => sum.checkpoints_open += 1,
                CheckpointState::Deleted => {}
            }
        }
        let (mut replicas_min, mut racks_min) = (u32::MAX, u32::MAX);
        // What the default policy asks for stands in for policies that differ between the
        // checkpoints of one segment: racks are required as far as the cluster has them.
        let racks_wanted = crate::model::Policy::default().min_racks.min(self.racks()).max(1);
        for segment in self.segments().iter() {
            let len = u64::from(segment.len);
            if !segment.is_referenced() {
                sum.segments_unreferenced += 1;
                sum.bytes_unreferenced += len;
                continue;
            }
            sum.segments += 1;
            sum.segment_bytes += len;
            if !self.is_committed(segment.id) {
                continue;
            }
            let have = self.counting(segment);
            replicas_min = replicas_min.min(have.replicas);
            racks_min = racks_min.min(have.racks);
            let wanted = segment.replicas_wanted();
            if have.replicas < wanted {
                sum.segments_below += 1;
                sum.bytes_below += len;
            }
            if have.replicas == 0 {
                sum.segments_unavailable += 1;
            } else if have.racks < racks_wanted.min(wanted) {
                sum.segments_short_of_racks += 1;
            }
        }
        if replicas_min != u32::MAX {
            sum.nodes_can_be_lost = replicas_min.saturating_sub(1);
            sum.racks_can_be_lost = racks_min.saturating_sub(1);
        }
        sum
    }

    pub fn node_tally(&self, node: NodeId) -> NodeTally {
        self.node_slots(node).map_or_else(NodeTally::default, |slots| NodeTally {
            assigned: slots.assigned.len(),
            durable: slots.durable.len(),
            released: slots.released.len(),
            bytes_live: slots.live_bytes,
        })
    }

    /// The slots in `state` on `node`, with their segments, by segment id.
    pub fn slots_on(
        &self,
        node: NodeId,
        state: SlotState,
    ) -> impl Iterator<Item = (&Segment, &Slot)> {
        let set = self.node_slots(node).map(|slots| match state {
            SlotState::Assigned => &slots.assigned,
            SlotState::Durable => &slots.durable,
            SlotState::Released => &slots.released,
        });
        let segments = set.into_iter().flat_map(SegmentSet::iter);
        segments.filter_map(move |id| {
            let segment = self.segment(id)?;
            let wanted = |slot: &&Slot| slot.node == node && slot.state == state;
            segment.slots.iter().find(wanted).map(|slot| (segment, slot))
        })
    }

    /// Racks with a node that is up and in service.
    pub fn racks_up(&self) -> u32 {
        let up = self.nodes().filter(|node| node.liveness == Liveness::Up && node.counts());
        policy::spread(up.map(|node| node.rack.as_str())).racks
    }
}
