//! The fetches and destructions of one node, derived only from its applied catalogue.
//!
//! Both lists are bounded and ordered. A second call after some of the work is done gives the rest.
//! A node destroys a file only under the digest's lock, after checking [`may_destroy`] once more
//! against its applied state at that time (D3).

use std::cmp::Reverse;
use std::sync::Arc;

use crate::catalogue::{Catalogue, Checkpoint};
use cairn_types::canary;
use cairn_types::ids::{Epoch, NodeId, SegmentDigest, SegmentId};
use cairn_types::model::{Admin, Liveness, Segment, Slot, SlotState};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeWork {
    /// Most urgent first.
    pub fetches: Vec<Fetch>,
    pub destroys: Vec<Destroy>,
}

/// A replica that this node has to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub segment: SegmentId,
    pub digest: SegmentDigest,
    pub len: u32,
    /// The epoch of the slot to report durable.
    pub epoch: Epoch,
    /// Whether the catalogue waits for this replica: the node has not declined it, and it is not
    /// overdue.
    pub awaited: bool,
    /// Replicas that count now.
    pub counting: u32,
    /// Other nodes with a Durable slot. Nodes that are up come first, and among them those in this
    /// node's rack.
    pub sources: Vec<NodeId>,
    /// The other nodes with a slot, in the same order. Their quarantine may hold the last good copy
    /// of some block.
    pub remains: Vec<NodeId>,
}

/// A file that this node has to give up, and the slots to report as removed after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destroy {
    pub digest: SegmentDigest,
    pub slots: Vec<(SegmentId, Epoch)>,
}

/// At most `max` of each kind.
///
/// The fetches are Assigned replicas of two kinds of segments: those named by a committed
/// checkpoint, and those of a sealed part of an upload that is about to commit. Clients send all
/// others. Segments with the fewest counting replicas come first, then those registered last, which
/// are those of the newest checkpoints. Segments without a source that is up come after all others,
/// so that they never block the repair of the rest.
pub fn for_node(catalogue: &Catalogue, node: NodeId, max: usize) -> NodeWork {
    for_node_but(catalogue, node, max, |_| false, |_| false)
}

/// Like [`for_node`], without the fetches and destructions of digests that are already in progress
/// or have just failed. Any number of those does not hide other work.
pub fn for_node_but(
    catalogue: &Catalogue,
    node: NodeId,
    max: usize,
    fetched: impl Fn(&SegmentDigest) -> bool,
    destroyed: impl Fn(&SegmentDigest) -> bool,
) -> NodeWork {
    let in_service = catalogue.node(node).is_some_and(|node| node.admin == Admin::InService);
    match catalogue.node_slots(node) {
        Some(slots) if in_service => NodeWork {
            fetches: {
                let wanted = slots.assigned.iter();
                let left = |id: &SegmentId| {
                    catalogue.segment(*id).is_some_and(|segment| !fetched(&segment.digest))
                };
                fetches(catalogue, node, wanted.filter(left), max)
            },
            destroys: slots
                .released
                .iter()
                .filter_map(|id| destroy(catalogue.segment(id)?, node))
                .filter(|destroy| !destroyed(&destroy.digest))
                .take(max)
                .collect(),
        },
        _ => NodeWork::default(),
    }
}

/// Whether this node's file of a digest may be destroyed: the node has a Released slot of it and no
/// other slot.
pub fn may_destroy(catalogue: &Catalogue, node: NodeId, digest: &SegmentDigest) -> bool {
    let segment = catalogue.segment_by_digest(digest);
    segment.is_some_and(|segment| destroy(segment, node).is_some())
}

/// Durable slots of `node` among the `max` segments from `from` on, and the position for the next
/// call. The position is zero after the last segment.
pub fn durable_from(
    catalogue: &Catalogue,
    node: NodeId,
    from: SegmentId,
    max: usize,
) -> (Vec<(SegmentId, SegmentDigest)>, SegmentId) {
    let (mut durable, mut looked_at, mut last) = (Vec::new(), 0, from);
    for segment in catalogue.segments().iter_from(from).take(max) {
        (looked_at, last) = (looked_at + 1, segment.id);
        let slot = segment.live_slot_on(node);
        if slot.is_some_and(|slot| slot.state == SlotState::Durable) {
            durable.push((segment.id, segment.digest));
        }
    }
    let next = if looked_at == max { SegmentId(last.0 + 1) } else { SegmentId(0) };
    (durable, next)
}

