//! The tools of stories: a cluster, a client, and the data that the client has put.

pub mod bodies;
mod disks;
mod marks;
mod retention;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cairn_client::{
    ClientError, GetOptions, GetProgress, MemorySink, MemorySource, Progress, PutOptions,
    PutReport, Wait,
};
use cairn_core::catalogue::Catalogue;
use cairn_types::command::{Accept, FEATURE_LEVEL, NewDuty, Refusal};
use cairn_types::ids::{Address, Incarnation, NodeId, Selector, Step};
use cairn_types::limits::BLOCK_BYTES;
use cairn_types::model::{PolicyChange, Segment};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::checkers::Checkers;
use crate::checkpoint_files::{self, Files};
use crate::cluster::Cluster;
use crate::disk::Crash;
use crate::host::WallClock;
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;
use crate::world::World;

const NAMESPACE: &str = "llama/pretrain";
/// Time limit of each step of a story, in virtual time.
const STEP_LIMIT: Duration = Duration::from_secs(180);

/// Time limit for a reader of a deleted checkpoint to learn of the deletion. It may wait for a
/// block on its way.
const DELETED_LIMIT: Duration = Duration::from_secs(30);

/// The result of a step of a story.
pub type Told<T = ()> = Result<T, String>;

/// Plays a story. A failing step is a broken promise.
pub fn play<F, Fut>(world: World, story: F) -> BoxFuture<'static, ()>
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = Told> + Send,
{
    async move {
        if let Err(text) = story(world.clone()).await {
            // A step may name the promise itself.
            let named = text.split_once(": ").filter(|(id, _)| ["L1", "L3"].contains(id));
            let id = named.map_or("L2", |(id, _)| id).to_owned();
            world.violation(&id, text);
        }
    }
    .boxed()
}

pub struct Stage {
    pub world: World,
    pub cluster: Cluster,
    pub chance: Stream,
    checkers: Checkers,
    client: ProcessId,
    files: BTreeMap<u64, Files>,
    /// Files of steps that retention deleted.
    gone: BTreeMap<u64, Files>,
    /// Files of steps whose open-ended uploads are not closed.
    drafts: BTreeMap<u64, Files>,
    /// The policy of puts from now on.
    pub policy: PolicyChange,
    pub wait: Wait,
}

/// A running get.
pub struct Getting {
    step: u64,
    sink: Arc<MemorySink>,
    progress: Arc<GetProgress>,
    task: JoinHandle<Told<Result<(), ClientError>>>,
}

/// A running put.
pub struct Putting {
    step: u64,
    files: Files,
    progress: Arc<Progress>,
    task: JoinHandle<Told<PutReport>>,
}

impl Stage {
    /// A settled cluster with one node for each rack name, and a client in the last rack.
    pub async fn open(world: World, racks: &[&str]) -> Told<Self> {
        Self::open_at_level(world, racks, FEATURE_LEVEL).await
    }

    /// Like [`Stage::open`], with builds that understand commands up to this level.
    pub async fn open_at_level(world: World, racks: &[&str], level: u32) -> Told<Self> {
        let older = |cluster: &Cluster| {
            cluster.nodes().into_iter().for_each(|node| cluster.set_feature_level(node, level));
        };
        Self::open_with(world, racks, older).await
    }

