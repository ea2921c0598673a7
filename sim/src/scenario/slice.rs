//! The product's promise on one page: three nodes in three racks, a put, a second put in whose
//! middle the leader loses power, and both checkpoints come back byte for byte.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use cairn_client::{GetOptions, MemorySink, MemorySource, Progress, PutOptions};
use cairn_core::ids::{Address, Selector, Step};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::checkers::Checkers;
use crate::checkpoint_files::{self, Files};
use crate::cluster::Cluster;
use crate::disk::Crash;
use crate::net::LinkPolicy;
use crate::process::ProcessId;
use crate::trace;
use crate::world::World;

const RACKS: [&str; 3] = ["r1", "r2", "r3"];
const NAMESPACE: &str = "llama/pretrain";
/// Any one step of the story ends within this virtual time.
const STEP_LIMIT: Duration = Duration::from_secs(120);

pub fn play(world: World) -> BoxFuture<'static, ()> {
    async move {
        if let Err(text) = story(&world).await {
            world.violation("L2", text);
        }
    }
    .boxed()
}

async fn story(world: &World) -> Result<(), String> {
    let mut chance = world.stream("slice");
    let cluster = Cluster::define(world, &RACKS);
    let checkers = Checkers::watch(&cluster);
    // Slow enough that a crash finds bytes on the way.
    world.net().set_policy(LinkPolicy { bytes_per_s: 20_000_000, ..LinkPolicy::default() });
    cluster.start();
    cluster.wait(STEP_LIMIT, Cluster::unsettled).await.map_err(|text| format!("start: {text}"))?;
    let client = cluster.client("c1", "r1");

    let first = checkpoint_files::checkpoint(&mut chance, 5);
    finish(put(&cluster, client, 1000, &first, Arc::default())?, "first put").await?;
    let second = checkpoint_files::checkpoint(&mut chance, 6);
    let progress = Arc::<Progress>::default();
    let putting = put(&cluster, client, 2000, &second, progress.clone())?;
    let victim = strike_the_leader(&cluster, &mut chance, &progress).await?;
    checkers.crashed(victim);
    tokio::time::sleep(Duration::from_millis(chance.range(100..6_000))).await;
    cluster.start_node(victim);
    finish(putting, "second put").await?;

    for (step, files) in [(1000, &first), (2000, &second)] {
        compare(&cluster, client, step, files).await?;
    }
    cluster
        .wait(STEP_LIMIT, Cluster::unsettled)
        .await
        .map_err(|text| format!("catch up: {text}"))?;
    checkers.finish().await;
    for (step, files) in [(1000, &first), (2000, &second)] {
        compare(&cluster, client, step, files).await?;
    }
    Ok(())
}

/// Cuts the leader's power in the middle of the put, wherever the seed says that is.
async fn strike_the_leader(
    cluster: &Cluster,
    chance: &mut crate::seed::Stream,
    progress: &Progress,
) -> Result<ProcessId, String> {
    let percent = chance.below(90);
    let in_job = chance.chance(0.5);
    for _ in 0..STEP_LIMIT.as_millis() {
        let total = progress.bytes_total.load(Relaxed);
        let far = total > 0 && progress.bytes_acked.load(Relaxed) * 100 >= total * percent;
        let leader = cluster.leader();
        if far && let Some(leader) = leader {
            let busy = cluster.disk(leader.process).is_some_and(|disk| disk.jobs_in_flight() > 0);
            if busy || !in_job {
                cluster.crash(leader.process, Crash::Power);
                return Ok(leader.process);
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err("no moment to strike came".to_owned())
}

fn address(step: u64) -> Result<Address, String> {
    let namespace = NAMESPACE.parse().map_err(|error| format!("{error}"))?;
    Ok(Address { namespace, selector: Selector::Step(Step(step)) })
}

fn put(
    cluster: &Cluster,
    client: ProcessId,
    step: u64,
    files: &Files,
    progress: Arc<Progress>,
) -> Result<JoinHandle<Result<(), String>>, String> {
    let (seat, sdk) = cluster.sdk(client).ok_or("the client is down")?;
    let source = MemorySource::new(files.clone()).map_err(|error| error.to_string())?;
    let mut options = PutOptions::new(address(step)?.namespace, Step(step));
    options.progress = progress;
    Ok(seat.life.spawn(async move {
        let report = sdk.put(Arc::new(source), options).await.map_err(|error| error.to_string())?;
        trace::event("c1", "put", format_args!("step {step}: {:?}", report.outcome));
        trace::count("client.puts", 1);
        Ok(())
    }))
}

async fn compare(
    cluster: &Cluster,
    client: ProcessId,
    step: u64,
    files: &Files,
) -> Result<(), String> {
    let (seat, sdk) = cluster.sdk(client).ok_or("the client is down")?;
    let (sink, address) = (Arc::new(MemorySink::default()), address(step)?);
    let into = sink.clone();
    let getting = seat.life.spawn(async move {
        sdk.get(&address, into, GetOptions::default()).await.map_err(|error| error.to_string())
    });
    let what = format!("get of step {step}");
    finish(getting, &what).await?;
    trace::count("client.gets", 1);
    let got: Files = sink.files().into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    if got != *files {
        cluster.world().violation("D5", format!("{what} returned other bytes than were put"));
    }
    Ok(())
}

async fn finish<T>(task: JoinHandle<Result<T, String>>, what: &str) -> Result<T, String> {
    match tokio::time::timeout(STEP_LIMIT, task).await {
        Ok(Ok(result)) => result.map_err(|text| format!("{what}: {text}")),
        Ok(Err(error)) => Err(format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: no end after {STEP_LIMIT:?}")),
    }
}
