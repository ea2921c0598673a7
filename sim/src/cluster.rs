//! A cluster of real nodes and real clients in a [`World`], and what a scenario does to it in
//! words: start, crash, who leads, has it converged.
//!
//! A simulated node's `main` is in `node_main.rs`; what is expected of nodes in `expected.rs`; what
//! they had acknowledged in `acknowledged.rs`; what a cluster has still to do in `settled.rs`.

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
use crate::world::{Seat, Spec, World};

/// How often a scenario looks whether something has come about.
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

    /// Which life of its process this is.
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
    /// Who each process was when it started last: what its disk says.
    ids: BTreeMap<ProcessId, NodeId>,
    /// When two nodes came back on each other's hosts last.
    exchanged: Option<Instant>,
    /// Processes that start on an empty disk into a cluster that is there.
    newcomers: BTreeSet<ProcessId>,
    /// Whose place processes take whose disk was lost.
    replaces: BTreeMap<ProcessId, NodeId>,
    /// Feature levels of processes that run an older build.
    levels: BTreeMap<ProcessId, u32>,
    /// Processes whose next start is with an older build, by mistake.
    mistaken: BTreeMap<ProcessId, u32>,
    /// The first node is told to make a cluster though its disk was lost.
    careless: bool,
    /// Nodes whose disk is not to be looked at.
    hidden: BTreeSet<ProcessId>,
    /// Nodes on whose disks a fault was put that may well end them, and until when; for ever if
    /// that is not said.
    excused: BTreeMap<ProcessId, Option<Instant>>,
    /// Why processes ended that ended by themselves, the last time.
    ends: BTreeMap<ProcessId, End>,
    /// A node that is not expected to be in service.
    left_out: Option<ProcessId>,
    /// It is up, and what it holds counts.
    left_out_counts: bool,
    /// Of each node, when it was last cleanly up; for what the checkers want to know.
    acknowledged: BTreeMap<ProcessId, Acknowledged>,
    /// What each node has told its clients it holds, in which file, since its last end; after that,
    /// what of it was in its place then.
    stored: BTreeMap<ProcessId, BTreeMap<SegmentDigest, u64>>,
    /// How far each node had applied when it was last seen.
    applied: BTreeMap<ProcessId, u64>,
    /// Its times are so many times what is usual here.
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

    /// The first node makes the cluster, unless it is there already.
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
    /// A newcomer found nobody to join.
    NobodyAnswers,
    Told,
    Other,
}

impl Cluster {
    /// No nodes yet. Its times are `pace` times what is usual here.
    pub fn empty(world: &World, pace: u64) -> Self {
        let inner = Inner { pace, ..Inner::default() };
        Self { world: world.clone(), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Defines one node a rack name; the first makes the cluster, the others join it. None runs
    /// yet.
    pub fn define(world: &World, racks: &[&str]) -> Self {
        let cluster = Self::empty(world, 1);
        for rack in racks {
            cluster.add_node(rack, 0);
        }
        cluster
    }

    /// Its times are so many times what is usual here.
    pub fn pace(&self) -> u32 {
        self.inner.lock().pace as u32
    }

    /// Defines one node more, whose wall clock is off by so much. It does not run yet.
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
        let boot = move |seat: Seat| {
            let (mut config, owner) = (config.clone(), owner.clone());
            async move {
                let Some(inner) = owner.upgrade() else { return };
                {
                    let mut inner = inner.lock();
                    config.origin = inner.origin(seat.id, &config.address);
                    config.replaces = inner.replaces.get(&seat.id).copied();
                    let mistaken = inner.mistaken.remove(&seat.id);
                    let level = mistaken.or_else(|| inner.levels.get(&seat.id).copied());
                    config.feature_level = level.unwrap_or(config.feature_level);
                    if matches!(config.origin, Origin::Bootstrap(_)) {
                        config.peers = inner.addresses.clone();
                        config.peers.retain(|address| *address != config.address);
                    }
                }
                run_node(seat, config, inner).await;
            }
        };
        self.world.add(Spec { wall_skew_ms, ..Spec::new(name, rack, boot) })
    }

    /// Defines a process on a copy of a node's data directory, under an address of its own. It
    /// does not run yet, and is not counted among the nodes.
    pub fn add_copy(&self, of: ProcessId, chance: &Stream) -> Option<ProcessId> {
        let disk = self.world.disk(of)?;
        // A directory that says nothing of itself is an empty one, wherever it came from.
        disk.peek(IDENTITY_FILE)?;
        let name = format!("{}-copy", disk.name);
        let process = self.add_process(&name, "r1", 0);
        // The same build is started on it.
        let level = self.inner.lock().levels.get(&of).copied();
        level.into_iter().for_each(|level| self.set_feature_level(process, level));
        self.world.replace_disk(process, disk.copy(&name, process.0, chance));
        self.excuse(process);
        Some(process)
    }

    /// Looks at a node's disk no more: it is not the node's own just now.
    pub fn hide_disk(&self, process: ProcessId) {
        self.inner.lock().hidden.insert(process);
    }

    pub fn show_disk(&self, process: ProcessId) {
        self.inner.lock().hidden.remove(&process);
    }

    /// Ends a node that shall come back with an empty disk, as a new member.
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

    /// `--bootstrap` stays in the first node's configuration, whatever becomes of its disk.
    pub fn leave_bootstrap_in(&self, careless: bool) {
        self.inner.lock().careless = careless;
    }

    /// Gives two nodes that are down each other's disk: from now on each is who the other was,
    /// elsewhere.
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
        // The build goes with the disk: the cluster may count on what its node said last.
        exchange(&mut inner.levels, one, other);
    }