    /// Like [`Stage::open`], with a cluster that was prepared before its start.
    pub async fn open_with(
        world: World,
        racks: &[&str],
        prepare: impl FnOnce(&Cluster),
    ) -> Told<Self> {
        let cluster = Cluster::define(&world, racks);
        prepare(&cluster);
        let checkers = Checkers::watch(&cluster);
        // Slow enough that a fault finds bytes on the way.
        world.net().set_policy(LinkPolicy { bytes_per_s: 20_000_000, ..LinkPolicy::default() });
        cluster.start();
        let settled = cluster.wait(STEP_LIMIT, Cluster::unsettled).await;
        settled.map_err(|text| format!("start: {text}"))?;
        let client = cluster.client("c1", racks.last().copied().unwrap_or("r1"));
        let chance = world.stream("story");
        let (files, gone, drafts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (policy, wait) = (PolicyChange::default(), Wait::Quorum);
        Ok(Self { world, cluster, chance, checkers, client, files, gone, drafts, policy, wait })
    }

    pub fn node(&self, place: usize) -> ProcessId {
        self.cluster.nodes()[place]
    }

    pub async fn leader(&self) -> Told<ProcessId> {
        let none = |cluster: &Cluster| cluster.leader().is_none().then(|| "no leader".to_owned());
        self.cluster.wait(STEP_LIMIT, none).await?;
        self.cluster.leader().map(|leader| leader.process).ok_or_else(|| "no leader".to_owned())
    }

    pub fn client(&self) -> ProcessId {
        self.client
    }

    pub fn clock(&self, process: ProcessId) -> Told<Arc<WallClock>> {
        self.world.clock(process).ok_or_else(|| "no such process".to_owned())
    }

    /// The sum over all running nodes.
    pub fn commands_forwarded(&self) -> u64 {
        let running = self.cluster.running();
        running.iter().map(|node| node.shared.counters.commands_forwarded.get()).sum()
    }

    /// The leader and its term.
    pub async fn leadership(&self) -> Told<(ProcessId, u64)> {
        let leader = self.leader().await?;
        let node = self.cluster.running_node(leader).ok_or("the leader is down")?;
        Ok((leader, node.shared.member.consensus.term()))
    }

    pub fn another_than(&self, process: ProcessId) -> Told<ProcessId> {
        let mut nodes = self.cluster.nodes().into_iter();
        nodes.find(|node| *node != process).ok_or_else(|| "no other node".to_owned())
    }

    /// A running node that has given its vote and knows no leader.
    pub fn voting(&self) -> Option<ProcessId> {
        let running = self.cluster.running();
        let node = running.iter().find(|node| node.shared.member.consensus.leader().is_none())?;
        Some(node.process)
    }

    /// The incarnation of a node's last registration in the leader's catalogue.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let catalogue = self.cluster.leader()?.catalogue();
        catalogue.node(node).map(|record| record.incarnation)
    }

    /// Waits until a condition is true, with a resolution of a millisecond.
    pub async fn until(&self, mut come: impl FnMut(&Self) -> bool) -> Told {
        for _ in 0..STEP_LIMIT.as_millis() {
            if come(self) {
                return Ok(());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err("what the story waits for does not come about".to_owned())
    }

    pub fn crash(&self, node: ProcessId, how: Crash) {
        self.cluster.crash(node, how);
        self.checkers.crashed(node);
    }

    pub fn wipe(&self, node: ProcessId) {
        self.cluster.wipe(node);
        self.checkers.crashed(node);
    }

    /// Exchanges the disks of two nodes that are down.
    pub fn exchange_disks(&self, one: ProcessId, other: ProcessId) {
        self.cluster.exchange_disks(one, other);
        self.checkers.exchanged(one, other);
    }

    pub async fn pause(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.chance.range(1..most_ms))).await;
    }

    pub async fn put(&mut self, step: u64) -> Told {
        let putting = self.begin_put(step)?;
        self.finish_put(putting).await.map(drop)
    }

    pub fn begin_put(&mut self, step: u64) -> Told<Putting> {
        let tensors = self.chance.range(3..7) as usize;
        let files = checkpoint_files::checkpoint(&mut self.chance, tensors);
        self.begin_put_of(step, files)
    }

    /// Puts one file of this many whole blocks.
    pub async fn put_blocks(&mut self, step: u64, blocks: usize) -> Told {
        let putting = self.begin_put_blocks(step, blocks)?;
        self.finish_put(putting).await.map(drop)
    }

