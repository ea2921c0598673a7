//! What the leader should propose, derived anew each round from the applied catalogue and what
//! the leader observed. Nothing is remembered but where a walk goes on and which namespaces retention
//! need not look at again, so nothing is lost with a leader, and a plan can be shown before it runs.
//!
//! Every proposal is checked again at apply and is idempotent: proposing twice does no harm.

mod retention;

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Quorum};
use crate::placement::{Loads, Wanted, plan as place};
use cairn_types::canary;
use cairn_types::command::{self, Body};
use cairn_types::ids::{CheckpointId, Incarnation, NodeId, SegmentId};
use cairn_types::limits::{BATCH_SEGMENTS_MAX, CLOCK_STEP_MS_MAX, DROP_REFERENCES_MAX};
use cairn_types::model::{Admin, CheckpointState, Isolation, Liveness, Node, Segment, SlotState};

pub use retention::{Evaluated, Waiting};

/// Segments looked at in a round, in each of the ways below: some tens of milliseconds.
const SCAN_SEGMENTS_MAX: usize = 16_384;
/// Checkpoints whose references are dropped in a round, and those references: as many as eight
/// entries hold. Records without references, of uploads that came to nothing, go by the hundred.
const DROPS_ROUND_MAX: usize = 256;
/// Removed nodes of which a round voids slots.
const VOIDS_ROUND_MAX: usize = 4;
const DROPPED_REFERENCES_ROUND_MAX: u64 = 8 * DROP_REFERENCES_MAX as u64;
/// An idle cluster's clock is moved once it lags this much; half of the step that apply allows.
const CLOCK_LAG_MS_MAX: u64 = CLOCK_STEP_MS_MAX / 2;

/// What the leader has seen.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The leader's cluster time.
    pub now_ms: u64,
    /// The wall clock that it labels commits with.
    pub wall_ms: u64,
    /// How long this leader has been leading: silence before that is not held against a node.
    pub leading_ms: u64,
    /// The last heartbeat of each node heard.
    pub heartbeats: BTreeMap<NodeId, Heartbeat>,
    /// Raft members, in any role.
    pub members: BTreeSet<NodeId>,
    /// Checkpoints that a client waits for until they have all their replicas.
    pub hastened: BTreeSet<CheckpointId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub incarnation: Incarnation,
    pub age_ms: u64,
}

/// What is kept between the rounds of one leader's term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where the slow walk over all segments goes on.
    pub segment: SegmentId,
    pub retention: Evaluated,
}

/// The proposals of one round, in the order they should be made.
pub fn plan(
    catalogue: &Catalogue,
    seen: &Observations,
    loads: &mut Loads,
    cursor: &mut Cursor,
) -> Vec<Body> {
    if !catalogue.is_initialized() {
        return Vec::new();
    }
    // Apply lets the clock go no further with one entry.
    let now_ms = seen.now_ms.min(catalogue.cluster().clock_ms.saturating_add(CLOCK_STEP_MS_MAX));
    let mut bodies = Vec::new();
    bodies.extend(liveness(catalogue, seen));
    bodies.extend(raising(catalogue));
    bodies.extend(forgetting(catalogue, seen));
    bodies.extend(voiding(catalogue));
    bodies.extend(expiry(catalogue, now_ms));
    bodies.extend(retention::plan(catalogue, seen, &mut cursor.retention));
    bodies.extend(dropping(catalogue, now_ms));
    bodies.extend(reaping(catalogue, now_ms));
    bodies.extend(Repair::new(catalogue, loads).round(&mut cursor.segment, &seen.hastened));
    let lag_ms = now_ms.saturating_sub(catalogue.cluster().clock_ms);
    if bodies.is_empty() && lag_ms >= CLOCK_LAG_MS_MAX {
        bodies.push(Body::SetLiveness(command::SetLiveness { changes: Vec::new() }));
    }
    bodies
}

