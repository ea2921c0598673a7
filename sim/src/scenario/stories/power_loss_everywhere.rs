//! All nodes lose power at once in the middle of a put. When they are back, the put continues, and
//! all data acknowledged before is there.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    let percent = stage.chance.below(100);
    stage.until_put(&putting, percent).await?;
    let nodes = stage.cluster.nodes();
    nodes.iter().for_each(|node| stage.crash(*node, Crash::Power));
    stage.pause(5_000).await;
    for node in nodes {
        stage.cluster.start_node(node);
        stage.pause(1_000).await;
    }
    stage.finish_put(putting).await?;
    stage.close().await
}