    pub fn begin_put_blocks(&mut self, step: u64, blocks: usize) -> Told<Putting> {
        let bytes = self.chance.bytes(blocks * BLOCK_BYTES as usize);
        let files = Files::from([(b"optimizer.bin".to_vec(), bytes.into())]);
        self.begin_put_of(step, files)
    }

    /// Puts this many small files. Their manifest is longer than their data.
    pub async fn put_long_names(&mut self, step: u64, files: usize) -> Told {
        let files = checkpoint_files::long_names(&mut self.chance, files);
        let putting = self.begin_put_of(step, files)?;
        self.finish_put(putting).await.map(drop)
    }

    fn begin_put_of(&mut self, step: u64, files: Files) -> Told<Putting> {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let source = MemorySource::new(files.clone()).map_err(|error| error.to_string())?;
        let mut options = PutOptions::new(address(step)?.namespace, Step(step));
        options.change = self.policy.clone();
        options.wait = self.wait;
        let progress = Arc::<Progress>::default();
        options.progress = progress.clone();
        trace::event("c1", "does", format_args!("put step {step}"));
        let task = parts.life.spawn(async move {
            let report = sdk.put(Arc::new(source), options).await;
            report.map_err(|error| format!("put of step {step}: {error}"))
        });
        Ok(Putting { step, files, progress, task })
    }

    /// Waits until this percentage of the bytes is acknowledged.
    pub async fn until_put(&self, putting: &Putting, percent: u64) -> Told {
        let far_enough = |_: &Self| {
            let total = putting.progress.bytes_total.load(Relaxed);
            total > 0 && putting.progress.bytes_acked.load(Relaxed) * 100 >= total * percent
        };
        let there = self.until(far_enough).await;
        there.map_err(|_| format!("put of step {} does not get to {percent} %", putting.step))
    }

    pub async fn finish_put(&mut self, putting: Putting) -> Told<PutReport> {
        let Putting { step, files, task, .. } = putting;
        let report = finish(task, "put").await?;
        trace::event("c1", "does", format_args!("has put step {step}"));
        trace::count("client.puts", 1);
        self.files.insert(step, files);
        Ok(report)
    }

    /// Whether this step is committed, by the newest catalogue.
    pub fn has(&self, step: u64) -> bool {
        address(step).is_ok_and(|address| self.cluster.newest().1.resolve(&address).is_ok())
    }

    /// Waits until retention has deleted this step.
    pub async fn until_let_go(&mut self, step: u64) -> Told {
        let gone = self.until(|stage| !stage.has(step)).await;
        self.files.remove(&step);
        gone.map_err(|_| format!("step {step} is kept"))
    }

    /// Reads all data that was put and compares it byte for byte.
    pub async fn read_all(&self) -> Told {
        for (step, files) in &self.files {
            let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
            let (sink, address) = (Arc::new(MemorySink::default()), address(*step)?);
            let into = sink.clone();
            let get = async move {
                let got = sdk.get(&address, into, GetOptions::default()).await;
                got.map(drop).map_err(|error| format!("{error}"))
            };
            finish(parts.life.spawn(get), &format!("get of step {step}")).await?;
            trace::count("client.gets", 1);
            let got = sink.files().into_iter().map(|(name, bytes)| (name, bytes.into()));
            if got.collect::<Files>() != *files {
                let text = format!("step {step} came back as other bytes than were put");
                self.world.violation("D5", text);
            }
        }
        Ok(())
    }

    /// Sets the speed of every link, bytes a second.
    pub fn set_speed(&self, bytes_per_s: u64) {
        self.world.net().set_policy(LinkPolicy { bytes_per_s, ..LinkPolicy::default() });
    }

