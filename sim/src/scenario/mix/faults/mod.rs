//! What goes wrong in `mix`, by the plan and within the fault model of `sim/README.md`: any
//! crashes and any cuts, but bytes are hurt on one node of a run only, and only copies that are
//! not the last.
//!
//! Events strike one after the other; what they do is put right later, while others strike. All
//! that an event draws comes from a stream of its own, so that masking it shifts nothing else.

mod disks;
mod processes;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::SegmentDigest;
use tokio::time::{Instant, sleep_until};

use super::clients::Script;
use crate::checkers::Checkers;
use crate::cluster::Cluster;
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::scenario::plan::{FaultEvent, FaultKind, Plan};
use crate::seed::Stream;
use crate::trace;

/// The supervisor looks after nodes so often.
const LOOK: Duration = Duration::from_millis(250);

pub struct Faults {
    cluster: Cluster,
    checkers: Checkers,
    clients: Vec<ProcessId>,
    scripts: Vec<Arc<Script>>,
    plan: Plan,
    /// Of the links on a good day.
    pace: LinkPolicy,
    /// Chance of what is no event's own.
    chance: Stream,
    /// The one node whose bytes are hurt.
    fragile: ProcessId,
    rotten: BTreeSet<(ProcessId, SegmentDigest)>,
    later: Vec<(Instant, Later)>,
}

/// What is put right after a while.
#[derive(Debug, Clone, Copy)]
enum Later {
    Start(ProcessId),
    Mend(ProcessId, ProcessId),
    MendAll,
    Calm,
    HealDisk(ProcessId),
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
        Self {
            cluster: cluster.clone(),
            checkers: checkers.clone(),
            clients: clients.0.to_vec(),
            scripts: clients.1.to_vec(),
            plan: plan.clone(),
            pace: LinkPolicy { bytes_per_s: plan.bytes_per_s, ..LinkPolicy::default() },
            chance: cluster.world().stream("faults"),
            fragile: nodes[plan.fragile as usize % nodes.len()],
            rotten: BTreeSet::new(),
            later: Vec::new(),
        }
    }

    /// Everything that is planned and not masked, until the plan's time is over.
    pub async fn rage(&mut self) {
        let began = Instant::now();
        for event in self.plan.schedule() {
            if self.cluster.world().tuning().mask.hides(event.ordinal) {
                continue;
            }
            self.wait_until(began + Duration::from_millis(event.at_ms)).await;
            let chance = self.chance.fork(&event.ordinal.to_string());
            let hits = self.scripts.iter().any(|script| script.is_busy());
            self.strike(Strike { event, chance, hits }).await;
        }
        self.wait_until(began + Duration::from_millis(self.plan.faults_ms)).await;
    }

    /// Everything is put right.
    pub fn cease(&mut self) {
        self.later.clear();
        let world = self.cluster.world();
        world.net().heal();
        for node in self.cluster.nodes() {
            if let Some(disk) = self.cluster.disk(node) {
                disk.heal();
            }
            if !world.is_up(node) {
                self.checkers.crashed(node);
            }
            self.cluster.start_node(node);
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
            FaultKind::CrashAll => self.crash_all(strike),
            FaultKind::ClientDeath => self.kill_client(strike),
            FaultKind::Isolate => self.isolate(strike, node),
            FaultKind::Cut => self.cut(strike, node),
            FaultKind::CutRack => self.cut_rack(strike),
            FaultKind::Rough => self.rough(strike),
            FaultKind::SlowDisk => self.slow_disk(strike, node),
            FaultKind::EioRead => self.fail_reads(strike),
            FaultKind::Rot => self.rot(strike),
        }
    }

    fn after(&mut self, strike: &mut Strike, most_ms: u64, what: Later) {
        let delay = Duration::from_millis(strike.chance.range(50..most_ms));
        self.later.push((Instant::now() + delay, what));
    }

    /// Lets time pass, with what is due on the way.
    async fn wait_until(&mut self, end: Instant) {
        loop {
            let now = Instant::now();
            self.put_right(now);
            self.bring_back(now);
            if now >= end {
                return;
            }
            let due = self.later.iter().map(|(due, _)| *due).min();
            sleep_until(due.unwrap_or(end).min(end).min(now + LOOK)).await;
        }
    }

    fn put_right(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.later);
        let (due, later): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.0 <= now);
        self.later = later;
        for (_, what) in due {
            let world = self.cluster.world();
            match what {
                Later::Start(process) => drop(world.start(process)),
                Later::Mend(from, to) => world.net().mend(from, to),
                Later::MendAll => world.net().heal(),
                Later::Calm => world.net().set_policy(self.pace.clone()),
                Later::HealDisk(node) => {
                    if let Some(disk) = self.cluster.disk(node) {
                        disk.heal();
                    }
                }
            }
        }
    }

    /// A node that ended by itself is started again, as its supervisor would.
    fn bring_back(&mut self, now: Instant) {
        for node in self.cluster.nodes() {
            let waits = self
                .later
                .iter()
                .any(|(_, what)| matches!(what, Later::Start(process) if *process == node));
            if !waits && !self.cluster.world().is_up(node) {
                self.checkers.crashed(node);
                let delay = Duration::from_millis(self.chance.range(50..1_000));
                self.later.push((now + delay, Later::Start(node)));
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

    fn cut_rack(&mut self, mut strike: Strike) {
        let rack = format!("r{}", strike.chance.range(1..4));
        strike.says(format_args!("{rack}"));
        self.cluster.world().net().cut_rack(&rack);
        self.after(&mut strike, 6_000, Later::MendAll);
    }

    fn rough(&mut self, mut strike: Strike) {
        strike.says(format_args!("links"));
        let rough = LinkPolicy { bytes_per_s: self.pace.bytes_per_s, ..LinkPolicy::rough() };
        self.cluster.world().net().set_policy(rough);
        self.after(&mut strike, 8_000, Later::Calm);
    }
}