fn fetches(
    catalogue: &Catalogue,
    node: NodeId,
    assigned: impl Iterator<Item = SegmentId>,
    max: usize,
) -> Vec<Fetch> {
    let closing = closing(catalogue);
    let wanted = assigned.filter(|id| {
        catalogue.is_committed(*id) || closing.iter().any(|upload| sealed_in(upload, *id))
    });
    let wanted = wanted.filter_map(|id| {
        let segment = catalogue.segment(id)?;
        let counting = catalogue.counting(segment).replicas;
        Some((!has_source(catalogue, segment, node), counting, Reverse(id)))
    });
    let mut wanted: Vec<(bool, u32, Reverse<SegmentId>)> = wanted.collect();
    if wanted.len() > max && max > 0 {
        wanted.select_nth_unstable(max - 1);
    }
    wanted.truncate(max);
    wanted.sort_unstable();
    let fetch = |(_, counting, Reverse(id))| {
        let segment = catalogue.segment(id)?;
        Some(Fetch {
            segment: id,
            digest: segment.digest,
            len: segment.form.raw_len(),
            epoch: segment.live_slot_on(node)?.epoch,
            awaited: segment.live_slot_on(node)?.is_awaited(catalogue.cluster().clock_ms),
            counting,
            sources: sources(catalogue, segment, node),
            remains: remains(catalogue, segment, node),
        })
    };
    wanted.into_iter().filter_map(fetch).collect()
}

/// Open uploads with at most one unsealed part. If a sealed part has lost a replica, the nodes have
/// to make it: its writer has gone, and the last part's writer cannot send it.
fn closing(catalogue: &Catalogue) -> Vec<&Checkpoint> {
    let uploads = catalogue.open_uploads().map(Arc::as_ref);
    uploads
        .filter(|upload| {
            let sealed = upload.sealed_count();
            sealed > 0 && sealed + 1 >= upload.parts_wanted
        })
        .collect()
}

fn sealed_in(upload: &Checkpoint, id: SegmentId) -> bool {
    let parts = upload.open.iter().flat_map(|open| open.parts.values());
    upload.loose.contains(id)
        && parts.into_iter().any(|part| part.part.sealed.is_some() && part.staged.contains(id))
}

/// The nodes from which this node can read a replica, best first.
pub fn sources(catalogue: &Catalogue, segment: &Segment, reader: NodeId) -> Vec<NodeId> {
    ranked(catalogue, segment, reader, |slot| slot.state == SlotState::Durable)
}

/// Other nodes with a slot that is not Durable, best first.
fn remains(catalogue: &Catalogue, segment: &Segment, reader: NodeId) -> Vec<NodeId> {
    let durable = sources(catalogue, segment, reader);
    let mut nodes = ranked(catalogue, segment, reader, |slot| !durable.contains(&slot.node));
    // Slots of several epochs are adjacent.
    nodes.dedup();
    nodes
}

fn ranked(
    catalogue: &Catalogue,
    segment: &Segment,
    reader: NodeId,
    wanted: impl Fn(&Slot) -> bool,
) -> Vec<NodeId> {
    let rack = catalogue.node(reader).map(|node| node.rack.as_str());
    let slots = segment.slots.iter().filter(|slot| slot.node != reader && wanted(slot));
    let mut ranked: Vec<(bool, bool, NodeId)> = slots
        .filter_map(|slot| catalogue.node(slot.node))
        .filter(|node| node.admin == Admin::InService)
        .map(|node| (node.liveness != Liveness::Up, Some(node.rack.as_str()) != rack, node.id))
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., node)| node).collect()
}

/// Whether a node that is up has a replica to read.
fn has_source(catalogue: &Catalogue, segment: &Segment, reader: NodeId) -> bool {
    segment.slots.iter().any(|slot| {
        slot.state == SlotState::Durable
            && slot.node != reader
            && catalogue.node(slot.node).is_some_and(|node| node.liveness == Liveness::Up)
    })
}

fn destroy(segment: &Segment, node: NodeId) -> Option<Destroy> {
    let here = segment.slots.iter().filter(|slot| slot.node == node);
    let released: Vec<(SegmentId, Epoch)> = here
        .clone()
        .filter(|slot| slot.state == SlotState::Released)
        .map(|slot| (segment.id, slot.epoch))
        .collect();
    let no_other = released.len() == here.count() || canary!("destroy_beside_live_slot");
    (!released.is_empty() && no_other)
        .then_some(Destroy { digest: segment.digest, slots: released })
}