    /// Starts a get that reads one segment after the other.
    pub fn begin_get(&self, step: u64) -> Told<Getting> {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let (sink, progress) = (Arc::<MemorySink>::default(), Arc::<GetProgress>::default());
        let options =
            GetOptions { parallel: 1, progress: progress.clone(), ..GetOptions::default() };
        let (into, address) = (sink.clone(), address(step)?);
        trace::event("c1", "does", format_args!("get step {step}"));
        let task = parts.life.spawn(async move {
            let got = sdk.get(&address, into, options).await;
            Ok(got.map(drop))
        });
        Ok(Getting { step, sink, progress, task })
    }

    /// Waits until this percentage of the bytes has arrived.
    pub async fn until_got(&self, getting: &Getting, percent: u64) -> Told {
        let far_enough = |_: &Self| {
            let total = getting.progress.bytes_total.load(Relaxed);
            total > 0 && getting.progress.bytes_done.load(Relaxed) * 100 >= total * percent
        };
        let there = self.until(far_enough).await;
        there.map_err(|_| format!("get of step {} does not get to {percent} %", getting.step))
    }

    pub async fn delete(&mut self, step: u64, now: bool) -> Told {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let address = address(step)?;
        let delete = async move {
            let deleted = sdk.delete(&address, now).await;
            deleted.map(drop).map_err(|error| error.to_string())
        };
        finish(parts.life.spawn(delete), &format!("deletion of step {step}")).await
    }

    /// Ends the grace of a step's deleted records.
    pub async fn free_deleted(&mut self, step: u64) -> Told {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let namespace = address(step)?.namespace;
        let free = async move {
            let freed = sdk.free_deleted(&namespace, Step(step)).await;
            freed.map(drop).map_err(|error| error.to_string())
        };
        finish(parts.life.spawn(free), &format!("end of the grace of step {step}")).await
    }

    /// Notes that the step no longer exists.
    pub fn forget(&mut self, step: u64) {
        self.files.remove(&step);
    }

    /// A get of a checkpoint that was deleted meanwhile ends soon, with all bytes or with the true
    /// reason.
    pub async fn finish_get_of_deleted(&mut self, getting: Getting) -> Told {
        let Getting { step, sink, task, .. } = getting;
        let began = Instant::now();
        let ended = finish(task, &format!("get of step {step}")).await?;
        let files = self.files.remove(&step).unwrap_or_default();
        match ended {
            Ok(()) => {
                let got = sink.files().into_iter().map(|(name, bytes)| (name, bytes.into()));
                if got.collect::<Files>() != files {
                    let text = format!("step {step} came back as other bytes than were put");
                    self.world.violation("D5", text);
                }
            }
            Err(ClientError::Deleted { .. }) => trace::count("story.gets_of_deleted", 1),
            Err(error) => return Err(format!("get of step {step}, which was deleted: {error}")),
        }
        match began.elapsed() {
            took if took > DELETED_LIMIT => Err(format!("that was known only after {took:?}")),
            _ => Ok(()),
        }
    }

    pub async fn settled(&self) -> Told {
        self.cluster.wait(STEP_LIMIT, Cluster::unsettled).await
    }

    /// The others make all replicas, while this node, which is up and keeps its replicas, makes
    /// none (L4).
    pub async fn without(&self, process: ProcessId) -> Told {
        self.cluster.leave_out(Some(process));
        self.cluster.count_left_out(true);
        let done = self.cluster.wait(STEP_LIMIT, Cluster::core_unsettled).await;
        self.cluster.leave_out(None);
        self.cluster.count_left_out(false);
        done
    }

    /// The final check: the cluster is settled, every byte is sound, and everything is readable.
    pub async fn close(self) -> Told {
        let settled = self.settled().await;
        settled.map_err(|text| format!("at the end: {text}"))?;
        self.checkers.finish().await;
        self.read_all().await
    }

    /// The node's number.
    pub fn node_id(&self, process: ProcessId) -> Told<NodeId> {
        let id = self.cluster.id_of(process);
        id.ok_or_else(|| format!("{} has no number", self.cluster.name(process)))
    }

    /// An operator removes a node, and repeats the request until the cluster allows it.
    pub async fn remove(&self, node: NodeId) -> Told {
        self.remove_with(node, Accept::default()).await
    }

