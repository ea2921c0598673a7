//! One block of a segment is damaged on one node, another block on the second, and the third has
//! lost its file. No node has a good replica, but every block is good on some node. Readers
//! continue by mixing sources, also from quarantine. Repair does the same, until all three are
//! sound again.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

const BLOCKS: usize = 6;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put_blocks(1, BLOCKS).await?;
    stage.settled().await?;
    let [first, second, third] = [0, 1, 2].map(|place| stage.node(place));
    let digest = stage.durable_on(first, BLOCKS)?;
    stage.crash(third, Crash::Power);
    stage.vanish(third, digest)?;
    stage.rot_block(first, digest, 1)?;
    stage.rot_block(second, digest, 4)?;
    // The first reader makes both nodes notice the damage. The others read the remaining good
    // blocks.
    for _ in 0..3 {
        stage.read_all().await?;
    }
    stage.cluster.start_node(third);
    stage.close().await
}
