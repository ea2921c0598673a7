//! A cluster of real nodes and real clients in a [`World`], and a scenario's operations on it in
//! words: start, crash, find the leader, check convergence.
//!
//! `node_main.rs` has a simulated node's `main`. `expected.rs` has the expectations about nodes.
//! `acknowledged.rs` has the state that they had acknowledged. `settled.rs` has the cluster's
//! remaining work.

mod acknowledged;
mod expected;
mod node_main;
mod settled;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Client, ClientOptions};
use cairn_core::catalogue::Catalogue;
use cairn_node::config::Origin;
use cairn_node::identity::IDENTITY_FILE;
use cairn_node::node::Node;
use cairn_node::shared::Shared;
use cairn_types::ids::{NodeId, SegmentDigest};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use self::acknowledged::Acknowledged;
pub(crate) use self::node_main::DISK_END_MS;
use self::node_main::{config, run_node, settings};
use crate::disk::{Crash, SimDisk};
use crate::process::{Life, ProcessId};
use crate::seed::Stream;
use crate::trace;
use crate::witness;
use crate::world::{ProcessParts, Spec, World};

/// Period of a scenario's checks of a condition.
const LOOK: Duration = Duration::from_millis(100);

/// A running node, for scenarios and checkers to look into.
#[derive(Clone)]
pub struct Running {
    pub process: ProcessId,
    pub name: Arc<str>,
    pub shared: Arc<Shared>,
    pub(crate) life: Arc<Life>,
    stop: Arc<Notify>,
    /// Keeps the assembly alive.
    _node: Arc<Node>,
}

impl Running {
    pub fn catalogue(&self) -> Catalogue {
        self.shared.member.copy()
    }

    /// The number of this process's life.
    pub fn life(&self) -> u32 {
        self.life.number
    }
}

/// Cheap to clone; all clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    world: World,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    nodes: Vec<ProcessId>,
    addresses: Vec<String>,
    running: BTreeMap<ProcessId, Running>,
    /// The node of each process at its last start, as its disk says.
    ids: BTreeMap<ProcessId, NodeId>,
    /// The last time two nodes came back on each other's hosts.
    exchanged: Option<Instant>,
    /// Processes that start on an empty disk into an existing cluster.
    newcomers: BTreeSet<ProcessId>,
    /// The nodes that processes replace because their disk was lost.
    replaces: BTreeMap<ProcessId, NodeId>,
    /// Feature levels of processes that run an older build.
    levels: BTreeMap<ProcessId, u32>,
    /// Nodes read each replica again within this time, milliseconds; zero: never.
    scrub_ms: u64,
    /// Processes whose next start uses an older build by mistake.
    mistaken: BTreeMap<ProcessId, u32>,
    /// The first node is told to create a cluster although its disk was lost.
    careless: bool,
    /// Nodes whose disk must not be checked.
    hidden: BTreeSet<ProcessId>,
    /// Nodes with a disk fault that may end them, and the end of the fault. Without a time it has
    /// no end.
    excused: BTreeMap<ProcessId, Option<Instant>>,
    /// Why processes ended by themselves, the last time.
    ends: BTreeMap<ProcessId, End>,
    /// A node that is not expected to be in service.
    left_out: Option<ProcessId>,
    /// It is up, and its replicas count.
    left_out_counts: bool,
    /// The state of each node when it was last cleanly up, for the checkers.
    acknowledged: BTreeMap<ProcessId, Acknowledged>,
    /// The segments that each node has acknowledged to its clients since its last end, with their
    /// files. After an end, those of them that were in place then.
    stored: BTreeMap<ProcessId, BTreeMap<SegmentDigest, u64>>,
    /// The last applied index of each node.
    applied: BTreeMap<ProcessId, u64>,
    /// The cluster's times are this many times the usual ones.
    pace: u64,
    /// The catalogue of the highest applied index that was seen.
    newest: (u64, Catalogue),
}

impl Inner {
    fn see(&mut self, running: &Running) {
        let applied = running.shared.member.consensus.applied();
        self.applied.insert(running.process, applied);
        if applied > self.newest.0 {
            self.newest = (applied, running.catalogue());
            witness::knows(&self.newest.1);
        }
    }

    /// The first node creates the cluster, unless it exists already.
    fn origin(&self, process: ProcessId, address: &str) -> Origin {
        let newcomer = self.newcomers.contains(&process) && !self.careless;
        if self.nodes.first() == Some(&process) && !newcomer {
            return Origin::Bootstrap(settings(self.pace));
        }
        Origin::Join(self.addresses.iter().filter(|it| *it != address).cloned().collect())
    }
}

/// How a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It must not come back on this directory.
    Refused,
    /// A newcomer found no node to join.
    NobodyAnswers,
    Told,
    Other,
}

