//! A follower's disk becomes full in the middle of a put. The put ends on the other nodes, the
//! follower continues to vote, and when it has room again it gets its replicas.

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    let follower = (0..3).map(|place| stage.node(place)).find(|node| *node != leader);
    let follower = follower.ok_or("no follower")?;
    let disk = stage.cluster.disk(follower).ok_or("no disk")?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 30).await?;
    disk.set_capacity(Some(disk.bytes_used()));
    stage.finish_put(putting).await?;
    stage.put(3).await?;
    stage.read_all().await?;
    if !stage.world.is_up(follower) {
        stage.world.violation("fatal", "a node ended because its disk is full");
    }
    disk.set_capacity(None);
    stage.close().await
}
