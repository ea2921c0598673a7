//! All random decisions about a run of `mix` that are made before it begins, from the seed alone.
//!
//! Each seed switches some kinds of faults and of client moves off and chooses new weights for the
//! others (swarm testing). A mix of everything all the time hides defects that need much of one
//! kind and none of another.
//!
//! Two of five seeds are dense: a minute with faults all the time. The others have a slower cluster
//! and long quiet periods. They cover events that take minutes: leases that expire, nodes that are
//! given up, space that is freed.
//!
//! Faults are drawn beforehand too, as a [`schedule`](Plan::schedule). Every event has an ordinal
//! and its own random stream, so that leaving one out changes no draw of another. Its kind is drawn
//! such that the weight of one kind changes only the events of that kind.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use cairn_types::model::PolicyChange;

use crate::seed::Stream;

macro_rules! kinds {
    ($(#[$about:meta])* $name:ident $prefix:literal { $($kind:ident $text:literal $weight:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($kind,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$kind,)*];
            /// Usual weight relative to the others.
            const WEIGHTS: &[u64] = &[$($weight,)*];

            pub fn text(self) -> &'static str {
                match self { $(Self::$kind => $text,)* }
            }

            /// The counter of those that happened. It is also the name of its parameter.
            pub fn counter(self) -> &'static str {
                match self { $(Self::$kind => concat!($prefix, $text),)* }
            }
        }
    };
}

kinds! {
    /// The kinds of faults. `sim/README.md` has the limits of each.
    FaultKind "faults." {
        Crash "crash" 16,
        CrashLeader "crash_leader" 18,
        CrashRack "crash_rack" 4,
        CrashAll "crash_all" 2,
        ClientDeath "client_death" 12,
        Isolate "isolate" 8,
        Cut "cut" 8,
        CutRack "cut_rack" 5,
        Rough "rough" 9,
        Pause "pause" 6,
        Zombie "zombie" 5,
        SlowDisk "slow_disk" 6,
        StuckDisk "stuck_disk" 4,
        FullDisk "full_disk" 4,
        Quota "quota" 4,
        EioRead "eio_read" 4,
        EioWrite "eio_write" 4,
        FailedSync "failed_sync" 5,
        Rot "rot" 8,
        Vanish "vanish" 4,
        CannotStore "cannot_store" 4,
        Misdirect "misdirect" 4,
        Wipe "wipe" 2,
        OldDisk "old_disk" 2,
        CopiedDirectory "copied_directory" 2,
        AddNode "add_node" 3,
        RemoveNode "remove_node" 2,
        ReplaceNode "replace_node" 2,
        SlowLink "slow_link" 5,
        EioNames "eio_names" 3,
        Stop "stop" 5,
        ExchangeDisks "exchange_disks" 3,
        RotLog "rot_log" 2,
        WallJump "wall_jump" 6,
        HiddenLeader "hidden_leader" 5,
        ClockRate "clock_rate" 4,
        LateApply "late_apply" 6,
        Drain "drain" 5,
        Maintain "maintain" 3,
    }
}

kinds! {
    /// The moves of a client.
    MoveKind "does." {
        Put "put" 30,
        PutAgain "put_again" 12,
        Replace "replace" 7,
        PutPart "put_part" 15,
        Get "get" 26,
        Resolve "resolve" 10,
        Range "range" 8,
        Against "against" 8,
        Delete "delete" 5,
        DeleteAndPutAgain "delete_and_put_again" 3,
        KeepLast "keep_last" 4,
        List "list" 4,
        Annotate "annotate" 5,
        TakeOver "take_over" 4,
        Crowd "crowd" 5,
        Ref "ref" 6,
        Hold "hold" 5,
        Quarantine "quarantine" 4,
        RollBack "roll_back" 2,
        Rules "rules" 5,
        Undelete "undelete" 5,
    }
}

/// One planned fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultEvent {
    pub ordinal: u32,
    /// Milliseconds after the faults begin.
    pub at_ms: u64,
    pub kind: FaultKind,
}

