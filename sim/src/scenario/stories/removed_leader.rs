//! The leader is cut off. The others elect another leader and remove it. When it is reachable
//! again, it still regards itself as the leader. It is told of its removal, and ends.

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put(1).await?;
    let old = stage.leader().await?;
    let lost = stage.node_id(old)?;
    stage.world.net().isolate(old);
    stage.cluster.retire(old);
    stage.remove(lost).await?;
    stage.until_forgotten(lost).await?;
    stage.world.net().heal();
    stage.ended(old).await?;
    stage.close().await
}
