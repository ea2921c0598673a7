//! Processes that die, stand still, or do not know that they are dead.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::disks::GIVES_UP_WITHIN;
use super::{Faults, Later, Strike};
use crate::disk::Crash;
use crate::process::ProcessId;
use crate::scenario::mix::clients::Script;

/// A fault waits this long for a process to be hit in mid-work, and strikes anyway.
const AIM_MS: u32 = 400;
/// So many of them wait.
const AIMED: f64 = 0.7;

impl Faults {
    /// Most of the time while the node's disk is at work.
    pub(super) async fn crash(&mut self, mut strike: Strike, node: ProcessId) {
        if !self.cluster.world().is_up(node) {
            return;
        }
        let how = if strike.chance.chance(0.3) { Crash::Kill } else { Crash::Power };
        if strike.chance.chance(AIMED)
            && let Some(disk) = self.cluster.disk(node)
        {
            first_in_time(|| (disk.jobs_in_flight() > 0).then_some(())).await;
        }
        strike.says(format_args!("{} {how:?}", self.cluster.name(node)));
        self.down(&mut strike, node, how);
    }

    /// A node is told to stop, and is started again when it has.
    pub(super) fn stop(&mut self, strike: Strike, node: ProcessId) {
        if self.cluster.running_node(node).is_some() {
            strike.says(format_args!("{}", self.cluster.name(node)));
            self.cluster.stop(node);
        }
    }

    pub(super) fn crash_all(&mut self, mut strike: Strike) {
        strike.says(format_args!("Power"));
        for node in self.cluster.nodes() {
            self.down(&mut strike, node, Crash::Power);
        }
    }

    pub(super) fn crash_rack(&mut self, mut strike: Strike) {
        let rack = format!("r{}", strike.chance.range(1..4));
        let world = self.cluster.world().clone();
        let inside = |node: &ProcessId| world.rack(*node).as_deref() == Some(rack.as_str());
        let nodes: Vec<ProcessId> = self.cluster.nodes().into_iter().filter(inside).collect();
        if nodes.iter().any(|node| world.is_up(*node)) {
            strike.says(format_args!("{rack} Power"));
            nodes.into_iter().for_each(|node| self.down(&mut strike, node, Crash::Power));
        }
    }

    /// All tasks of a node stand still while the world goes on.
    pub(super) fn pause(&mut self, mut strike: Strike, node: ProcessId) {
        let Some(parts) = self.cluster.world().parts(node) else { return };
        if !parts.life.is_paused() {
            strike.says(format_args!("{}", parts.life.name));
            parts.life.pause();
            self.after(&mut strike, 10_000, Later::Resume(parts.life));
        }
    }

    /// A node, in half of the cases one that follows, applies nothing, though its log grows.
    pub(super) fn late_apply(&mut self, mut strike: Strike, node: ProcessId) {
        let leader = self.cluster.leader().map(|leader| leader.process);
        let followers: Vec<_> =
            self.cluster.nodes().into_iter().filter(|it| Some(*it) != leader).collect();
        let follower = strike.chance.pick(&followers).copied();
        let process = follower.filter(|_| strike.chance.chance(0.5)).unwrap_or(node);
        let Some(parts) = self.cluster.world().parts(process) else { return };
        strike.says(format_args!("{}", parts.life.name));
        parts.life.apply_nothing();
        self.after(&mut strike, 6_000, Later::Apply(parts.life));
    }

    /// A node that stands still is taken for dead and started elsewhere on its own disk; then it
    /// goes on, and its messages arrive after its successor's. Most of the time one that is about
    /// to say what it has stored.
    pub(super) async fn zombie(&mut self, mut strike: Strike, mut node: ProcessId) {
        if strike.chance.chance(AIMED) {
            let (cluster, nodes) = (self.cluster.clone(), self.cluster.nodes());
            let speaks = |node: &ProcessId| {
                let running = cluster.running_node(*node);
                running.is_some_and(|it| {
                    it.shared.replicas.reporter.pending() > 0
                        && !it.shared.member.consensus.is_leader()
                })
            };
            node = first_in_time(|| nodes.iter().copied().find(speaks)).await.unwrap_or(node);
        }
        let Some(running) = self.cluster.running_node(node) else { return };
        // One that has not registered has no work for its disk, and cannot tell that it hangs.
        let in_service = running.shared.this.incarnation().is_some();
        strike.says(format_args!("{}", self.cluster.name(node)));
        let Some(life) = self.cluster.abandon(node) else { return };
        self.checkers.crashed(node);
        // One that slept for less than an election timeout speaks of its replicas before it asks
        // for votes, and is refused there.
        let (start, wake) = if strike.chance.chance(0.5) { (100, 900) } else { (1_500, 6_000) };
        self.after(&mut strike, start, Later::Start(node));
        self.after(&mut strike, wake, Later::Resume(life.clone()));
        // Nobody pulls its plug: its disk does not answer any more, and it ends by itself.
        let give_up =
            Instant::now() + self.plan.paced(Duration::from_millis(wake)) + GIVES_UP_WITHIN;
        if in_service {
            self.later.push((give_up, Later::MustHaveEnded(life, None)));
        }
    }

    pub(super) fn down(&mut self, strike: &mut Strike, node: ProcessId, how: Crash) {
        if !self.cluster.world().is_up(node) {
            return;
        }
        self.cluster.crash(node, how);
        self.checkers.crashed(node);
        self.after(strike, 6_000, Later::Start(node));
    }

    /// Most of the time one that has read a part of a checkpoint.
    pub(super) async fn kill_client(&mut self, mut strike: Strike) {
        let Some(mut client) = strike.chance.pick(&self.clients).copied() else { return };
        if strike.chance.chance(AIMED) {
            let (clients, scripts) = (&self.clients, &self.scripts);
            let is_reading = |script: &Script| script.is_busy() && script.has_half_read();
            let reading = || clients.iter().zip(scripts).find(|(_, script)| is_reading(script));
            client = first_in_time(reading).await.map_or(client, |found| *found.0);
        }
        if self.cluster.world().is_up(client) {
            strike.says(format_args!("{}", self.cluster.name(client)));
            self.cluster.world().crash(client, Crash::Kill);
            let place = self.clients.iter().position(|it| *it == client);
            place.and_then(|place| self.scripts.get(place)).into_iter().for_each(|it| it.dies());
            self.after(&mut strike, 3_000, Later::Start(client));
        }
    }
}

/// What `look` finds first, if it does so soon.
async fn first_in_time<T>(look: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..AIM_MS {
        let found = look();
        if found.is_some() {
            return found;
        }
        sleep(Duration::from_millis(1)).await;
    }
    None
}
