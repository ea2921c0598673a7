//! All bytes are acknowledged. At some point of sealing and committing the leader loses power. The
//! put still completes, exactly once.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 100).await?;
    stage.pause(20).await;
    let leader = stage.leader().await?;
    stage.crash(leader, Crash::Power);
    stage.finish_put(putting).await?;
    stage.read_all().await?;
    stage.cluster.start_node(leader);
    stage.close().await
}