impl Cluster {
    /// Has no nodes yet. Its times are `pace` times the usual ones.
    pub fn empty(world: &World, pace: u64) -> Self {
        let inner = Inner { pace, ..Inner::default() };
        Self { world: world.clone(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Defines one node for each rack name. The first creates the cluster, and the others join it.
    /// No node runs yet.
    pub fn define(world: &World, racks: &[&str]) -> Self {
        let cluster = Self::empty(world, 1);
        for rack in racks {
            cluster.add_node(rack, 0);
        }
        cluster
    }

    /// The cluster's times are this many times the usual ones.
    pub fn pace(&self) -> u32 {
        self.inner.lock().pace as u32
    }

    /// From their next start on, nodes read each replica again within this time.
    pub fn set_scrub(&self, within: Duration) {
        self.inner.lock().scrub_ms = within.as_millis() as u64;
    }

    /// Defines one more node, with this offset of its wall clock. It does not run yet.
    pub fn add_node(&self, rack: &str, wall_skew_ms: i64) -> ProcessId {
        let name = format!("n{}", self.inner.lock().addresses.len() + 1);
        let process = self.add_process(&name, rack, wall_skew_ms);
        let mut inner = self.inner.lock();
        inner.nodes.push(process);
        inner.addresses.push(format!("{name}:7100"));
        process
    }

    fn add_process(&self, name: &str, rack: &str, wall_skew_ms: i64) -> ProcessId {
        let config = config(name, rack, self.inner.lock().pace);
        let owner = Arc::downgrade(&self.inner);
        let boot = move |parts: ProcessParts| {
            let (mut config, owner) = (config.clone(), owner.clone());
            async move {
                let Some(inner) = owner.upgrade() else { return };
                {
                    let mut inner = inner.lock();
                    config.origin = inner.origin(parts.id, &config.address);
                    config.replaces = inner.replaces.get(&parts.id).copied();
                    let mistaken = inner.mistaken.remove(&parts.id);
                    let level = mistaken.or_else(|| inner.levels.get(&parts.id).copied());
                    config.feature_level = level.unwrap_or(config.feature_level);
                    config.timings.scrub_ms = inner.scrub_ms;
                    if matches!(config.origin, Origin::Bootstrap(_)) {
                        config.peers = inner.addresses.clone();
                        config.peers.retain(|address| *address != config.address);
                    }
                }
                run_node(parts, config, inner).await;
            }
        };
        self.world.add(Spec { wall_skew_ms, ..Spec::new(name, rack, boot) })
    }

    /// Defines a process on a copy of a node's data directory, with its own address. It does not
    /// run yet and does not count as a node.
    pub fn add_copy(&self, of: ProcessId, chance: &Stream) -> Option<ProcessId> {
        let disk = self.world.disk(of)?;
        // A directory without an identity counts as empty, even if it is a copy.
        disk.peek(IDENTITY_FILE)?;
        let name = format!("{}-copy", disk.name);
        let process = self.add_process(&name, "r1", 0);
        // The copy is started with the same build.
        let level = self.inner.lock().levels.get(&of).copied();
        level.into_iter().for_each(|level| self.set_feature_level(process, level));
        self.world.replace_disk(process, disk.copy(&name, process.0, chance));
        self.excuse(process);
        Some(process)
    }

    /// Stops checking a node's disk, because it is not the node's own at the moment.
    pub fn hide_disk(&self, process: ProcessId) {
        self.inner.lock().hidden.insert(process);
    }

    pub fn show_disk(&self, process: ProcessId) {
        self.inner.lock().hidden.remove(&process);
    }

    /// Ends a node that will come back with an empty disk, as a new member.
    pub fn wipe(&self, process: ProcessId) {
        self.crash(process, Crash::Power);
        let mut inner = self.inner.lock();
        inner.acknowledged.remove(&process);
        inner.stored.remove(&process);
        // A newcomer has the newest build.
        inner.levels.remove(&process);
        if let Some(node) = inner.ids.remove(&process) {
            inner.replaces.insert(process, node);
        }
        inner.newcomers.insert(process);
        drop(inner);
        if let Some(disk) = self.world.disk(process) {
            trace::event(&disk.name, "wipe", format_args!("an empty disk"));
            disk.wipe();
        }
    }

    /// `--bootstrap` stays in the first node's configuration, even after the loss of its disk.
    pub fn leave_bootstrap_in(&self, careless: bool) {
        self.inner.lock().careless = careless;
    }

    /// Gives two nodes that are down each other's disk. From now on each has the other's identity,
    /// on its own host.
    pub fn exchange_disks(&self, one: ProcessId, other: ProcessId) {
        if !self.world.exchange_disks(one, other) {
            return;
        }
        let mut inner = self.inner.lock();
        inner.exchanged = Some(Instant::now());
        exchange(&mut inner.ids, one, other);
        exchange(&mut inner.excused, one, other);
        exchange(&mut inner.applied, one, other);
        exchange(&mut inner.acknowledged, one, other);
        exchange(&mut inner.stored, one, other);
        // The build moves with the disk, because the cluster relies on the level that the node last
        // reported.
        exchange(&mut inner.levels, one, other);
    }

    /// Whether nodes were on other hosts within this time.
    pub fn exchanged_within(&self, time: Duration) -> bool {
        self.inner.lock().exchanged.is_some_and(|at| at.elapsed() <= time)
    }

    /// It is no longer one of the nodes, and its disk is not checked.
    pub fn retire(&self, process: ProcessId) {
        let mut inner = self.inner.lock();
        inner.nodes.retain(|node| *node != process);
        inner.excused.insert(process, None);
        inner.hidden.insert(process);
    }

    /// Treats a running node as dead. Another life may replace it.
    pub fn abandon(&self, process: ProcessId) -> Option<Arc<Life>> {
        let running = self.running_node(process)?;
        self.note_end(&running);
        self.inner.lock().running.remove(&process);
        self.world.abandon(process)
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    pub fn nodes(&self) -> Vec<ProcessId> {
        self.inner.lock().nodes.clone()
    }

    pub fn start(&self) {
        for process in self.nodes() {
            self.world.start(process);
        }
    }

    pub fn start_node(&self, process: ProcessId) {
        self.world.start(process);
    }

    /// Tells a running node to stop, as its supervisor would. It ends when it is finished.
    pub fn stop(&self, process: ProcessId) {
        if let Some(running) = self.running_node(process) {
            running.stop.notify_one();
        }
    }

    /// Ends a node, and records the state that it had acknowledged.
    pub fn crash(&self, process: ProcessId, how: Crash) {
        if let Some(running) = self.running_node(process) {
            if running.shared.member.consensus.is_leader() {
                trace::count("cluster.leader_crashes", 1);
            }
            self.note_end(&running);
        }
        self.world.crash(process, how);
        self.inner.lock().running.remove(&process);
    }

    /// The name of a process, for traces.
    pub fn name(&self, process: ProcessId) -> String {
        self.world.name(process).unwrap_or_else(|| process.to_string())
    }

    /// The number of the node whose disk this process has, once it has started on it.
    pub fn id_of(&self, process: ProcessId) -> Option<NodeId> {
        self.inner.lock().ids.get(&process).copied()
    }

    /// The process that has this node's disk, whether it runs or not.
    pub fn process_of(&self, node: NodeId) -> Option<ProcessId> {
        let inner = self.inner.lock();
        inner.ids.iter().find(|(_, id)| **id == node).map(|(process, _)| *process)
    }

    /// A node's own disk.
    pub fn disk(&self, process: ProcessId) -> Option<SimDisk> {
        if self.inner.lock().hidden.contains(&process) {
            return None;
        }
        self.world.disk(process)
    }

    /// Nodes whose assembly is complete and whose process lives.
    pub fn running(&self) -> Vec<Running> {
        let inner = self.inner.lock();
        inner.running.values().filter(|running| !running.life.is_over()).cloned().collect()
    }

    pub fn running_node(&self, process: ProcessId) -> Option<Running> {
        let running = self.inner.lock().running.get(&process).cloned();
        running.filter(|running| !running.life.is_over())
    }

    /// The newest catalogue that any node has applied, and its index.
    pub fn newest(&self) -> (u64, Catalogue) {
        self.running().iter().for_each(|running| self.see(running));
        self.inner.lock().newest.clone()
    }

    /// The node that leads. If several believe so, the one with the highest term.
    pub fn leader(&self) -> Option<Running> {
        let running = self.running().into_iter();
        let leaders = running.filter(|running| running.shared.member.consensus.is_leader());
        leaders.max_by_key(|running| running.shared.member.consensus.term())
    }

    /// Defines and starts a client's process; its tasks are spawned on its life.
    pub fn client(&self, name: &str, rack: &str) -> ProcessId {
        let idle = |_| std::future::pending::<()>();
        let process = self.world.add(Spec::new(name, rack, idle));
        self.world.start(process);
        process
    }

    /// The SDK in the current life of a client's process.
    pub fn sdk(&self, process: ProcessId) -> Option<(ProcessParts, Client)> {
        let parts = self.world.parts(process)?;
        let client = sdk(&parts, &self.addresses());
        Some((parts, client))
    }

    /// The addresses of all nodes, running or not.
    pub fn addresses(&self) -> Vec<String> {
        self.inner.lock().addresses.clone()
    }

    /// Waits until `holds` reports no problem. After the deadline returns the last problem.
    pub async fn wait(
        &self,
        limit: Duration,
        mut amiss: impl FnMut(&Self) -> Option<String>,
    ) -> Result<(), String> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            let Some(text) = amiss(self) else { return Ok(()) };
            if tokio::time::Instant::now() >= end {
                return Err(text);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The SDK in a client's process.
pub fn sdk(parts: &ProcessParts, addresses: &[String]) -> Client {
    let mut options = ClientOptions::new(addresses.iter().cloned());
    options.rack = Some(parts.rack.clone());
    Client::new(parts.env.clone(), options)
}

/// The process that has this one's place after these two have exchanged theirs.
pub fn swapped(process: ProcessId, (one, other): (ProcessId, ProcessId)) -> ProcessId {
    match process {
        _ if process == one => other,
        _ if process == other => one,
        _ => process,
    }
}

/// Swaps the entries of two processes in a map.
pub fn exchange<V>(map: &mut BTreeMap<ProcessId, V>, one: ProcessId, other: ProcessId) {
    let (first, second) = (map.remove(&one), map.remove(&other));
    map.extend(first.map(|first| (other, first)));
    map.extend(second.map(|second| (one, second)));
}