/// See the module. All fields are plain numbers, so that each can be set on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    seed: u64,
    pub nodes: u64,
    pub clients: u64,
    /// The times of the cluster and of faults are this many times the usual ones.
    pub pace: u64,
    /// How long faults happen.
    pub faults_ms: u64,
    /// Longest pause between two faults.
    pub pause_ms: u64,
    /// A lost or cut-off message gets no answer for this long.
    pub silence_ms: u64,
    /// Speed of links on a good day.
    pub bytes_per_s: u64,
    /// Wall clocks are off by at most this, in either direction.
    pub skew_ms: u64,
    /// The node whose disk loses or damages bytes. The number wraps around.
    pub fragile: u64,
    /// When faults end, the fragile node is left out until the others have done all the work of a
    /// cluster. It is dead, cut off, or paused (1, 2, 3), or no node is left out (0).
    pub left_out: u64,
    /// Number of racks of the first nodes: three, or two if both have at least two nodes.
    pub racks: u64,
    /// The first node starts with an older build, and so do some others (1) or all (2). 0 means
    /// none.
    pub older: u64,
    /// Whether nodes that have no newer build at the end of the faults keep the older one.
    pub stays_older: u64,
    /// The most moves of a client before calm, except for a few more while faults happen, and its
    /// longest pause between moves.
    pub moves: u64,
    pub move_pause_ms: u64,
    faults: BTreeMap<FaultKind, u64>,
    does: BTreeMap<MoveKind, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("no parameter {0:?}; `sim run` prints them all")]
    Unknown(String),
    #[error("{name} is {least} to {most}, not {value}")]
    Range { name: String, value: u64, least: u64, most: u64 },
}

const WEIGHT: RangeInclusive<u64> = 0..=1_000_000;
/// Share of slower runs.
const SLOWER: f64 = 0.6;
/// Their faults take this many times as long as those of a dense run, in addition to the pace.
const FAULTS_STRETCH: u64 = 5;
/// Twice the sum of a client's pauses in a slower run, in percent of the time with faults, because
/// the mean of a pause is half of the longest. With a smaller value a client finishes before most
/// faults, which then affect no client.
const MOVES_SPAN: RangeInclusive<u64> = 80..=200;
/// Share of runs that begin with one or two nodes. These promise less: no disk may be lost.
const SMALL: f64 = 0.08;
/// Share of runs that begin with nodes of an older build.
const MIXED: f64 = 0.125;
/// Share of runs of four or five nodes that have two racks.
const TWO_RACKS: f64 = 0.4;
/// The default number of replicas of a checkpoint. A cluster with fewer nodes cannot have it.
const REPLICAS_USUAL: u64 = 3;
/// With this many nodes a commit can require three replicas, even while two nodes are gone.
const NODES_OF_THREE: u64 = 5;
/// A kind is switched off in a run with this probability.
const OFF: f64 = 0.3;

impl Plan {
    /// The plan of a seed, with these parameters changed.
    pub fn of(seed: u64, set: &BTreeMap<String, u64>) -> Result<Self, PlanError> {
        let mut plan = Self::from_seed(seed);
        for (name, value) in set {
            plan.set(name, *value)?;
        }
        Ok(plan)
    }

    fn from_seed(seed: u64) -> Self {
        let root = Stream::new(seed).fork("plan");
        let draw = |name: &str, range: RangeInclusive<u64>| {
            root.fork(name).range(*range.start()..range.end() + 1)
        };
        let pace = if root.fork("slower").chance(SLOWER) { draw("pace", 2..=5) } else { 1 };
        let stretched = |ms: u64, by: u64| if pace > 1 { ms * by * pace } else { ms };
        let skewed = root.fork("skewed").chance(0.5);
        let small = root.fork("small").chance(SMALL);
        let mixed = root.fork("mixed").chance(MIXED);
        let two_racks = root.fork("two_racks").chance(TWO_RACKS);
        let nodes = if small { draw("few_nodes", 1..=2) } else { draw("nodes", 3..=5) };
        let mut does = weights(&root.fork("does"), MoveKind::ALL, MoveKind::WEIGHTS);
        // The other moves need an existing checkpoint.
        does.entry(MoveKind::Put).and_modify(|weight| *weight = (*weight).max(10));
        let faults_ms = stretched(draw("faults_ms", 20_000..=40_000), FAULTS_STRETCH);
        let moves = draw("moves", 28..=40);
        let move_pause_ms = if pace > 1 {
            faults_ms / moves * draw("moves_span", MOVES_SPAN) / 100
        } else {
            draw("move_pause_ms", 100..=700)
        };
        Self {
            seed,
            nodes,
            clients: draw("clients", 2..=3),
            pace,
            faults_ms,
            pause_ms: stretched(draw("pause_ms", 400..=900), FAULTS_STRETCH),
            silence_ms: draw("silence_ms", 2_000..=15_000),
            bytes_per_s: draw("bytes_per_s", 1..=40) * 1_000_000,
            skew_ms: if skewed { draw("skew_ms", 1..=300_000) } else { 0 },
            fragile: draw("fragile", 0..=59),
            left_out: draw("left_out", 0..=6).saturating_sub(2),
            racks: if two_racks && nodes > REPLICAS_USUAL { 2 } else { 3 },
            older: if mixed { draw("older", 1..=2) } else { 0 },
            stays_older: draw("stays_older", 0..=1),
            moves,
            move_pause_ms,
            faults: weights(&root.fork("faults"), FaultKind::ALL, FaultKind::WEIGHTS),
            does,
        }
    }

