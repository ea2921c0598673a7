//! What goes wrong in `mix`, by seed, within the fault model of `sim/README.md`: any crashes and
//! any cuts, but bytes are hurt on one node of a run only, and only copies that are not the last.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_core::ids::SegmentDigest;
use cairn_core::model::SlotState;
use cairn_node::upkeep::suspect;
use tokio::time::{Instant, sleep};

use crate::checkers::Checkers;
use crate::cluster::{Cluster, node_id};
use crate::disk::{Crash, Fault, On};
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;

/// Tries to find a job in flight before a crash happens anyway.
const AIM_MS: u32 = 400;

pub struct Faults {
    cluster: Cluster,
    checkers: Checkers,
    clients: Vec<ProcessId>,
    /// Of the links on a good day.
    pace: LinkPolicy,
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

impl Faults {
    pub fn new(
        cluster: &Cluster,
        checkers: &Checkers,
        clients: &[ProcessId],
        pace: &LinkPolicy,
        mut chance: Stream,
    ) -> Self {
        let nodes = cluster.nodes();
        let fragile = nodes[chance.below(nodes.len() as u64) as usize];
        Self {
            cluster: cluster.clone(),
            checkers: checkers.clone(),
            clients: clients.to_vec(),
            pace: pace.clone(),
            chance,
            fragile,
            rotten: BTreeSet::new(),
            later: Vec::new(),
        }
    }

    pub async fn rage(&mut self, long: Duration) {
        let end = Instant::now() + long;
        while Instant::now() < end {
            let pause = self.chance.range(20..1_500);
            sleep(Duration::from_millis(pause)).await;
            self.put_right(Instant::now());
            self.bring_back();
            self.something().await;
        }
    }

    /// Everything is put right.
    pub fn cease(&mut self) {
        let world = self.cluster.world();
        world.net().heal();
        for node in self.cluster.nodes() {
            if let Some(disk) = self.cluster.disk(node) {
                disk.heal();
            }
            self.cluster.start_node(node);
        }
        self.clients.iter().for_each(|client| drop(world.start(*client)));
    }

    async fn something(&mut self) {
        let nodes = self.cluster.nodes();
        let Some(node) = self.chance.pick(&nodes).copied() else { return };
        let world = self.cluster.world().clone();
        match self.chance.below(100) {
            0..18 => self.crash(node).await,
            18..36 => {
                if let Some(leader) = self.cluster.leader() {
                    self.crash(leader.process).await;
                }
            }
            36..38 => {
                trace::count("faults.all_crashed", 1);
                for node in nodes {
                    self.down(node, Crash::Power);
                }
            }
            38..46 => {
                world.net().isolate(node);
                self.after(6_000, Later::MendAll);
            }
            46..54 => {
                let mut all = nodes.clone();
                all.extend(&self.clients);
                let Some(other) = self.chance.pick(&all).copied() else { return };
                let (from, to) = match self.chance.chance(0.5) {
                    true => (node, other),
                    false => (other, node),
                };
                if from != to {
                    world.net().cut(from, to);
                    self.after(8_000, Later::Mend(from, to));
                }
            }
            54..59 => {
                let rack = format!("r{}", self.chance.range(1..4));
                world.net().cut_rack(&rack);
                self.after(6_000, Later::MendAll);
            }
            59..69 => {
                world.net().set_policy(LinkPolicy {
                    bytes_per_s: self.pace.bytes_per_s,
                    ..LinkPolicy::rough()
                });
                self.after(8_000, Later::Calm);
            }
            69..76 => {
                let factor = self.chance.range(5..200);
                if let Some(disk) = self.cluster.disk(node) {
                    disk.set_slow(factor as f64);
                    trace::count("faults.slow_disks", 1);
                    self.after(4_000, Later::HealDisk(node));
                }
            }
            76..80 => self.fail_reads(),
            80..88 => self.rot(),
            _ => {
                let Some(client) = self.chance.pick(&self.clients).copied() else { return };
                if world.is_up(client) {
                    world.crash(client, Crash::Kill);
                    trace::count("faults.client_deaths", 1);
                    self.after(3_000, Later::Start(client));
                }
            }
        }
    }

