//! Disks that are lost, and disks that are not the node's own: an older copy in its place, a
//! copied directory started beside it.

use std::time::Duration;

use cairn_types::ids::NodeId;
use tokio::time::{Instant, sleep};

use super::{Faults, Later, Strike};
use crate::cluster::{Cluster, End, swapped};
use crate::disk::Crash;
use crate::process::ProcessId;
use crate::trace;

/// A healthy cluster is waited for so long; without one the fault does not happen.
const HEALTHY_LIMIT: Duration = Duration::from_secs(15);
/// A directory that must not come back is refused within this.
const REFUSED_LIMIT: Duration = Duration::from_secs(15);
/// Until what a node holds has been heard by others.
const HEARD: Duration = Duration::from_secs(1);
/// Of the exchanges of disks, so many are among all nodes.
const ALL_MOVE: f64 = 0.4;

impl Faults {
    /// The fragile node loses its disk, and comes back as a new member on an empty one. The
    /// promise (D2) is about the loss of one disk: it happens once, and on that node.
    pub(super) fn wipe(&mut self, mut strike: Strike) {
        let Some(node) = self.fragile else { return };
        let name = self.cluster.name(node);
        let Some(old) = self.cluster.id_of(node) else { return };
        if self.operator.has_lost_a_disk() {
            return;
        }
        strike.says(format_args!("{name}"));
        self.lose_disk(&mut strike, node, old);
    }

    /// The node comes back as a new member, the operator removes the old one.
    pub(super) fn lose_disk(&mut self, strike: &mut Strike, node: ProcessId, old: NodeId) {
        self.cluster.wipe(node);
        self.cluster.hide_disk(node);
        self.checkers.crashed(node);
        self.operator.replace(&self.cluster, old, Some(node));
        self.after(strike, 6_000, Later::Start(node));
    }

    /// The fragile node's disk is rolled back to before its last registration: it must not come
    /// back on it. Then it gets the right one again.
    ///
    /// Only a cluster that can answer can know; so this happens in a healthy one, and other
    /// faults wait.
    pub(super) async fn old_disk(&mut self, strike: Strike) {
        let Some(node) = self.fragile else { return };
        if self.operator.has_lost_a_disk() {
            return;
        }
        let began = Instant::now();
        self.cease();
        if self.healthy().await {
            self.roll_back(&strike, node).await;
        }
        self.held += began.elapsed();
    }

    async fn healthy(&self) -> bool {
        self.cluster.wait(self.plan.paced(HEALTHY_LIMIT), Cluster::out_of_service).await.is_ok()
    }

    /// Restarts the node: what was on its disk is older than its registration then.
    async fn registers_again(&mut self, node: ProcessId) -> bool {
        self.cluster.crash(node, Crash::Kill);
        self.checkers.crashed(node);
        self.cluster.start_node(node);
        // That of this very life: the catalogue may only now say what was on the disk before.
        let newer = |cluster: &Cluster| {
            let running = cluster.running_node(node);
            let newer = running.is_some_and(|it| it.shared.this.incarnation().is_some());
            (!newer).then(|| "not registered again".to_owned())
        };
        self.cluster.wait(self.plan.paced(HEALTHY_LIMIT), newer).await.is_ok()
    }

    /// Lets the node acknowledge more of the log: only its peers know that the disk held more.
    async fn promises_more(&self, node: ProcessId) -> bool {
        let flushed = |cluster: &Cluster| {
            cluster
                .running_node(node)
                .and_then(|it| it.shared.member.consensus.status().flushed_log)
        };
        let before = flushed(&self.cluster);
        let more = |cluster: &Cluster| {
            (flushed(cluster) <= before).then(|| "acknowledges nothing new".to_owned())
        };
        let newer = self.cluster.wait(self.plan.paced(HEALTHY_LIMIT), more).await.is_ok();
        sleep(self.plan.paced(HEARD)).await;
        newer
    }

