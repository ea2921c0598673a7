//! The files of one segment are deleted from outside on two running nodes, and no client reads it.
//! Both nodes find the loss by themselves and copy the segment again, so that nothing is lost with
//! the third node.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    for step in 1..4 {
        stage.put(step).await?;
    }
    stage.settled().await?;
    let digest = stage.durable_on(stage.node(0), 0)?;
    for place in [0, 1] {
        stage.vanish(stage.node(place), digest)?;
    }
    stage.settled().await?;
    stage.crash(stage.node(2), Crash::Power);
    stage.read_all().await?;
    stage.cluster.start_node(stage.node(2));
    stage.close().await
}
