//! A node dies for good in the middle of a put. A new node replaces it, the dead one is removed,
//! and everything has three replicas again.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 50).await?;
    let dead = stage.node(2);
    let lost = stage.node_id(dead)?;
    stage.crash(dead, Crash::Power);
    stage.cluster.retire(dead);
    stage.finish_put(putting).await?;
    let newcomer = stage.cluster.add_node("r3", 0);
    stage.cluster.start_node(newcomer);
    stage.remove(lost).await?;
    stage.put(3).await?;
    stage.close().await
}
