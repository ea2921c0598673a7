//! Every node is stopped and started in turn, each in the middle of a put. The next one follows
//! only when the previous one is in service again.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    for place in 0..3 {
        let putting = stage.begin_put(place as u64 + 1)?;
        let percent = stage.chance.below(95);
        stage.until_put(&putting, percent).await?;
        let node = stage.node(place);
        stage.crash(node, Crash::Kill);
        stage.pause(2_000).await;
        stage.cluster.start_node(node);
        stage.finish_put(putting).await?;
        stage.settled().await?;
    }
    stage.close().await
}
