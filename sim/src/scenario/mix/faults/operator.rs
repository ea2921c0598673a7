//! What an operator does: nodes come, nodes go, dead ones are replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::Client;
use cairn_types::command::{Accept, NewDuty};
use cairn_types::ids::NodeId;
use cairn_types::model::Admin;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{Faults, Later, Strike};
use crate::cluster::Cluster;
use crate::disk::Crash;
use crate::process::ProcessId;
use crate::trace;

/// Nodes at a time, at the most and the least.
const NODES_MAX: usize = 6;
const NODES_MIN: usize = 3;
/// The operator tries again after this.
const AGAIN: Duration = Duration::from_millis(700);

/// Removals that are wanted.
#[derive(Default)]
pub struct Operator {
    process: Option<ProcessId>,
    /// Which still are; shared with the operator's tasks.
    wanted: Arc<Mutex<BTreeMap<NodeId, Removal>>>,
    /// How often each node was given another duty.
    duties: Arc<Mutex<BTreeMap<NodeId, u64>>>,
    /// A disk was lost, or a node given up: the promise covers one.
    lost: bool,
}

#[derive(Clone, Copy)]
enum Removal {
    /// The record of a disk that is gone; its process comes back as a new member, or not at all.
    Dead(Option<ProcessId>),
    /// A node that runs, and ends by itself once it is out.
    Live(ProcessId),
}

impl Operator {
    pub(super) fn has_lost_a_disk(&self) -> bool {
        self.lost
    }

    /// Whether this one has lost its disk and has yet to come back.
    pub(super) fn waits_for(&self, process: ProcessId) -> bool {
        let wanted = self.wanted.lock();
        wanted.values().any(|what| matches!(what, Removal::Dead(Some(it)) if *it == process))
    }

    /// Takes the record of a lost disk out of the cluster.
    pub(super) fn replace(
        &mut self,
        cluster: &Cluster,
        old: NodeId,
        comes_back: Option<ProcessId>,
    ) {
        self.remove(cluster, old, Removal::Dead(comes_back));
    }

    fn remove(&mut self, cluster: &Cluster, node: NodeId, what: Removal) {
        self.lost = true;
        self.wanted.lock().insert(node, what);
        let process = *self.process.get_or_insert_with(|| cluster.client("operator", "r1"));
        let Some((parts, sdk)) = cluster.sdk(process) else { return };
        // Nobody comes in the place of one that runs: what wanted a replica on each node has one less.
        let fewer_hosts = matches!(what, Removal::Live(_));
        let accept = Accept { fewer_hosts, ..Accept::default() };
        parts.life.spawn(async move { remove(&sdk, node, accept).await });
    }

    /// Gives a node another duty. What was asked last is what holds in the end: an older task of this
    /// node gives up.
    fn set_duty(&mut self, cluster: &Cluster, node: NodeId, duty: NewDuty) {
        let asked = {
            let mut duties = self.duties.lock();
            let asked = duties.entry(node).or_default();
            *asked += 1;
            *asked
        };
        let process = *self.process.get_or_insert_with(|| cluster.client("operator", "r1"));
        let Some((parts, sdk)) = cluster.sdk(process) else { return };
        let duties = self.duties.clone();
        let is_last = move || duties.lock().get(&node) == Some(&asked);
        parts.life.spawn(async move { set_duty(&sdk, node, duty, is_last).await });
    }

    /// Follows what became of removals, by the catalogue.
    pub(super) fn retire_removed(&mut self, cluster: &Cluster) {
        if self.wanted.lock().is_empty() {
            return;
        }
        let (_, catalogue) = cluster.newest();
        self.wanted.lock().retain(|node, what| {
            if let Removal::Dead(Some(process)) = what
                && cluster.id_of(*process).is_some_and(|newer| newer != *node)
            {
                cluster.show_disk(*process);
                *what = Removal::Dead(None);
            }
            let removed = catalogue.node(*node).is_some_and(|it| it.admin == Admin::Removed);
            let waits = matches!(what, Removal::Dead(Some(_)));
            if !removed || waits {
                return true;
            }
            trace::event("operator", "removed", format_args!("node {node}"));
            trace::count("operator.removed", 1);
            if let Removal::Live(process) = what {
                cluster.retire(*process);
            }
            false
        });
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.wanted.lock().is_empty()
    }

    /// What is not done yet. `None` once all is.
    pub(super) fn unfinished(&self) -> Option<String> {
        let wanted = self.wanted.lock();
        let (node, _) = wanted.iter().next()?;
        Some(format!("node {node} is not removed"))
    }
}

