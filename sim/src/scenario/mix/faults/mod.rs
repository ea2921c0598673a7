//! What goes wrong in `mix`, by the plan and within the fault model of `sim/README.md`: any
//! crashes and any cuts, but bytes are hurt on one node of a run only, and only copies that are
//! not the last.
//!
//! Events strike one after the other; what they do is put right later, while others strike. All
//! that an event draws comes from a stream of its own, so that masking it shifts nothing else.

mod clocks;
mod disks;
mod identity;
mod operator;
mod processes;
mod rotten_log;
mod without_one;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cairn_types::command::FEATURE_LEVEL;
use cairn_types::ids::{NodeId, SegmentDigest};
use tokio::time::{Instant, sleep_until};

use self::operator::Operator;
use super::clients::Script;
use crate::checkers::Checkers;
use crate::cluster::Cluster;
use crate::net::LinkPolicy;
use crate::process::{Life, ProcessId};
use crate::scenario::plan::{FaultEvent, FaultKind, Plan};
use crate::seed::Stream;
use crate::trace;

/// The supervisor looks after nodes so often.
const LOOK: Duration = Duration::from_millis(250);
/// What a fault on a disk brings about, comes about so long after its end.
const EXCUSED_FOR: Duration = Duration::from_secs(10);
/// In a healthy cluster a copied directory is refused within this.
const REFUSED_SOON: Duration = Duration::from_secs(5);
/// Where clients rest most of the time, so many of the events wait for one that does not.
const AIMS: f64 = 0.7;
const AIM_LIMIT: Duration = Duration::from_secs(3);
const AIM_LOOK: Duration = Duration::from_millis(20);
/// A link may be slow, but no slower than this.
const SLOWEST_BYTES_PER_S: u64 = 50_000;
/// So many restarts of an older build are with the newer one.
const UPGRADED: f64 = 0.3;

pub struct Faults {
    cluster: Cluster,
    checkers: Checkers,
    clients: Vec<ProcessId>,
    scripts: Vec<Arc<Script>>,
    plan: Plan,
    /// Of the links on a good day.
    links: LinkPolicy,
    /// Chance of what is no event's own.
    chance: Stream,
    /// The one node whose disk loses or hurts bytes; none once it is gone.
    fragile: Option<ProcessId>,
    /// That one, or who came in its place: nothing is lost with it that was not lost before.
    spare: Option<ProcessId>,
    operator: Operator,
    /// So much time went by in which no planned event could strike.
    held: Duration,
    rotten: BTreeSet<(ProcessId, SegmentDigest)>,
    later: Vec<(Instant, Later)>,
    /// The node that is not put right with the others.
    left_out: Option<ProcessId>,
    /// Whose wall clock jumped last.
    jumped: Option<ProcessId>,
    /// Every node gets the newer build when it starts next.
    upgrades: bool,
}

/// What is put right, or must have come about, after a while.
enum Later {
    Start(ProcessId),
    Mend(ProcessId, ProcessId),
    MendAll,
    Quicken(ProcessId, ProcessId),
    Calm,
    HealDisk(ProcessId),
    Resume(Arc<Life>),
    Apply(Arc<Life>),
    PutClockRight(ProcessId),
    /// The disk of this life has not answered since it got stuck for this time.
    MustHaveEnded(Arc<Life>, Option<u64>),
    /// A sync of this life's disk failed if there were more than so many by now.
    MustHaveStopped(ProcessId, Arc<Life>, u64),
    MustBeRefused(ProcessId),
    /// The operator ends a drain.
    Serve(NodeId),
}

/// One event while it strikes.
struct Strike {
    event: FaultEvent,
    chance: Stream,
    /// A client was in the middle of a move.
    hits: bool,
}

impl Strike {
    /// Says what happens now; to be called once, if it happens.
    fn says(&self, what: fmt::Arguments<'_>) {
        trace::fault(self.event.ordinal, format_args!("{} {what}", self.event.kind.text()));
        trace::count(self.event.kind.counter(), 1);
        trace::count("faults.hit_an_operation", u64::from(self.hits));
    }
}

