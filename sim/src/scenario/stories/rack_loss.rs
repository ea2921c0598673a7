//! A rack of two nodes loses power. Earlier checkpoints can be read, and new puts get the two racks
//! they need. When the rack is back, everything has three replicas again.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1", "r2"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 40).await?;
    let rack = [stage.node(0), stage.node(3)];
    rack.iter().for_each(|node| stage.crash(*node, Crash::Power));
    stage.finish_put(putting).await?;
    stage.put(3).await?;
    stage.read_all().await?;
    rack.iter().for_each(|node| stage.cluster.start_node(*node));
    stage.close().await
}