    async fn roll_back(&mut self, strike: &Strike, node: ProcessId) {
        let world = self.cluster.world().clone();
        let Some(disk) = self.cluster.disk(node) else { return };
        let image = disk.image(&strike.chance);
        let newer = match strike.chance.clone().chance(0.5) {
            true => self.registers_again(node).await,
            false => self.promises_more(node).await,
        };
        if !newer || !self.healthy().await {
            return;
        }
        strike.says(format_args!("{}", disk.name));
        self.cluster.crash(node, Crash::Kill);
        self.checkers.crashed(node);
        self.cluster.hide_disk(node);
        self.cluster.excuse(node);
        world.replace_disk(node, image);
        self.cluster.start_node(node);
        let up = |_: &Cluster| world.is_up(node).then(|| "up".to_owned());
        if self.cluster.wait(self.plan.paced(REFUSED_LIMIT), up).await.is_err() {
            world.violation("identity", format!("{} runs on an older copy of its disk", disk.name));
            world.crash(node, Crash::Kill);
        }
        if self.cluster.end(node) == Some(End::Refused) {
            trace::count("checked.old_disks_refused", 1);
        }
        self.cluster.excuse_no_more(node);
        self.cluster.take_acknowledged(node);
        world.replace_disk(node, disk);
        self.cluster.show_disk(node);
        self.checkers.crashed(node);
        self.cluster.start_node(node);
    }

    /// Two nodes die, or all, and get each other's disks: whoever was here is there now, on another
    /// host, perhaps in another rack, and nobody is where the catalogue says.
    ///
    /// What is wrong with disks is put right first: it would go with them.
    pub(super) fn exchange_disks(&mut self, mut strike: Strike, one: ProcessId) {
        let nodes = self.cluster.nodes();
        let others: Vec<ProcessId> = nodes.iter().copied().filter(|node| *node != one).collect();
        let Some(other) = strike.chance.pick(&others).copied() else { return };
        let moved = if strike.chance.chance(ALL_MOVE) { nodes } else { vec![one, other] };
        // A node without a number is nobody yet.
        let is_its_own = |node: &ProcessId| {
            self.cluster.disk(*node).is_some() && self.cluster.id_of(*node).is_some()
        };
        if !self.operator.is_at_rest() || !moved.iter().all(is_its_own) {
            return;
        }
        let how = if strike.chance.chance(0.3) { Crash::Kill } else { Crash::Power };
        self.cease();
        let names: Vec<String> = moved.iter().map(|node| self.cluster.name(*node)).collect();
        strike.says(format_args!("{} {how:?}", names.join(", ")));
        for node in &moved {
            self.cluster.crash(*node, how);
            self.checkers.crashed(*node);
        }
        self.later.retain(|(_, what)| !matches!(what, Later::MustHaveStopped(..)));
        for pair in moved.windows(2) {
            if let [one, other] = *pair {
                self.exchange(one, other);
            }
        }
        moved.into_iter().for_each(|node| self.after(&mut strike, 6_000, Later::Start(node)));
    }

    fn exchange(&mut self, one: ProcessId, other: ProcessId) {
        self.cluster.exchange_disks(one, other);
        self.checkers.exchanged(one, other);
        let swap = |node| swapped(node, (one, other));
        self.fragile = self.fragile.map(swap);
        self.spare = self.spare.map(swap);
        let rotten = std::mem::take(&mut self.rotten).into_iter();
        self.rotten = rotten.map(|(node, digest)| (swap(node), digest)).collect();
    }

    /// Somebody copies a node's directory and starts a second process on it.
    pub(super) fn copied_directory(&mut self, strike: Strike, node: ProcessId) {
        if self.cluster.disk(node).is_none() {
            return;
        }
        let Some(copy) = self.cluster.add_copy(node, &strike.chance) else { return };
        strike.says(format_args!("of {}", self.cluster.name(node)));
        self.cluster.start_node(copy);
        self.due(REFUSED_LIMIT, Later::MustBeRefused(copy));
    }

    pub(super) fn must_be_refused(&self, process: ProcessId) {
        let world = self.cluster.world();
        if world.is_up(process) {
            let text = format!("{} runs on a copied directory", self.cluster.name(process));
            world.violation("identity", text);
            world.crash(process, Crash::Kill);
        } else if self.cluster.end(process) == Some(End::Refused) {
            trace::count("checked.copies_refused", 1);
        }
    }
}