    /// Whether nodes were on other hosts within this time.
    pub fn exchanged_within(&self, time: Duration) -> bool {
        self.inner.lock().exchanged.is_some_and(|at| at.elapsed() <= time)
    }

    /// No longer one of the nodes, whether it runs or not; its disk is of no interest.
    pub fn retire(&self, process: ProcessId) {
        let mut inner = self.inner.lock();
        inner.nodes.retain(|node| *node != process);
        inner.excused.insert(process, None);
        inner.hidden.insert(process);
    }

    /// Takes a running node for dead although it is not; another life may take its place.
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

    /// Tells a running node to stop, as its supervisor would. It ends when it is ready.
    pub fn stop(&self, process: ProcessId) {
        if let Some(running) = self.running_node(process) {
            running.stop.notify_one();
        }
    }

    /// Ends a node, and notes what it had acknowledged.
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

    /// The node that leads, of the highest term if several think so.
    pub fn leader(&self) -> Option<Running> {
        let running = self.running().into_iter();
        let leaders = running.filter(|running| running.shared.member.consensus.is_leader());
        leaders.max_by_key(|running| running.shared.member.consensus.term())
    }

    /// Defines and starts a client's process; its tasks are spawned on the seat's life.
    pub fn client(&self, name: &str, rack: &str) -> ProcessId {
        let idle = |_| std::future::pending::<()>();
        let process = self.world.add(Spec::new(name, rack, idle));
        self.world.start(process);
        process
    }

    /// The SDK in the current life of a client's process.
    pub fn sdk(&self, process: ProcessId) -> Option<(Seat, Client)> {
        let seat = self.world.seat(process)?;
        let client = sdk(&seat, &self.addresses());
        Some((seat, client))
    }

    /// Of all nodes, running or not.
    pub fn addresses(&self) -> Vec<String> {
        self.inner.lock().addresses.clone()
    }

    /// Waits until `holds` says nothing is amiss; else what was amiss last.
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
pub fn sdk(seat: &Seat, addresses: &[String]) -> Client {
    let mut options = ClientOptions::new(addresses.iter().cloned());
    options.rack = Some(seat.rack.clone());
    Client::new(seat.env.clone(), options)
}

/// Whose place a process has when these two have exchanged theirs.
pub fn swapped(process: ProcessId, (one, other): (ProcessId, ProcessId)) -> ProcessId {
    match process {
        _ if process == one => other,
        _ if process == other => one,
        _ => process,
    }
}

/// Swaps what a map says of two processes.
pub fn exchange<V>(map: &mut BTreeMap<ProcessId, V>, one: ProcessId, other: ProcessId) {
    let (first, second) = (map.remove(&one), map.remove(&other));
    map.extend(first.map(|first| (other, first)));
    map.extend(second.map(|second| (one, second)));
}