    /// Every parameter, its value and the values it may have.
    fn fields(&mut self) -> Vec<(String, &mut u64, RangeInclusive<u64>)> {
        let mut fields = vec![
            ("nodes".to_owned(), &mut self.nodes, 1..=5),
            ("clients".to_owned(), &mut self.clients, 1..=3),
            ("pace".to_owned(), &mut self.pace, 1..=5),
            ("faults_ms".to_owned(), &mut self.faults_ms, 0..=3_600_000),
            ("pause_ms".to_owned(), &mut self.pause_ms, 20..=60_000),
            ("silence_ms".to_owned(), &mut self.silence_ms, 100..=60_000),
            ("bytes_per_s".to_owned(), &mut self.bytes_per_s, 100_000..=1_000_000_000),
            ("skew_ms".to_owned(), &mut self.skew_ms, 0..=86_400_000),
            ("fragile".to_owned(), &mut self.fragile, 0..=59),
            ("left_out".to_owned(), &mut self.left_out, 0..=4),
            ("racks".to_owned(), &mut self.racks, 2..=3),
            ("older".to_owned(), &mut self.older, 0..=2),
            ("stays_older".to_owned(), &mut self.stays_older, 0..=1),
            ("moves".to_owned(), &mut self.moves, 0..=1_000),
            ("move_pause_ms".to_owned(), &mut self.move_pause_ms, 1..=600_000),
        ];
        let faults = self.faults.iter_mut();
        fields.extend(faults.map(|(kind, it)| (kind.counter().to_owned(), it, WEIGHT)));
        let does = self.does.iter_mut();
        fields.extend(does.map(|(kind, it)| (kind.counter().to_owned(), it, WEIGHT)));
        fields
    }

    fn set(&mut self, name: &str, value: u64) -> Result<(), PlanError> {
        let mut fields = self.fields();
        let field = fields.iter_mut().find(|(known, ..)| known == name);
        let (_, place, range) = field.ok_or_else(|| PlanError::Unknown(name.to_owned()))?;
        if !range.contains(&value) {
            let (least, most) = (*range.start(), *range.end());
            return Err(PlanError::Range { name: name.to_owned(), value, least, most });
        }
        **place = value;
        Ok(())
    }

    /// All parameters, by name.
    pub fn values(&self) -> Vec<(String, u64)> {
        self.clone().fields().into_iter().map(|(name, value, _)| (name, *value)).collect()
    }

    pub fn weight(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).copied().unwrap_or(0)
    }

    /// The policy of one put, if clients use different ones: two replicas, three, or four if there
    /// are enough nodes; one rack or two; with five nodes perhaps three replicas at the commit.
    /// With few nodes, or in one case of four, the common policy.
    pub fn varied_policy(&self, chance: &mut Stream) -> PolicyChange {
        let mut change = self.policy();
        if self.nodes >= REPLICAS_USUAL && !chance.chance(0.25) {
            let most = if self.nodes > REPLICAS_USUAL { 5 } else { 4 };
            let replicas = chance.range(2..most) as u32;
            let quorum = if self.nodes >= NODES_OF_THREE { replicas.min(3) } else { 2 };
            change.replicas = Some(replicas);
            change.write_quorum = Some(chance.range(2..u64::from(quorum) + 1) as u32);
            change.min_racks = Some(chance.range(1..3) as u32);
        }
        change
    }

    /// The policy after the faults, independent of the namespace's current one: a cluster without
    /// one node still has room for it.
    pub fn calm_policy(&self) -> PolicyChange {
        let mut change = self.policy();
        if self.nodes >= REPLICAS_USUAL {
            change.replicas = Some(REPLICAS_USUAL as u32);
            (change.write_quorum, change.min_racks) = (Some(2), Some(2));
        }
        change
    }

    /// The common policy of clients: replicas on each node if there are few nodes.
    pub fn policy(&self) -> PolicyChange {
        let replicas = (self.nodes < REPLICAS_USUAL).then_some(self.nodes as u32);
        PolicyChange { replicas, ..PolicyChange::default() }
    }

    /// Whether the cluster survives the loss of one disk.
    pub fn may_lose_a_disk(&self) -> bool {
        self.nodes >= REPLICAS_USUAL
    }

    /// The time `usual` at this run's pace.
    pub fn paced(&self, usual: Duration) -> Duration {
        usual * self.pace as u32
    }

    /// The offset of one node's wall clock.
    pub fn wall_skew_ms(&self, chance: &mut Stream) -> i64 {
        let span = self.skew_ms as i64;
        chance.below(2 * self.skew_ms + 1) as i64 - span
    }

    /// The faults and their times, ordered by time and ordinal.
    pub fn schedule(&self) -> Vec<FaultEvent> {
        let chance = Stream::new(self.seed).fork("plan").fork("schedule");
        let (mut events, mut at_ms) = (Vec::new(), 0);
        for ordinal in 1.. {
            let chance = chance.fork(&ordinal.to_string());
            at_ms += 20 + chance.fork("pause").below(self.pause_ms);
            if at_ms >= self.faults_ms {
                break;
            }
            if let Some(kind) = pick(&chance, &self.faults, FaultKind::text) {
                events.push(FaultEvent { ordinal, at_ms, kind });
            }
        }
        events
    }

    /// Chooses one move out of those that are allowed now.
    pub fn next_move(&self, chance: &Stream, may: impl Fn(MoveKind) -> bool) -> Option<MoveKind> {
        let open = self.does.iter().filter(|(kind, _)| may(**kind));
        let open: BTreeMap<_, _> = open.map(|(kind, weight)| (*kind, *weight)).collect();
        pick(chance, &open, MoveKind::text)
    }
}

