//! A node loses its disk and starts on an empty one. It is a new member and gets its replicas from
//! the others, and the record of the lost disk can be removed.

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 50).await?;
    let node = stage.node(stage.chance.clone().below(3) as usize);
    let lost = stage.node_id(node)?;
    stage.cluster.hide_disk(node);
    stage.wipe(node);
    stage.finish_put(putting).await?;
    stage.read_all().await?;
    stage.cluster.start_node(node);
    stage.remove(lost).await?;
    stage.settled().await?;
    if stage.node_id(node)? == lost {
        stage.world.violation("identity", "a wiped node came back under its old number");
    }
    stage.cluster.show_disk(node);
    stage.close().await
}
