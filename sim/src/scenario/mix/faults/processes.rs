//! Processes that die, stand still, or do not know that they are dead.

use std::time::Duration;

use tokio::time::sleep;

use super::{Faults, Later, Strike};
use crate::disk::Crash;
use crate::process::ProcessId;

/// Tries to find a job in flight before a crash happens anyway.
const AIM_MS: u32 = 400;
/// Somebody pulls the plug of a zombie in the end.
const ZOMBIE_ENDS: Duration = Duration::from_secs(15);

impl Faults {
    /// Most of the time while the node's disk is at work.
    pub(super) async fn crash(&mut self, mut strike: Strike, node: ProcessId) {
        if !self.cluster.world().is_up(node) {
            return;
        }
        let how = if strike.chance.chance(0.3) { Crash::Kill } else { Crash::Power };
        if strike.chance.chance(0.7)
            && let Some(disk) = self.cluster.disk(node)
        {
            for _ in 0..AIM_MS {
                if disk.jobs_in_flight() > 0 {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
        }
        strike.says(format_args!("{} {how:?}", self.cluster.name(node)));
        self.down(&mut strike, node, how);
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
        let Some(seat) = self.cluster.world().seat(node) else { return };
        if !seat.life.is_paused() {
            strike.says(format_args!("{}", seat.life.name));
            seat.life.pause();
            self.after(&mut strike, 10_000, Later::Resume(seat.life));
        }
    }

    /// A node that stands still is taken for dead and started elsewhere on its own disk; then it
    /// goes on, and its messages arrive after its successor's.
    pub(super) fn zombie(&mut self, mut strike: Strike, node: ProcessId) {
        if self.cluster.running_node(node).is_none() {
            return;
        }
        strike.says(format_args!("{}", self.cluster.name(node)));
        let Some(life) = self.cluster.abandon(node) else { return };
        self.checkers.crashed(node);
        self.after(&mut strike, 1_500, Later::Start(node));
        self.after(&mut strike, 6_000, Later::Resume(life.clone()));
        self.due(ZOMBIE_ENDS, Later::End(life));
    }

    pub(super) fn down(&mut self, strike: &mut Strike, node: ProcessId, how: Crash) {
        if !self.cluster.world().is_up(node) {
            return;
        }
        self.cluster.crash(node, how);
        self.checkers.crashed(node);
        self.after(strike, 6_000, Later::Start(node));
    }

    pub(super) fn kill_client(&mut self, mut strike: Strike) {
        let Some(client) = strike.chance.pick(&self.clients).copied() else { return };
        if self.cluster.world().is_up(client) {
            strike.says(format_args!("{}", self.cluster.name(client)));
            self.cluster.world().crash(client, Crash::Kill);
            self.after(&mut strike, 3_000, Later::Start(client));
        }
    }
}