/// Switches some off and gives the others up to four times their usual weight. At least one stays
/// on.
fn weights<K: Copy + Ord>(chance: &Stream, kinds: &[K], usual: &[u64]) -> BTreeMap<K, u64> {
    let mut weights: BTreeMap<K, u64> = BTreeMap::new();
    for (place, (kind, usual)) in kinds.iter().zip(usual).enumerate() {
        let mut chance = chance.fork(&place.to_string());
        let off = chance.chance(OFF);
        weights.insert(*kind, if off { 0 } else { usual * chance.range(1..5) });
    }
    if weights.values().all(|weight| *weight == 0) {
        weights.values_mut().next().into_iter().for_each(|weight| *weight = 1);
    }
    weights
}

/// A race: each kind runs for an exponential time of its weight, and the first to end wins. So
/// changing the weight of one kind changes only whether that kind wins.
fn pick<K: Copy>(
    chance: &Stream,
    weights: &BTreeMap<K, u64>,
    text: fn(K) -> &'static str,
) -> Option<K> {
    let racing = weights.iter().filter(|(_, weight)| **weight > 0);
    let times = racing.map(|(kind, weight)| {
        let luck = 1.0 - chance.fork(text(*kind)).unit();
        (-luck.ln() / *weight as f64, *kind)
    });
    times.min_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, set: &[(&str, u64)]) -> Result<Plan, PlanError> {
        Plan::of(seed, &set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect())
    }

    #[test]
    fn seed_gives_one_plan_and_seeds_differ() {
        assert_eq!(plan(7, &[]), plan(7, &[]));
        assert_ne!(plan(7, &[]).unwrap().values(), plan(8, &[]).unwrap().values());
        let off = |seed| {
            let plan = plan(seed, &[]).unwrap();
            FaultKind::ALL.iter().filter(|kind| plan.weight(**kind) == 0).count()
        };
        assert!((0..50).all(|seed| off(seed) < FaultKind::ALL.len()));
        assert!((0..50).map(off).sum::<usize>() > 200);
    }

    #[test]
    fn unknown_and_absurd_parameters_are_refused() {
        assert_eq!(plan(1, &[("node", 4)]), Err(PlanError::Unknown("node".to_owned())));
        assert!(plan(1, &[("nodes", 6)]).unwrap_err().to_string().contains("nodes is 1 to 5"));
        assert_eq!(plan(1, &[("nodes", 4)]).unwrap().nodes, 4);
        assert_eq!(plan(1, &[("faults.rot", 0)]).unwrap().weight(FaultKind::Rot), 0);
    }

    #[test]
    fn shorter_run_and_weight_of_one_kind_leave_other_events_as_they_were() {
        let whole = plan(3, &[("faults.rot", 400)]).unwrap().schedule();
        let short = plan(3, &[("faults.rot", 400), ("faults_ms", 9_000)]).unwrap().schedule();
        assert!(!short.is_empty() && whole.starts_with(&short));
        let without = plan(3, &[("faults.rot", 0)]).unwrap().schedule();
        assert_eq!(without.len(), whole.len());
        for (one, other) in whole.iter().zip(&without) {
            assert!(one == other || one.kind == FaultKind::Rot, "{one:?} {other:?}");
        }
        assert!(whole.iter().any(|event| event.kind == FaultKind::Rot));
    }
}
