//! What stories are told with: a cluster, a client, and what the client has put.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cairn_client::{GetOptions, MemorySink, MemorySource, Progress, PutOptions};
use cairn_core::ids::{Address, Incarnation, NodeId, Selector, Step};
use cairn_core::model::SlotState;
use cairn_node::upkeep::suspect;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::checkers::Checkers;
use crate::checkpoint_files::{self, Files};
use crate::cluster::Cluster;
use crate::disk::Crash;
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;
use crate::world::World;

const NAMESPACE: &str = "llama/pretrain";
/// Any one step of a story ends within this virtual time.
const STEP_LIMIT: Duration = Duration::from_secs(180);

/// What a step of a story came to.
pub type Told<T = ()> = Result<T, String>;

/// Tells a story; where a step of it fails, that is a broken promise.
pub fn play<F, Fut>(world: World, story: F) -> BoxFuture<'static, ()>
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = Told> + Send,
{
    async move {
        if let Err(text) = story(world.clone()).await {
            world.violation("L2", text);
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
}

/// A put that goes on.
pub struct Putting {
    step: u64,
    files: Files,
    progress: Arc<Progress>,
    task: JoinHandle<Told>,
}

impl Stage {
    /// A settled cluster of one node a rack name, and a client in the last rack.
    pub async fn open(world: World, racks: &[&str]) -> Told<Self> {
        let cluster = Cluster::define(&world, racks);
        let checkers = Checkers::watch(&cluster);
        // Slow enough that a fault finds bytes on the way.
        world.net().set_policy(LinkPolicy { bytes_per_s: 20_000_000, ..LinkPolicy::default() });
        cluster.start();
        let settled = cluster.wait(STEP_LIMIT, Cluster::unsettled).await;
        settled.map_err(|text| format!("start: {text}"))?;
        let client = cluster.client("c1", racks.last().copied().unwrap_or("r1"));
        let chance = world.stream("story");
        Ok(Self { world, cluster, chance, checkers, client, files: BTreeMap::new() })
    }

    pub fn node(&self, place: usize) -> ProcessId {
        self.cluster.nodes()[place]
    }

    pub async fn leader(&self) -> Told<ProcessId> {
        let none = |cluster: &Cluster| cluster.leader().is_none().then(|| "no leader".to_owned());
        self.cluster.wait(STEP_LIMIT, none).await?;
        self.cluster.leader().map(|leader| leader.process).ok_or_else(|| "no leader".to_owned())
    }

    pub fn another_than(&self, process: ProcessId) -> Told<ProcessId> {
        let mut nodes = self.cluster.nodes().into_iter();
        nodes.find(|node| *node != process).ok_or_else(|| "no other node".to_owned())
    }

    /// A running node that has given its vote and knows of no leader.
    pub fn voting(&self) -> Option<ProcessId> {
        let running = self.cluster.running();
        let node = running.iter().find(|node| node.shared.consensus.leader().is_none())?;
        Some(node.process)
    }

    /// Of a node's last registration, as far as any catalogue knows.
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let catalogue = self.cluster.leader()?.catalogue();
        catalogue.node(node).map(|record| record.incarnation)
    }

    /// Waits until something has come about, to the millisecond.
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

    /// Of two nodes that are down.
    pub fn exchange_disks(&self, one: ProcessId, other: ProcessId) {
        self.cluster.exchange_disks(one, other);
        self.checkers.exchanged(one, other);
    }

    pub async fn pause(&mut self, most_ms: u64) {
        sleep(Duration::from_millis(self.chance.range(1..most_ms))).await;
    }

    pub async fn put(&mut self, step: u64) -> Told {
        let putting = self.begin_put(step)?;
        self.finish_put(putting).await
    }

    pub fn begin_put(&mut self, step: u64) -> Told<Putting> {
        let tensors = self.chance.range(3..7) as usize;
        let files = checkpoint_files::checkpoint(&mut self.chance, tensors);
        let (seat, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let source = MemorySource::new(files.clone()).map_err(|error| error.to_string())?;
        let mut options = PutOptions::new(address(step)?.namespace, Step(step));
        let progress = Arc::<Progress>::default();
        options.progress = progress.clone();
        trace::event("c1", "does", format_args!("put step {step}"));
        let task = seat.life.spawn(async move {
            let report = sdk.put(Arc::new(source), options).await;
            report.map(drop).map_err(|error| format!("put of step {step}: {error}"))
        });
        Ok(Putting { step, files, progress, task })
    }

    /// Waits until so much of the bytes is acknowledged.
    pub async fn until_put(&self, putting: &Putting, percent: u64) -> Told {
        let far_enough = |_: &Self| {
            let total = putting.progress.bytes_total.load(Relaxed);
            total > 0 && putting.progress.bytes_acked.load(Relaxed) * 100 >= total * percent
        };
        let there = self.until(far_enough).await;
        there.map_err(|_| format!("put of step {} does not get to {percent} %", putting.step))
    }

    pub async fn finish_put(&mut self, putting: Putting) -> Told {
        let Putting { step, files, task, .. } = putting;
        finish(task, "put").await?;
        trace::event("c1", "does", format_args!("has put step {step}"));
        trace::count("client.puts", 1);
        self.files.insert(step, files);
        Ok(())
    }

    /// Everything that was put comes back byte for byte.
    pub async fn read_all(&self) -> Told {
        for (step, files) in &self.files {
            let (seat, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
            let (sink, address) = (Arc::new(MemorySink::default()), address(*step)?);
            let into = sink.clone();
            let get = async move {
                let got = sdk.get(&address, into, GetOptions::default()).await;
                got.map(drop).map_err(|error| format!("{error}"))
            };
            finish(seat.life.spawn(get), &format!("get of step {step}")).await?;
            trace::count("client.gets", 1);
            let got = sink.files().into_iter().map(|(name, bytes)| (name, bytes.into()));
            if got.collect::<Files>() != *files {
                let text = format!("step {step} came back as other bytes than were put");
                self.world.violation("D5", text);
            }
        }
        Ok(())
    }

    pub async fn settled(&self) -> Told {
        self.cluster.wait(STEP_LIMIT, Cluster::unsettled).await
    }

    /// All is well in the end: settled, every byte sound, everything readable.
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

    /// An operator removes a node, as soon as the cluster lets him.
    pub async fn remove(&self, node: NodeId) -> Told {
        let (seat, sdk) = self.cluster.sdk(self.client).ok_or("the client is down")?;
        let remove = async move {
            while let Err(error) = sdk.remove_node(node).await {
                trace::event("c1", "failed", format_args!("remove node {node}: {error}"));
                sleep(Duration::from_secs(1)).await;
            }
            Ok(())
        };
        finish(seat.life.spawn(remove), &format!("removal of node {node}")).await
    }

    /// Waits until consensus sends nothing more to a node that was removed.
    pub async fn until_forgotten(&self, node: NodeId) -> Told {
        let told = |cluster: &Cluster| {
            let leader = cluster.leader()?;
            let consensus = &leader.shared.consensus;
            let member = consensus.voters().contains_key(&node.0)
                || consensus.learners().contains_key(&node.0);
            (leader.shared.node == node || member).then(|| format!("node {node} is a member"))
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

    /// Flips a bit of some segment that is durable here and on two more nodes.
    pub fn rot(&mut self, process: ProcessId) -> Told {
        let id = self.node_id(process)?;
        let (_, catalogue) = self.cluster.newest();
        let durable = catalogue.slots_on(id, SlotState::Durable);
        let digests: Vec<_> = durable.map(|(segment, _)| segment.digest).collect();
        let digest = *self.chance.pick(&digests).ok_or("nothing is durable here")?;
        let disk = self.cluster.disk(process).ok_or("no disk")?;
        let path = format!("segments/{:02x}/{digest}", digest.0[0]);
        let len = disk.peek(&path).map_or(0, |bytes| bytes.len() as u64);
        self.checkers.hurt(process, digest);
        match disk.flip_bit(&path, self.chance.below(len), 3) {
            true => Ok(()),
            false => Err(format!("{path} has no bytes")),
        }
    }

    /// Reads every replica of a node again, as a scrub would.
    pub async fn scrub(&self, process: ProcessId) -> Told {
        let (id, node) = (self.node_id(process)?, self.cluster.running_node(process));
        let shared = node.ok_or("the node is down")?.shared.clone();
        let (_, catalogue) = self.cluster.newest();
        for (segment, _) in catalogue.slots_on(id, SlotState::Durable) {
            let (shared, digest) = (shared.clone(), segment.digest);
            let check = async move {
                suspect::check(&shared, digest).await.map_err(|error| format!("{error:?}"))
            };
            let seat = self.world.seat(process).ok_or("the node is down")?;
            let bad = finish(seat.life.spawn(check), "scrub").await?;
            trace::count("story.bad_copies_found", bad.into());
        }
        Ok(())
    }
}

fn address(step: u64) -> Told<Address> {
    let namespace = NAMESPACE.parse().map_err(|error| format!("{error}"))?;
    Ok(Address { namespace, selector: Selector::Step(Step(step)) })
}

async fn finish<T>(task: JoinHandle<Told<T>>, what: &str) -> Told<T> {
    match timeout(STEP_LIMIT, task).await {
        Ok(Ok(result)) => result.map_err(|text| format!("{what}: {text}")),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no end after {STEP_LIMIT:?}")),
    }
}
