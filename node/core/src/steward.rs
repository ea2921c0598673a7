//! The leader's proposals. They are derived anew each round from the applied catalogue and the
//! leader's observations. Only two things are kept between rounds: the position of a walk, and the
//! namespaces that retention need not look at again. So nothing is lost with a leader, and a plan
//! can be shown before it runs.
//!
//! Every proposal is checked again at apply and is idempotent: a second proposal does no harm.

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

/// Segments looked at in a round, in each of the ways below. This takes some tens of milliseconds.
const SCAN_SEGMENTS_MAX: usize = 16_384;
/// Checkpoints whose references are dropped in a round, and the number of those references: as many
/// as eight entries hold. Records without references, of uploads that did not commit, are removed
/// by the hundred.
const DROPS_ROUND_MAX: usize = 256;
/// Removed nodes whose slots are voided in one round.
const VOIDS_ROUND_MAX: usize = 4;
const DROPPED_REFERENCES_ROUND_MAX: u64 = 8 * DROP_REFERENCES_MAX as u64;
/// The clock of an idle cluster is advanced once it lags by this much, half of the step that apply
/// allows.
const CLOCK_LAG_MS_MAX: u64 = CLOCK_STEP_MS_MAX / 2;

/// The observations of the leader.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The leader's cluster time.
    pub now_ms: u64,
    /// The wall clock for the labels of commits.
    pub wall_ms: u64,
    /// How long this leader has led. Silence before that does not count against a node.
    pub leading_ms: u64,
    /// The last heartbeat received from each node.
    pub heartbeats: BTreeMap<NodeId, Heartbeat>,
    /// Raft members, in any role.
    pub members: BTreeSet<NodeId>,
    /// Checkpoints for which a client waits until they have all their replicas.
    pub hastened: BTreeSet<CheckpointId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub incarnation: Incarnation,
    pub age_ms: u64,
}

/// The state kept between the rounds of one leader's term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The position of the slow walk over all segments.
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
    // Apply allows at most this step of the clock in one entry.
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
            // Uses the real age of the heartbeat. The leader's short term keeps a node from going
            // down, but does not bring one up.
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

/// The next level, if all nodes in service understand it.
fn raising(catalogue: &Catalogue) -> Option<Body> {
    let level = catalogue.common_feature_level()?;
    (level > catalogue.cluster().feature_level)
        .then_some(Body::RaiseFeatureLevel(command::RaiseFeatureLevel { level }))
}

/// Records that are no longer needed.
fn forgetting(catalogue: &Catalogue, seen: &Observations) -> Option<Body> {
    let useless = catalogue
        .nodes()
        .filter(|node| catalogue.may_forget(node) && !seen.members.contains(&node.id));
    let nodes: Vec<NodeId> = useless.map(|node| node.id).collect();
    (!nodes.is_empty()).then_some(Body::ForgetNodes(command::ForgetNodes { nodes }))
}

/// Remaining slots of removed nodes, some of each node per round.
fn voiding(catalogue: &Catalogue) -> impl Iterator<Item = Body> {
    let removed = catalogue.nodes().filter(|node| node.admin == Admin::Removed);
    let left = removed.filter(|node| catalogue.node_slots(node.id).is_some());
    left.map(|node| Body::VoidSlots(command::VoidSlots { node: node.id })).take(VOIDS_ROUND_MAX)
}

/// How long a node has been silent, as far as this leader can tell. Without a heartbeat of the
/// node's current process, the time counts from its registration. It is never longer than this
/// leader has led: heartbeats from an earlier term of its own say nothing about the time between
/// the terms.
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
        // One entry drops at most this many of one checkpoint.
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

/// The slots to assign and to release in one round.
struct Repair<'a> {
    catalogue: &'a Catalogue,
    loads: &'a mut Loads,
    /// The highest number of racks that a policy in use requires.
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
        // A segment's record has R but not the policies behind it. Using as many racks as the
        // strictest policy requires is always right.
        let racks = checkpoints
            .filter(|policy| policy.isolation == Isolation::Hard)
            .map(|policy| policy.min_racks)
            .max();
        let racks = racks.unwrap_or(1).min(catalogue.racks());
        let looked_at = BTreeSet::new();
        Self { catalogue, loads, racks, looked_at, assign: Vec::new(), release: Vec::new() }
    }

    /// First the segments known to be unsettled, then segments on nodes that stay down, then a
    /// range of the walk over all segments, which finds everything else.
    fn round(mut self, from: &mut SegmentId, hastened: &BTreeSet<CheckpointId>) -> Vec<Body> {
        let catalogue = self.catalogue;
        // This is first, because the later steps would skip these segments.
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

    /// Repairs sealed parts whose clients have finished. If a node that is down keeps their commit
    /// waiting, the repair does not wait until that node has been down for long.
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

    /// If a client waits, a replica on a node that is down is not waited for. The segment gets
    /// another slot as soon as a free host can take it.
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

    /// Whether the lists have no room for the most slots that one segment can get.
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

    /// Gives the segment its missing slots: R on nodes worth waiting for, including the quorum on
    /// nodes that can receive bytes now.
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
        // A part of a quorum is better than nothing.
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

    /// The replica to give up, if there is one too many. The order of preference:
    /// 1. A replica that is not worth waiting for: its node stays down or has declined it.
    /// 2. One that shares its host, as after a move.
    /// 3. One that holds no data yet.
    /// 4. One that shares its rack.
    ///
    /// A replica that is alone in a wanted rack is never given up, because it would be assigned
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