/// Asks until it is done. While the node holds the last copy of something, it is refused.
async fn remove(sdk: &Client, node: NodeId, accept: Accept) {
    loop {
        match sdk.remove_node(node, accept).await {
            Ok(()) => return,
            Err(error) => {
                trace::event("operator", "failed", format_args!("remove node {node}: {error}"));
                trace::count("operator.refused", u64::from(error.refusal().is_some()));
            }
        }
        sleep(AGAIN).await;
    }
}

/// Asks until it is done, refused by the catalogue, or overtaken.
async fn set_duty(sdk: &Client, node: NodeId, duty: NewDuty, is_last: impl Fn() -> bool) {
    while is_last() {
        match sdk.set_duty(node, duty).await {
            Ok(()) => {
                trace::event("operator", "does", format_args!("{duty:?} on node {node}"));
                let counter = match duty {
                    NewDuty::Serve => "operator.serves",
                    NewDuty::Drain => "operator.drains",
                    NewDuty::Maintain { .. } => "operator.maintains",
                };
                trace::count(counter, 1);
                return;
            }
            Err(error) => {
                trace::event("operator", "failed", format_args!("duty of node {node}: {error}"));
                trace::count("operator.refused", u64::from(error.refusal().is_some()));
                // A drain that cannot end now is not asked for again.
                if error.refusal().is_some() {
                    return;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

impl Faults {
    /// One half of the drains go on until the end, when nothing may be left on the node.
    pub(super) fn drain(&mut self, mut strike: Strike, process: ProcessId) {
        let Some(node) = self.cluster.id_of(process) else { return };
        strike.says(format_args!("{}", self.cluster.name(process)));
        self.operator.set_duty(&self.cluster, node, NewDuty::Drain);
        if strike.chance.chance(0.5) {
            self.after(&mut strike, 20_000, Later::Serve(node));
        }
    }

    /// For less time than passes until the calm phase, which waits for nobody.
    pub(super) fn maintain(&mut self, mut strike: Strike, process: ProcessId) {
        let Some(node) = self.cluster.id_of(process) else { return };
        let time = self.plan.paced(Duration::from_millis(strike.chance.range(1_000..7_000)));
        strike.says(format_args!("{} for {time:?}", self.cluster.name(process)));
        let for_ms = time.as_millis() as u64;
        self.operator.set_duty(&self.cluster, node, NewDuty::Maintain { for_ms });
    }

    pub(super) fn serve(&mut self, node: NodeId) {
        self.operator.set_duty(&self.cluster, node, NewDuty::Serve);
    }

    pub(super) fn add_node(&mut self, mut strike: Strike) {
        let rack = format!("r{}", strike.chance.range(1..4));
        if self.cluster.nodes().len() >= NODES_MAX {
            return;
        }
        let process = self.add(&mut strike, &rack);
        strike.says(format_args!("{} in {rack}", self.cluster.name(process)));
        self.cluster.start_node(process);
    }

    fn add(&mut self, strike: &mut Strike, rack: &str) -> ProcessId {
        let skew_ms = self.plan.wall_skew_ms(&mut strike.chance);
        self.cluster.add_node(rack, skew_ms)
    }

    /// The fragile node, while it runs: its copies are void at once, so it counts as a lost disk.
    pub(super) fn remove_node(&mut self, strike: Strike) {
        let Some(process) = self.fragile else { return };
        let name = self.cluster.name(process);
        let Some(node) = self.cluster.id_of(process) else { return };
        if self.operator.lost || self.cluster.nodes().len() <= NODES_MIN {
            return;
        }
        strike.says(format_args!("{name}"));
        (self.fragile, self.spare) = (None, None);
        self.cluster.excuse(process);
        self.operator.remove(&self.cluster, node, Removal::Live(process));
    }

    /// The fragile node dies for good, and another one comes in its place.
    pub(super) fn replace_node(&mut self, mut strike: Strike) {
        let Some(process) = self.fragile else { return };
        let name = self.cluster.name(process);
        let Some(node) = self.cluster.id_of(process) else { return };
        let Some(rack) = self.cluster.world().rack(process) else { return };
        if self.operator.lost {
            return;
        }
        let newcomer = self.add(&mut strike, &rack);
        strike.says(format_args!("{name} by {}", self.cluster.name(newcomer)));
        (self.fragile, self.spare) = (None, Some(newcomer));
        self.cluster.crash(process, Crash::Power);
        self.checkers.crashed(process);
        self.cluster.retire(process);
        self.later.retain(|(_, what)| !matches!(what, Later::Start(it) if *it == process));
        self.operator.replace(&self.cluster, node, None);
        self.after(&mut strike, 6_000, Later::Start(newcomer));
    }

    /// What the operator has not done yet. `None` once all is.
    pub fn operator_unfinished(&self) -> Option<String> {
        self.operator.unfinished()
    }
}
