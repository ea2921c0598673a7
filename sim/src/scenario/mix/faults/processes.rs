//! Processes that die.

use std::time::Duration;

use tokio::time::sleep;

use super::{Faults, Later, Strike};
use crate::disk::Crash;
use crate::process::ProcessId;

/// Tries to find a job in flight before a crash happens anyway.
const AIM_MS: u32 = 400;

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
