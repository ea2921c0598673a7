//! What a drain of a node would move, and where to: a plan for people. The drain itself is the work
//! of the steward, which decides anew each round.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalogue::{Catalogue, Quorum};
use crate::placement::{Loads, Wanted, plan as place, shortage};
use cairn_types::command::{NewDuty, Refusal};
use cairn_types::ids::NodeId;
use cairn_types::model::Segment;

/// Replicas that a plan looks at: about a second's work. The rest is counted and not placed.
pub const LOOKED_AT_MAX: usize = 200_000;
/// Kinds of reasons that a plan names.
const REASONS_MAX: usize = 4;

/// The effect of a drain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainPlan {
    /// Why it would be refused.
    pub refused: Option<Refusal>,
    /// Replicas in use on the node, and their stored bytes.
    pub held: Tally,
    /// What each other node would get.
    pub targets: BTreeMap<NodeId, Tally>,
    /// What has no place now, and why.
    pub obstacles: Vec<(Refusal, Tally)>,
    /// Replicas that were looked at; fewer than `held` only beyond [`LOOKED_AT_MAX`].
    pub looked_at: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub segments: u64,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u32) {
        self.segments += 1;
        self.bytes += u64::from(bytes);
    }
}

/// Places every replica of `node` on the others, as far as their room is known.
pub fn plan(catalogue: &Catalogue, loads: &Loads, node: NodeId) -> DrainPlan {
    let mut plan = DrainPlan { refused: catalogue.may_drain(node).err(), ..DrainPlan::default() };
    // A copy shares its records: only this node's is another one.
    let mut drained = catalogue.clone();
    drained.assume_duty(node, NewDuty::Drain);
    let mut loads = loads.clone();
    loads.settle();
    let held = catalogue.node_slots(node).into_iter();
    let held = held.flat_map(|slots| slots.assigned.iter().chain(slots.durable.iter()));
    let in_use = held.filter_map(|id| drained.segment(id)).filter(|it| it.is_referenced());
    for segment in in_use {
        plan.held.add(segment.form.stored_len());
        if plan.looked_at < LOOKED_AT_MAX as u64 {
            plan.looked_at += 1;
            plan.place(&drained, &mut loads, segment);
        }
    }
    plan
}

impl DrainPlan {
    fn place(&mut self, drained: &Catalogue, loads: &mut Loads, segment: &Segment) {
        let (len, wanted) = (segment.form.stored_len(), segment.replicas_wanted());
        let live: Vec<_> = segment.live_slots().collect();
        let missing = wanted.saturating_sub(drained.trusted_spread(segment).replicas);
        let aim = Wanted { replicas: wanted, racks: 0, quorum: Quorum { replicas: 0, racks: 0 } };
        let placed = place(drained, loads, aim, len, &live, &BTreeSet::new()).unwrap_or_default();
        for node in &placed {
            self.targets.entry(*node).or_default().add(len);
        }
        if (placed.len() as u32) < missing {
            let have = wanted.saturating_sub(missing - placed.len() as u32);
            let shortage = shortage(drained, loads, len, &live);
            self.note(Refusal::NotEnoughHosts { have, want: wanted, shortage }, len);
        }
    }

    /// Segments differ in size, and so in what a full node has left for them: one example a kind.
    fn note(&mut self, reason: Refusal, len: u32) {
        let kind = |refusal: &Refusal| match refusal {
            Refusal::NotEnoughHosts { have, want, .. } => (*have, *want),
            _ => (0, 0),
        };
        let known = self.obstacles.iter().position(|(known, _)| kind(known) == kind(&reason));
        let is_full = self.obstacles.len() >= REASONS_MAX;
        let place = known.or(is_full.then_some(REASONS_MAX - 1));
        let place = place.unwrap_or_else(|| {
            self.obstacles.push((reason, Tally::default()));
            self.obstacles.len() - 1
        });
        self.obstacles[place].1.add(len);
    }
}
