//! A node loses power each time it has just made a snapshot: while records of its audit may be
//! waiting for their sync. After its restart the audit has all of them, because the snapshot waited
//! too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_client::Annotation;
use cairn_types::model::Metric;

use super::stage::{Stage, Told, address, finish};
use crate::disk::Crash;
use crate::process::ProcessId;
use crate::world::World;

const ROUNDS: u64 = 4;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    for round in 0..ROUNDS {
        let leader = stage.leader().await?;
        let node = stage.another_than(leader)?;
        let stop = Arc::<AtomicBool>::default();
        let annotating = annotate_until(&stage, round, Arc::clone(&stop))?;
        let before = snapshot(&stage, node);
        // With an annotation in nearly every entry there is always a record that is not durable,
        // unless the snapshot waits for it.
        stage.until(|stage| snapshot(stage, node) > before).await?;
        stage.crash(node, Crash::Power);
        stop.store(true, Ordering::Relaxed);
        finish(annotating, "annotations").await?;
        stage.cluster.start_node(node);
        // The leader may not have noticed that it was away.
        stage.until(|stage| is_back(stage, node)).await?;
        stage.settled().await?;
    }
    stage.close().await
}

/// Whether the node's new process is in service and has applied what the leader has.
fn is_back(stage: &Stage, node: ProcessId) -> bool {
    let Some(running) = stage.cluster.running_node(node) else { return false };
    let applied = stage.cluster.leader().map(|leader| leader.shared.member.consensus.applied());
    running.shared.this.incarnation().is_some()
        && applied.is_some_and(|applied| running.shared.member.consensus.applied() >= applied)
}

/// The last entry in the node's snapshot.
fn snapshot(stage: &Stage, node: ProcessId) -> Option<u64> {
    let running = stage.cluster.running_node(node)?;
    running.shared.member.consensus.status().snapshot
}

fn annotate_until(
    stage: &Stage,
    round: u64,
    stop: Arc<AtomicBool>,
) -> Told<tokio::task::JoinHandle<Told>> {
    let (parts, sdk) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let address = address(1)?;
    Ok(parts.life.spawn(async move {
        for value in 0_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let metric = Metric::new(f64::from(value)).ok_or("no number")?;
            let metrics = [(format!("round-{round}"), metric)].into();
            let change = Annotation { metrics, ..Annotation::default() };
            let annotated = sdk.annotate(&address, change).await;
            annotated.map_err(|error| format!("annotate: {error}"))?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }))
}