fn liveness(catalogue: &Catalogue, seen: &Observations) -> Option<Body> {
    let down_after_ms = catalogue.cluster().settings.down_after_ms;
    let changes: Vec<(NodeId, Incarnation, Liveness)> = catalogue
        .nodes()
        .filter(|node| node.admin == Admin::InService && node.incarnation != Incarnation(0))
        .filter_map(|node| {
            // Real age: what only spares a node from going down does not bring one up.
            let heard = heartbeat(node, seen).is_some_and(|h| h.age_ms < down_after_ms);
            let liveness = match node.liveness {
                Liveness::Up if silent_ms(node, seen) >= down_after_ms => Liveness::Down,
                Liveness::Down if heard => Liveness::Up,
                _ => return None,
            };
            Some((node.id, node.incarnation, liveness))
        })
        .collect();
    (!changes.is_empty()).then_some(Body::SetLiveness(command::SetLiveness { changes }))
}

/// A level that all nodes in service understand by now.
fn raising(catalogue: &Catalogue) -> Option<Body> {
    let level = catalogue.common_feature_level()?;
    (level > catalogue.cluster().feature_level)
        .then_some(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level }))
}

/// Records that are of no more use.
fn forgetting(catalogue: &Catalogue, seen: &Observations) -> Option<Body> {
    let useless = catalogue
        .nodes()
        .filter(|node| catalogue.may_forget(node) && !seen.members.contains(&node.id));
    let nodes: Vec<NodeId> = useless.map(|node| node.id).collect();
    (!nodes.is_empty()).then_some(Body::ForgetNodes(command::ForgetNodes { nodes }))
}

/// What removed nodes have left, some a round of each.
fn voiding(catalogue: &Catalogue) -> impl Iterator<Item = Body> {
    let removed = catalogue.nodes().filter(|node| node.admin == Admin::Removed);
    let left = removed.filter(|node| catalogue.node_slots(node.id).is_some());
    left.map(|node| Body::VoidSlots(command::VoidSlots { node: node.id })).take(VOIDS_ROUND_MAX)
}

/// How long a node has been silent as far as this leader can tell. Without a heartbeat of this
/// process: since it registered. Never longer than this leader has been leading: what it heard in
/// an earlier term of its own is as old as that term, and says nothing of the time between.
fn silent_ms(node: &Node, seen: &Observations) -> u64 {
    let since_ms = match heartbeat(node, seen) {
        Some(heartbeat) => heartbeat.age_ms,
        None => seen.now_ms.saturating_sub(node.liveness_since_ms),
    };
    since_ms.min(seen.leading_ms)
}

/// The last heartbeat of the node's current process.
fn heartbeat<'a>(node: &Node, seen: &'a Observations) -> Option<&'a Heartbeat> {
    seen.heartbeats.get(&node.id).filter(|heartbeat| heartbeat.incarnation == node.incarnation)
}

fn expiry(catalogue: &Catalogue, now_ms: u64) -> Option<Body> {
    let grace_ms = catalogue.cluster().settings.grace_ms;
    let expired = catalogue.open_uploads().filter(|upload| {
        upload
            .expires_after_ms(grace_ms)
            .is_some_and(|after_ms| now_ms > after_ms || canary!("expire_before_lease"))
    });
    let checkpoints: Vec<CheckpointId> =
        expired.map(|upload| upload.id).take(BATCH_SEGMENTS_MAX).collect();
    (!checkpoints.is_empty()).then_some(Body::ExpireUploads(command::ExpireUploads { checkpoints }))
}

fn dropping(catalogue: &Catalogue, now_ms: u64) -> Vec<Body> {
    let trash_ms = catalogue.trash_ms();
    let mut references = 0;
    let droppable = catalogue.droppable().filter(|record| record.has_droppable(now_ms, trash_ms));
    let of_a_round = droppable.take_while(|record| {
        let room = references < DROPPED_REFERENCES_ROUND_MAX;
        // One entry drops no more of one checkpoint.
        references +=
            (record.reference_count() + record.dropped.len()).min(DROP_REFERENCES_MAX as u64);
        room
    });
    of_a_round
        .take(DROPS_ROUND_MAX)
        .map(|record| Body::DropReferences(command::DropReferences { checkpoint: record.id }))
        .collect()
}

fn reaping(catalogue: &Catalogue, now_ms: u64) -> Option<Body> {
    if catalogue.cluster().reap_hold {
        return None;
    }
    let due = catalogue
        .unreferenced()
        .take_while(|(reap_after_ms, _)| *reap_after_ms <= now_ms || canary!("reap_before_grace"));
    let segments: Vec<SegmentId> = due.map(|(_, id)| id).take(BATCH_SEGMENTS_MAX).collect();
    (!segments.is_empty()).then_some(Body::Reap(command::Reap { segments }))
}

