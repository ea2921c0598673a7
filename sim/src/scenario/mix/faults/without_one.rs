//! When faults cease, not everything heals: in some runs one node stays dead, cut off, stands
//! still, or is up and cannot store (L4), and the others have to do all that a cluster must do (L1, L2) without it.

use super::Faults;
use super::disks::never_stores;
use crate::disk::Crash;
use crate::process::ProcessId;
use crate::trace;

impl Faults {
    /// To be called right after [`cease`](Faults::cease). Always the fragile node, or who came in
    /// its place: what was lost or hurt in this run was lost there, and a second loss is more than
    /// was promised.
    pub fn leave_one_out(&mut self) -> Option<ProcessId> {
        let node = self.spare.filter(|node| !self.operator.waits_for(*node))?;
        let (world, name) = (self.cluster.world().clone(), self.cluster.name(node));
        let how = match self.plan.left_out {
            1 => {
                self.cluster.crash(node, Crash::Power);
                self.checkers.crashed(node);
                "dead"
            }
            2 => {
                world.net().isolate(node);
                "cut off"
            }
            3 => {
                world.parts(node)?.life.pause();
                "standing still"
            }
            4 => {
                // What it holds already counts; it makes no replica more.
                world.disk(node)?.add_fault(never_stores());
                self.cluster.count_left_out(true);
                "unable to store"
            }
            _ => return None,
        };
        trace::event("world", "without", format_args!("{name}, {how}"));
        trace::count("core.left_out", 1);
        self.left_out = Some(node);
        self.cluster.leave_out(self.left_out);
        self.left_out
    }

    /// It comes back.
    pub fn take_in(&mut self) {
        let Some(node) = self.left_out.take() else { return };
        let world = self.cluster.world().clone();
        trace::event("world", "with", format_args!("{}", self.cluster.name(node)));
        world.net().heal();
        if let Some(disk) = world.disk(node) {
            disk.heal();
        }
        self.cluster.count_left_out(false);
        match world.parts(node) {
            Some(parts) => parts.life.resume(),
            None => self.start(node),
        }
        self.cluster.leave_out(None);
    }
}
