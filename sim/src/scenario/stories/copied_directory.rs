//! A node's directory is copied, and a second process is started on the copy under another address.
//! It ends by itself, and the original is not affected.

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let putting = stage.begin_put(2)?;
    stage.until_put(&putting, 30).await?;
    let original = stage.node(1);
    let before = stage.cluster.running_node(original).map(|node| node.life());
    let copy = stage.cluster.add_copy(original, &stage.chance).ok_or("nothing to copy")?;
    stage.cluster.start_node(copy);
    stage.ended(copy).await?;
    stage.finish_put(putting).await?;
    stage.settled().await?;
    if stage.cluster.running_node(original).map(|node| node.life()) != before {
        stage.world.violation("identity", "a copied directory ended the original");
    }
    stage.close().await
}