/// Slots to be assigned and released in one round.
struct Repair<'a> {
    catalogue: &'a Catalogue,
    loads: &'a mut Loads,
    /// The most racks that any policy in use asks for.
    racks: u32,
    looked_at: BTreeSet<SegmentId>,
    assign: Vec<(SegmentId, NodeId)>,
    release: Vec<(SegmentId, NodeId)>,
}

impl<'a> Repair<'a> {
    fn new(catalogue: &'a Catalogue, loads: &'a mut Loads) -> Self {
        let checkpoints = catalogue
            .checkpoints()
            .filter(|record| record.state != CheckpointState::Deleted)
            .map(|record| &record.policy);
        // A segment's record knows R but not which policies brought it: spreading over as many
        // racks as the strictest of them asks for is never wrong.
        let racks = checkpoints
            .filter(|policy| policy.isolation == Isolation::Hard)
            .map(|policy| policy.min_racks)
            .max();
        let racks = racks.unwrap_or(1).min(catalogue.racks());
        let looked_at = BTreeSet::new();
        Self { catalogue, loads, racks, looked_at, assign: Vec::new(), release: Vec::new() }
    }

    /// First what is known to be unsettled, then what stands on nodes that stay down, then a
    /// stretch of the walk over all segments, which finds everything else.
    fn round(mut self, from: &mut SegmentId, hastened: &BTreeSet<CheckpointId>) -> Vec<Body> {
        let catalogue = self.catalogue;
        // Before the others, which would leave these as they are.
        self.hasten(hastened);
        self.look(catalogue.unsettled().iter().take(SCAN_SEGMENTS_MAX));
        self.finish_sealed();
        for node in catalogue.nodes().filter(|node| !catalogue.is_trusted(node)) {
            if let Some(slots) = catalogue.node_slots(node.id) {
                let held = slots.durable.iter().chain(slots.assigned.iter());
                self.look(held.take(SCAN_SEGMENTS_MAX));
            }
        }
        let stretch = catalogue.segments().iter_from(*from).map(|segment| segment.id);
        let stretch: Vec<SegmentId> = stretch.take(SCAN_SEGMENTS_MAX).collect();
        *from = match stretch.last() {
            Some(last) if stretch.len() == SCAN_SEGMENTS_MAX => SegmentId(last.0 + 1),
            _ => SegmentId::default(),
        };
        self.look(stretch.into_iter());

        let mut bodies = Vec::new();
        if !self.assign.is_empty() {
            bodies.push(Body::AssignSlots(command::AssignSlots { slots: self.assign }));
        }
        if !self.release.is_empty() {
            bodies.push(Body::ReleaseSlots(command::ReleaseSlots { slots: self.release }));
        }
        bodies
    }

    /// What a node that is down keeps from its commit, of parts whose clients are through with
    /// them, does not wait until that node has been down for long.
    fn finish_sealed(&mut self) {
        let catalogue = self.catalogue;
        let is_down = |node: &Node| node.liveness == Liveness::Down && catalogue.is_trusted(node);
        if !catalogue.nodes().any(is_down) {
            return;
        }
        for upload in catalogue.open_uploads().filter(|it| it.sealed_count() > 0) {
            let quorum = catalogue.quorum(&upload.policy);
            for id in catalogue.lacking_in(upload, SCAN_SEGMENTS_MAX) {
                if self.is_full() {
                    return;
                }
                if let Some(segment) = catalogue.segment(id)
                    && self.looked_at.insert(id)
                {
                    self.add_missing(segment, quorum);
                }
            }
        }
    }

