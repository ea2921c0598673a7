//! A node comes back and registers, and is removed before the log tells it so. Consensus sends
//! nothing more to it. It asks the cluster, and ends.

use std::time::Duration;

use tokio::time::sleep;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    let away = stage.another_than(leader)?;
    let lost = stage.node_id(away)?;
    let incarnation = stage.incarnation(lost);
    stage.crash(away, Crash::Power);
    stage.put(2).await?;
    stage.cluster.start_node(away);
    stage.until(|stage| stage.incarnation(lost) != incarnation).await?;
    let disk = stage.world.disk(away).ok_or("no disk")?;
    // It hears that it is registered, but cannot store the log.
    disk.set_stuck(true);
    sleep(Duration::from_millis(100)).await;
    stage.world.net().isolate(away);
    stage.cluster.retire(away);
    stage.remove(lost).await?;
    stage.until_forgotten(lost).await?;
    disk.set_stuck(false);
    stage.world.net().heal();
    stage.ended(away).await?;
    stage.close().await
}
