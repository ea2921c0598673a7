//! A summary of the catalogue for `status` and the metrics.

use super::kinds::Use;
use super::{Catalogue, policy};
use crate::segment_set::SegmentSet;
use cairn_types::ids::NodeId;
use cairn_types::model::{Admin, Liveness, Segment, Slot, SlotState};

/// Totals over the whole catalogue. Costs a walk over the namespaces and over the kinds of
/// segments, independent of the number of segments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    pub checkpoints_committed: u64,
    pub checkpoints_open: u64,
    /// Referenced segments and their raw bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Segments of committed checkpoints with fewer than R replicas that count.
    pub segments_below: u64,
    pub bytes_below: u64,
    /// Segments of committed checkpoints without any replica that counts.
    pub segments_unavailable: u64,
    /// Those of them without a Durable replica on any node, up or down. They are damaged or lost,
    /// unless good blocks of them are left in quarantine.
    pub segments_lost: u64,
    /// Segments of committed checkpoints in fewer racks than their R replicas could and should
    /// cover.
    pub segments_short_of_racks: u64,
    pub segments_unreferenced: u64,
    pub bytes_unreferenced: u64,
    /// The numbers of nodes and of racks whose loss every committed segment survives. Zero for an
    /// empty catalogue.
    pub nodes_can_be_lost: u32,
    pub racks_can_be_lost: u32,
    /// The newest wall-clock label of any commit.
    pub label_newest_ms: u64,
}

impl Summary {
    /// The summary without amounts, for a subject that must not learn how much others store.
    pub fn without_totals(&self) -> Self {
        Self {
            nodes_can_be_lost: self.nodes_can_be_lost,
            racks_can_be_lost: self.racks_can_be_lost,
            ..Self::default()
        }
    }
}

/// The number of replicas on one node.
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
        let mut sum = Summary {
            checkpoints_committed: self.index.checkpoints_committed,
            checkpoints_open: self.index.open.len() as u64,
            ..Summary::default()
        };
        let labels = self.namespaces().map(|(_, record)| record.last_wall_ms);
        sum.label_newest_ms = labels.max().unwrap_or(0);
        let (mut replicas_min, mut racks_min) = (u32::MAX, u32::MAX);
        // The default policy is used, because the checkpoints of one segment may have different
        // policies. Racks are required as far as the cluster has them.
        let racks_wanted = cairn_types::model::Policy::default().min_racks.min(self.racks()).max(1);
        for (kind, totals) in self.index.kinds.iter() {
            if kind.used == Use::Unreferenced {
                sum.segments_unreferenced += totals.segments;
                sum.bytes_unreferenced += totals.bytes;
                continue;
            }
            sum.segments += totals.segments;
            sum.segment_bytes += totals.bytes;
            if kind.used != Use::Committed {
                continue;
            }
            let have = self.counting_on(kind.durable.iter().copied());
            replicas_min = replicas_min.min(have.replicas);
            racks_min = racks_min.min(have.racks);
            if have.replicas < kind.wanted {
                sum.segments_below += totals.segments;
                sum.bytes_below += totals.bytes;
            }
            if have.replicas == 0 {
                sum.segments_unavailable += totals.segments;
                // A removed node's remaining slots are not voided yet, but do not count.
                let is_there = |node: &NodeId| {
                    self.nodes.get(node).is_some_and(|node| node.admin == Admin::InService)
                };
                let lost = !kind.durable.iter().any(is_there);
                sum.segments_lost += if lost { totals.segments } else { 0 };
            } else if have.racks < racks_wanted.min(kind.wanted) {
                sum.segments_short_of_racks += totals.segments;
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

    /// The slots in `state` on `node`, with their segments, ordered by segment id.
    pub fn slots_on(
        &self,
        node: NodeId,
        state: SlotState,
    ) -> impl Iterator<Item = (&Segment, Slot)> {
        let set = self.node_slots(node).map(|slots| slots.in_state(state));
        let segments = set.into_iter().flat_map(SegmentSet::iter);
        segments.filter_map(move |id| {
            let segment = self.segment(id)?;
            let wanted = |slot: &Slot| slot.node == node && slot.state == state;
            segment.slots.iter().find(wanted).map(|slot| (segment, slot))
        })
    }

    /// Racks with a node that is up and in service.
    pub fn racks_up(&self) -> u32 {
        let up = self.nodes().filter(|node| node.liveness == Liveness::Up && node.counts());
        policy::spread(up.map(|node| node.rack.as_str())).racks
    }
}
