//! A replica is damaged, and no client reads it. A node dies for good, and its replacement copies
//! from the damaged replica. It notices, uses another source, and tells the node, which makes its
//! replica again. In the end every byte is sound.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    for step in 1..4 {
        stage.put(step).await?;
    }
    stage.settled().await?;
    let (rotten, dead) = (stage.node(0), stage.node(2));
    let digest = stage.durable_on(rotten, 0)?;
    stage.rot_block(rotten, digest, 0)?;
    let lost = stage.node_id(dead)?;
    stage.crash(dead, Crash::Power);
    stage.cluster.retire(dead);
    let newcomer = stage.cluster.add_node("r3", 0);
    stage.cluster.start_node(newcomer);
    stage.remove(lost).await?;
    stage.close().await
}