    pub async fn remove_with(&self, node: NodeId, accept: Accept) -> Told {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let remove = async move {
            while let Err(error) = sdk.remove_node(node, accept).await {
                trace::event("c1", "failed", format_args!("remove node {node}: {error}"));
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        finish(parts.life.spawn(remove), &format!("removal of node {node}")).await
    }

    /// An operator gives a node another duty, and repeats the request until the cluster answers.
    pub async fn set_duty(&self, node: NodeId, duty: NewDuty) -> Told {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let set = async move {
            while let Err(error) = sdk.set_duty(node, duty).await {
                trace::event("c1", "failed", format_args!("duty of node {node}: {error}"));
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        finish(parts.life.spawn(set), &format!("{duty:?} of node {node}")).await
    }

    /// Live slots on other nodes.
    pub fn slots_elsewhere(&self, node: NodeId) -> usize {
        let (_, catalogue) = self.cluster.newest();
        let slots = |segment: &Segment| segment.live_slots().filter(|it| it.node != node).count();
        catalogue.segments().iter().map(slots).sum()
    }

    /// Waits until the newest catalogue gives no reason to wait.
    pub async fn waited(&self, why: impl Fn(&Catalogue) -> Option<String>) -> Told {
        self.cluster.wait(STEP_LIMIT, |cluster| why(&cluster.newest().1)).await
    }

    pub async fn until_not_voting(&self, node: NodeId) -> Told {
        let votes = |cluster: &Cluster| match cluster.leader() {
            None => Some("no leader".to_owned()),
            Some(leader) => {
                let voters = leader.shared.member.consensus.voters();
                voters.contains_key(&node.0).then(|| format!("node {node} votes"))
            }
        };
        self.cluster.wait(STEP_LIMIT, votes).await
    }

    /// An operator asks once to remove a node, and is refused.
    pub async fn is_refused(&self, node: NodeId, accept: Accept) -> Told<Refusal> {
        let (parts, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let asked = async move {
            match sdk.remove_node(node, accept).await {
                Ok(()) => Err("it was not refused".to_owned()),
                Err(error) => error.refusal().cloned().ok_or_else(|| error.to_string()),
            }
        };
        finish(parts.life.spawn(asked), &format!("removal of node {node}")).await
    }

    /// Waits until consensus sends nothing more to a node that was removed.
    pub async fn until_forgotten(&self, node: NodeId) -> Told {
        let told = |cluster: &Cluster| {
            let leader = cluster.leader()?;
            let consensus = &leader.shared.member.consensus;
            let member = consensus.voters().contains_key(&node.0)
                || consensus.learners().contains_key(&node.0);
            (leader.shared.this.id == node || member).then(|| format!("node {node} is a member"))
        };
        self.cluster.wait(STEP_LIMIT, told).await
    }

    /// Waits until a process has ended by itself.
    pub async fn ended(&self, process: ProcessId) -> Told {
        let up = |_: &Cluster| {
            self.world.is_up(process).then(|| format!("{} runs", self.cluster.name(process)))
        };
        self.cluster.wait(STEP_LIMIT, up).await
    }

    /// Everything is repaired, as far as the nodes that are not left out can do it.
    pub async fn settled_without_one(&self) -> Told {
        self.cluster.wait(STEP_LIMIT, Cluster::core_unsettled).await
    }
}

pub fn address(step: u64) -> Told<Address> {
    let namespace = NAMESPACE.parse().map_err(|error| format!("{error}"))?;
    Ok(Address { namespace, selector: Selector::Step(Step(step)) })
}

pub async fn finish<T>(task: JoinHandle<Told<T>>, what: &str) -> Told<T> {
    match timeout(STEP_LIMIT, task).await {
        Ok(Ok(result)) => result.map_err(|text| format!("{what}: {text}")),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no end after {STEP_LIMIT:?}")),
    }
}