    /// Where a client waits, a replica on a node that is down does not wait for that node: it gets
    /// one beside it as soon as a free host can take it.
    fn hasten(&mut self, hastened: &BTreeSet<CheckpointId>) {
        let catalogue = self.catalogue;
        let is_down = |node: &&Node| node.liveness == Liveness::Down && catalogue.is_trusted(node);
        let down: Vec<_> = catalogue
            .nodes()
            .filter(is_down)
            .filter_map(|node| catalogue.node_slots(node.id))
            .collect();
        if down.is_empty() {
            return;
        }
        let waited_for = hastened.iter().filter_map(|id| catalogue.checkpoint(*id));
        for record in waited_for.filter(|it| it.state == CheckpointState::Committed) {
            let replicas = record.policy.replicas;
            let quorum = Quorum { replicas, racks: catalogue.required_racks(&record.policy) };
            let on_down = record.segments.iter().filter(|id| {
                down.iter().any(|it| it.assigned.contains(*id) || it.durable.contains(*id))
            });
            let short = on_down.filter_map(|id| catalogue.segment(id)).filter(|segment| {
                segment.is_referenced() && catalogue.counting(segment).replicas < replicas
            });
            for segment in short.take(SCAN_SEGMENTS_MAX) {
                if self.is_full() {
                    return;
                }
                if self.looked_at.insert(segment.id) {
                    self.add_missing(segment, quorum);
                }
            }
        }
    }

    /// Too full for the most slots one segment can be given.
    fn is_full(&self) -> bool {
        self.assign.len() + 8 > BATCH_SEGMENTS_MAX || self.release.len() >= BATCH_SEGMENTS_MAX
    }

    fn look(&mut self, ids: impl Iterator<Item = SegmentId>) {
        for id in ids {
            if self.is_full() {
                return;
            }
            if let Some(segment) = self.catalogue.segment(id)
                && segment.is_referenced()
                && self.looked_at.insert(id)
            {
                self.add_missing(segment, Quorum { replicas: 0, racks: 0 });
                self.release.extend(self.excess(segment).map(|node| (id, node)));
            }
        }
    }

    /// Gives the segment the slots it lacks: on nodes worth waiting for, and of those that can
    /// receive bytes now the quorum.
    fn add_missing(&mut self, segment: &Segment, quorum: Quorum) {
        let wanted = segment.replicas_wanted();
        let have = self.catalogue.trusted_spread(segment);
        let racks = self.racks.min(wanted);
        let for_a_commit = quorum.replicas > 0;
        if have.replicas >= wanted && have.racks >= racks && !for_a_commit {
            return;
        }
        let live: Vec<_> = segment.live_slots().collect();
        let wanted = Wanted { replicas: wanted, racks, quorum };
        let exclude = BTreeSet::new();
        let placed =
            place(self.catalogue, self.loads, wanted, segment.form.stored_len(), &live, &exclude);
        // What can be had of a quorum is better than nothing of it.
        let placed = placed.or_else(|_| {
            let wanted = Wanted { quorum: Quorum { replicas: 0, racks: 0 }, ..wanted };
            place(self.catalogue, self.loads, wanted, segment.form.stored_len(), &live, &exclude)
        });
        for node in placed.unwrap_or_default() {
            if self.catalogue.may_assign(segment, node) {
                self.assign.push((segment.id, node));
            }
        }
    }

    /// The replica to give up, if there is one too many: first one that is not worth waiting for
    /// (its node stays down, or has declined it), then one that shares its host, as after a move, then one that holds nothing yet, then one
    /// that shares its rack. Never one that stands in a wanted rack alone: it would be assigned
    /// again at once.
    fn excess(&self, segment: &Segment) -> Option<NodeId> {
        let catalogue = self.catalogue;
        if segment.live_slots().count() as u32 <= segment.replicas_wanted() {
            return None;
        }
        let racks = self.racks.min(segment.replicas_wanted());
        let racks = catalogue.trusted_spread(segment).racks.min(racks);
        let may_go = segment.live_slots().filter(|slot| {
            catalogue.may_release(segment, slot.node)
                && catalogue.trusted_spread_without(segment, slot.node).racks >= racks
        });
        let ranked = may_go.filter_map(|slot| {
            let node = catalogue.node(slot.node)?;
            let holders = || segment.live_slots().filter_map(|other| catalogue.node(other.node));
            let on_host = holders().filter(|other| other.host == node.host).count();
            let in_rack = holders().filter(|other| other.rack == node.rack).count();
            let held = catalogue.node_slots(node.id).map_or(0, |slots| slots.live_bytes);
            let untrusted = !catalogue.trusts(&slot);
            let empty = slot.state == SlotState::Assigned;
            Some((untrusted, on_host, empty, in_rack, held, node.id))
        });
        ranked.max().map(|(.., node)| node)
    }
}
