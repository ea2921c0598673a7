//! One block of a segment is rotten on one node, another block on the second, and the third has
//! lost its file. No node has a good replica, and every block is good somewhere. Readers go on
//! mixing sources, also out of quarantine, and so does repair, until all three are whole again.

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
    // The first reader makes both nodes find out; the others read what is left.
    for _ in 0..3 {
        stage.read_all().await?;
    }
    stage.cluster.start_node(third);
    stage.close().await
}