impl Faults {
    pub fn new(
        cluster: &Cluster,
        checkers: &Checkers,
        clients: (&[ProcessId], &[Arc<Script>]),
        plan: &Plan,
    ) -> Self {
        let nodes = cluster.nodes();
        let fragile = Some(nodes[plan.fragile as usize % nodes.len()]);
        let fragile = fragile.filter(|_| plan.may_lose_a_disk());
        Self {
            cluster: cluster.clone(),
            checkers: checkers.clone(),
            clients: clients.0.to_vec(),
            scripts: clients.1.to_vec(),
            plan: plan.clone(),
            links: LinkPolicy { bytes_per_s: plan.bytes_per_s, ..LinkPolicy::default() },
            chance: cluster.world().stream("faults"),
            fragile,
            spare: fragile,
            operator: Operator::default(),
            held: Duration::ZERO,
            rotten: BTreeSet::new(),
            later: Vec::new(),
            left_out: None,
            jumped: None,
            upgrades: false,
        }
    }

    /// Everything that is planned and not masked, until the plan's time is over.
    pub async fn rage(&mut self) {
        let began = Instant::now();
        for event in self.plan.schedule() {
            if self.cluster.world().tuning().mask.hides(event.ordinal) {
                continue;
            }
            let at = Duration::from_millis(event.at_ms);
            self.wait_until(began + at + self.held).await;
            let chance = self.chance.fork(&event.ordinal.to_string());
            if self.plan.pace > 1 && chance.fork("aims").chance(AIMS) {
                self.aim().await;
            }
            let hits = self.someone_is_busy();
            self.strike(Strike { event, chance, hits }).await;
        }
        let whole = Duration::from_millis(self.plan.faults_ms);
        self.wait_until(began + whole + self.held).await;
    }

    /// Waits until a client is in the middle of a move, but not for ever.
    async fn aim(&mut self) {
        let end = Instant::now() + self.plan.paced(AIM_LIMIT);
        let may_be = |script: &Arc<Script>| !script.has_played();
        while !self.someone_is_busy() && self.scripts.iter().any(may_be) && Instant::now() < end {
            self.wait_until(Instant::now() + AIM_LOOK).await;
        }
    }

    fn someone_is_busy(&self) -> bool {
        self.scripts.iter().any(|script| script.is_busy())
    }

    /// Everything is put right.
    pub fn cease(&mut self) {
        let soon = Instant::now() + self.plan.paced(REFUSED_SOON);
        for (due, what) in std::mem::take(&mut self.later) {
            match what {
                Later::Resume(life) => life.resume(),
                Later::Apply(life) => life.apply_again(),
                Later::PutClockRight(process) => self.put_clock_right(process),
                Later::MustHaveEnded(..) => self.later.push((due, what)),
                Later::Serve(node) => self.serve(node),
                // It may have started only now.
                Later::MustBeRefused(_) => self.later.push((due.min(soon), what)),
                Later::MustHaveStopped(..) => self.later.push((due, what)),
                _ => {}
            }
        }
        self.operator.retire_removed(&self.cluster);
        let world = self.cluster.world().clone();
        world.net().heal();
        for node in self.cluster.nodes() {
            if let Some(disk) = world.disk(node) {
                disk.heal();
                disk.set_capacity(None);
            }
            if !world.is_up(node) {
                self.checkers.crashed(node);
            }
            self.start(node);
        }
        self.clients.iter().for_each(|client| drop(world.start(*client)));
    }

