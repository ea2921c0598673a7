//! A newcomer has received only its id when its disk and the first node's disk come back in each
//! other's place. At the newcomer's new place, the configuration names no node to ask.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let first = stage.node(0);
    let newcomer = stage.cluster.add_node("r1", 0);
    stage.cluster.start_node(newcomer);
    stage.until(|stage| stage.cluster.running_node(newcomer).is_some()).await?;
    stage.crash(newcomer, Crash::Power);
    stage.crash(first, Crash::Power);
    stage.exchange_disks(first, newcomer);
    stage.cluster.start_node(first);
    stage.cluster.start_node(newcomer);
    stage.settled().await?;
    stage.put(2).await?;
    stage.read_all().await?;
    stage.close().await
}