    fn after(&mut self, most_ms: u64, what: Later) {
        let delay = Duration::from_millis(self.chance.range(50..most_ms));
        self.later.push((Instant::now() + delay, what));
    }

    fn put_right(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.later).into_iter().partition(|it| it.0 <= now);
        self.later = later;
        let world = self.cluster.world();
        let due: Vec<(Instant, Later)> = due;
        for (_, what) in due {
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
    fn bring_back(&mut self) {
        for node in self.cluster.nodes() {
            let waits = self
                .later
                .iter()
                .any(|(_, what)| matches!(what, Later::Start(process) if *process == node));
            if !waits && !self.cluster.world().is_up(node) {
                self.after(1_000, Later::Start(node));
            }
        }
    }

    /// Half of the time while the node's disk is at work.
    async fn crash(&mut self, node: ProcessId) {
        let how = if self.chance.chance(0.3) { Crash::Kill } else { Crash::Power };
        if self.chance.chance(0.7)
            && let Some(disk) = self.cluster.disk(node)
        {
            for _ in 0..AIM_MS {
                if disk.jobs_in_flight() > 0 {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        self.down(node, how);
    }

    fn down(&mut self, node: ProcessId, how: Crash) {
        if !self.cluster.world().is_up(node) {
            return;
        }
        self.cluster.crash(node, how);
        self.checkers.crashed(node);
        self.after(6_000, Later::Start(node));
    }

    /// Reads of segment files fail now and then.
    fn fail_reads(&mut self) {
        let Some(disk) = self.cluster.disk(self.fragile) else { return };
        self.cluster.excuse(self.fragile);
        self.checkers.distrust(self.fragile);
        let prefix = "segments/".to_owned();
        disk.add_fault(Fault { prefix, on: On::Read, probability: 0.3, times: Some(20) });
        trace::count("faults.failing_reads", 1);
        self.after(5_000, Later::HealDisk(self.fragile));
    }

    /// Flips a bit of a segment of which two more copies are elsewhere.
    fn rot(&mut self) {
        let Some(disk) = self.cluster.disk(self.fragile) else { return };
        let (_, catalogue) = self.cluster.newest();
        let Some(id) = node_id(&catalogue, &disk.name) else { return };
        let durable = catalogue.slots_on(id, SlotState::Durable);
        let spare = durable.filter(|(segment, _)| {
            let others = segment.slots.iter().filter(|slot| slot.node != id);
            others.filter(|slot| slot.state == SlotState::Durable).count() >= 2
        });
        let spare: Vec<SegmentDigest> = spare.map(|(segment, _)| segment.digest).collect();
        let Some(digest) = self.chance.pick(&spare).copied() else { return };
        let path = format!("segments/{:02x}/{digest}", digest.0[0]);
        let len = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        let (at, bit) = (self.chance.below(len), self.chance.below(8) as u8);
        if disk.flip_bit(&path, at, bit) {
            trace::event(&disk.name, "rot", format_args!("{digest} byte {at} bit {bit}"));
            trace::count("faults.rot", 1);
            self.checkers.hurt(self.fragile, digest);
            self.rotten.insert((self.fragile, digest));
        }
    }

    /// What a scrub would find is looked at: rotten copies that no reader has met.
    pub async fn mend_replicas(&mut self) {
        for (process, digest) in std::mem::take(&mut self.rotten) {
            let Some(node) = self.cluster.running_node(process) else { continue };
            let shared = node.shared.clone();
            let check = async move { suspect::check(&shared, digest).await };
            if let Some(seat) = self.cluster.world().seat(process) {
                match seat.life.spawn(check).await {
                    Ok(Ok(true)) => trace::count("faults.rot_found_late", 1),
                    Ok(Ok(false)) => {}
                    other => trace::event(&node.name, "check", format_args!("{other:?}")),
                }
            }
        }
    }
}