    async fn strike(&mut self, mut strike: Strike) {
        let nodes = self.cluster.nodes();
        let Some(node) = strike.chance.pick(&nodes).copied() else { return };
        match strike.event.kind {
            FaultKind::Crash => self.crash(strike, node).await,
            FaultKind::CrashLeader => {
                if let Some(leader) = self.cluster.leader() {
                    self.crash(strike, leader.process).await;
                }
            }
            FaultKind::CrashRack => self.crash_rack(strike),
            FaultKind::CrashAll => self.crash_all(strike),
            FaultKind::ClientDeath => self.kill_client(strike).await,
            FaultKind::Isolate => self.isolate(strike, node),
            FaultKind::Cut => self.cut(strike, node),
            FaultKind::CutRack => self.cut_rack(strike),
            FaultKind::Rough => self.rough(strike),
            FaultKind::Pause => self.pause(strike, node),
            FaultKind::Zombie => self.zombie(strike, node).await,
            FaultKind::SlowDisk => self.slow_disk(strike, node),
            FaultKind::StuckDisk => self.stuck_disk(strike, node),
            FaultKind::FullDisk => self.full_disk(strike, node),
            FaultKind::Quota => self.quota(strike, node),
            FaultKind::EioRead => self.fail_reads(strike),
            FaultKind::EioWrite => self.fail_writes(strike, node),
            FaultKind::FailedSync => self.fail_sync(strike, node),
            FaultKind::Rot => self.rot(strike),
            FaultKind::Vanish => self.vanish(strike),
            FaultKind::CannotStore => self.cannot_store(strike, node),
            FaultKind::Misdirect => self.misdirect(strike),
            FaultKind::Wipe => self.wipe(strike),
            FaultKind::OldDisk => self.old_disk(strike).await,
            FaultKind::CopiedDirectory => self.copied_directory(strike, node),
            FaultKind::AddNode => self.add_node(strike),
            FaultKind::RemoveNode => self.remove_node(strike),
            FaultKind::ReplaceNode => self.replace_node(strike),
            FaultKind::SlowLink => self.slow_link(strike, node),
            FaultKind::EioNames => self.fail_names(strike, node),
            FaultKind::Stop => self.stop(strike, node),
            FaultKind::ExchangeDisks => self.exchange_disks(strike, node),
            FaultKind::RotLog => self.rot_log(strike).await,
            FaultKind::WallJump => self.wall_jump(strike, node),
            FaultKind::HiddenLeader => self.hide_leader(strike),
            FaultKind::ClockRate => self.clock_rate(strike, node),
            FaultKind::LateApply => self.late_apply(strike, node),
            FaultKind::Drain => self.drain(strike, node),
            FaultKind::Maintain => self.maintain(strike, node),
        }
    }

    fn after(&mut self, strike: &mut Strike, most_ms: u64, what: Later) {
        let delay = Duration::from_millis(strike.chance.range(50..most_ms));
        self.due(delay, what);
    }

    /// The disk heals by then, and until some time after that the node may end.
    fn heal_after(&mut self, strike: &mut Strike, most_ms: u64, node: ProcessId) {
        self.after(strike, most_ms, Later::HealDisk(node));
        let latest = Duration::from_millis(most_ms) + EXCUSED_FOR;
        self.cluster.excuse_until(node, Instant::now() + self.plan.paced(latest));
    }

    /// After `usual`, by the plan's pace.
    fn due(&mut self, usual: Duration, what: Later) {
        self.later.push((Instant::now() + self.plan.paced(usual), what));
    }

    /// Lets time pass, with what is due on the way.
    async fn wait_until(&mut self, end: Instant) {
        loop {
            self.look_after();
            let now = Instant::now();
            if now >= end {
                return;
            }
            let due = self.later.iter().map(|(due, _)| *due).min();
            sleep_until(due.unwrap_or(end).min(end).min(now + LOOK)).await;
        }
    }

    /// What is due is put right, and dead nodes are started again: also when faults are over.
    pub fn look_after(&mut self) {
        let now = Instant::now();
        self.put_right(now);
        self.operator.retire_removed(&self.cluster);
        self.bring_back();
    }

    fn put_right(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.later);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.0 <= now);
        self.later = later;
        for (_, what) in due {
            let world = self.cluster.world().clone();
            match what {
                Later::Start(process) => self.start(process),
                Later::Mend(from, to) => world.net().mend(from, to),
                Later::MendAll => world.net().heal(),
                Later::Quicken(one, other) => {
                    world.net().unset_link(one, other);
                    world.net().unset_link(other, one);
                }
                Later::Calm => world.net().set_policy(self.links.clone()),
                Later::HealDisk(node) => {
                    // A wiped node's disk is hidden, and heals all the same.
                    if let Some(disk) = world.disk(node) {
                        disk.heal();
                        disk.set_capacity(None);
                    }
                }
                Later::Resume(life) => life.resume(),
                Later::Apply(life) => life.apply_again(),
                Later::PutClockRight(process) => self.put_clock_right(process),
                Later::MustHaveEnded(life, time) => self.must_have_ended(life, time),
                Later::MustHaveStopped(node, life, syncs) => {
                    self.must_have_stopped(node, life, syncs);
                }
                Later::MustBeRefused(process) => self.must_be_refused(process),
                Later::Serve(node) => self.serve(node),
            }
        }
    }

    /// Starts a node, now and then with the newer build if it had an older one.
    fn start(&mut self, process: ProcessId) {
        let is_older = self.cluster.feature_level(process) < FEATURE_LEVEL;
        if is_older && (self.upgrades || self.chance.chance(UPGRADED)) {
            let name = self.cluster.name(process);
            trace::event("operator", "upgrades", format_args!("{name}"));
            trace::count("operator.upgraded", 1);
            self.cluster.set_feature_level(process, FEATURE_LEVEL);
        }
        self.cluster.start_node(process);
    }

    /// Unless the run stays mixed, nodes with an older build are restarted with the newer one.
    pub fn upgrade(&mut self) {
        self.upgrades = self.plan.stays_older == 0;
        let older = |node: &ProcessId| {
            Some(*node) != self.left_out && self.cluster.feature_level(*node) < FEATURE_LEVEL
        };
        for node in self.cluster.nodes().iter().filter(|node| self.upgrades && older(node)) {
            self.cluster.stop(*node);
        }
    }

    /// A node that ended by itself is started again, as its supervisor would.
    fn bring_back(&mut self) {
        let left_out = self.left_out;
        for node in self.cluster.nodes().into_iter().filter(|node| Some(*node) != left_out) {
            let waits = self
                .later
                .iter()
                .any(|(_, what)| matches!(what, Later::Start(process) if *process == node));
            if !waits && !self.cluster.world().is_up(node) {
                self.checkers.crashed(node);
                let delay = Duration::from_millis(self.chance.range(50..1_000));
                self.due(delay, Later::Start(node));
            }
        }
    }
}

