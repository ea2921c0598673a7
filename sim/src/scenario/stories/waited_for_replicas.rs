//! A client waits for all replicas of its put, and a target dies for good in the middle of it.
//! Other hosts are free, so the missing replicas are made there at once. The put ends long before
//! the cluster would give the dead node up.

use std::time::Duration;

use cairn_client::Wait;
use cairn_types::model::SlotState;
use tokio::time::Instant;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::trace;
use crate::world::World;

/// The node is down after 3 s. If no client waits, it is given up after 30 s.
const FULL_MAX: Duration = Duration::from_secs(15);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.wait = Wait::Full { timeout: Duration::from_secs(120) };
    let leader = stage.leader().await?;
    // One of the two nodes that are alone in their racks.
    let target = if stage.node(1) == leader { stage.node(2) } else { stage.node(1) };
    let id = stage.node_id(target)?;
    stage.set_speed(4_000_000);
    let putting = stage.begin_put_blocks(1, 12)?;
    let is_chosen = |stage: &Stage| {
        stage.cluster.newest().1.slots_on(id, SlotState::Assigned).next().is_some()
    };
    stage.until(is_chosen).await?;
    stage.pause(1_000).await;
    stage.crash(target, Crash::Power);
    let began = Instant::now();
    let report = stage.finish_put(putting).await?;
    let took = began.elapsed();
    trace::event("c1", "does", format_args!("waited for {took:?}"));
    if report.full != Some(true) || took > FULL_MAX {
        return Err(format!("after {took:?} all replicas: {:?}", report.full));
    }
    stage.cluster.start_node(target);
    stage.close().await
}