/// The network.
impl Faults {
    fn isolate(&mut self, mut strike: Strike, node: ProcessId) {
        strike.says(format_args!("{}", self.cluster.name(node)));
        self.cluster.world().net().isolate(node);
        self.after(&mut strike, 6_000, Later::MendAll);
    }

    fn cut(&mut self, mut strike: Strike, node: ProcessId) {
        let mut all = self.cluster.nodes();
        all.extend(&self.clients);
        let Some(other) = strike.chance.pick(&all).copied() else { return };
        let (from, to) = if strike.chance.chance(0.5) { (node, other) } else { (other, node) };
        if from != to {
            let name = |process| self.cluster.name(process);
            strike.says(format_args!("{} to {}", name(from), name(to)));
            self.cluster.world().net().cut(from, to);
            self.after(&mut strike, 8_000, Later::Mend(from, to));
        }
    }

    /// Both ways, between two nodes or a node and a client.
    fn slow_link(&mut self, mut strike: Strike, node: ProcessId) {
        let mut all = self.cluster.nodes();
        all.extend(&self.clients);
        let Some(other) = strike.chance.pick(&all).copied() else { return };
        if node == other {
            return;
        }
        let slower = strike.chance.range(5..100);
        let delay_us = strike.chance.range(5_000..200_000);
        let name = |process| self.cluster.name(process);
        strike.says(format_args!("{} and {}: {slower} times", name(node), name(other)));
        let link = LinkPolicy {
            bytes_per_s: (self.links.bytes_per_s / slower).max(SLOWEST_BYTES_PER_S),
            delay_us: delay_us..2 * delay_us,
            ..LinkPolicy::default()
        };
        let net = self.cluster.world().net();
        net.set_link(node, other, link.clone());
        net.set_link(other, node, link);
        self.after(&mut strike, 8_000, Later::Quicken(node, other));
    }

    fn cut_rack(&mut self, mut strike: Strike) {
        let rack = format!("r{}", strike.chance.range(1..4));
        strike.says(format_args!("{rack}"));
        self.cluster.world().net().cut_rack(&rack);
        self.after(&mut strike, 6_000, Later::MendAll);
    }

    /// Clients and the leader do not reach each other; the nodes do.
    fn hide_leader(&mut self, mut strike: Strike) {
        let Some(leader) = self.cluster.leader() else { return };
        strike.says(format_args!("{}", leader.name));
        let net = self.cluster.world().net();
        net.partition(&self.clients, &[leader.process]);
        let delay = Duration::from_millis(strike.chance.range(50..8_000));
        for client in self.clients.clone() {
            self.due(delay, Later::Mend(client, leader.process));
            self.due(delay, Later::Mend(leader.process, client));
        }
    }

    fn rough(&mut self, mut strike: Strike) {
        strike.says(format_args!("links"));
        let rough = LinkPolicy { bytes_per_s: self.links.bytes_per_s, ..LinkPolicy::rough() };
        self.cluster.world().net().set_policy(rough);
        self.after(&mut strike, 8_000, Later::Calm);
    }
}
