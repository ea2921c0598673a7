//! Replicas rot that nobody reads. Each is found by its node's scrub within a cycle, is kept as
//! evidence, and is made again from a good one, also while nodes lose power (L3).

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

const CYCLE: Duration = Duration::from_secs(60);
/// A cycle, with room for a start, a fetch and a plan that was made too early.
const LIMIT: Duration = Duration::from_secs(90);
const ROUNDS: u64 = 4;

pub async fn story(world: World) -> Told {
    let racks = ["r1", "r2", "r3"];
    let mut stage = Stage::open_with(world, &racks, |cluster| cluster.set_scrub(CYCLE)).await?;
    for step in 1..4 {
        stage.put(step).await?;
    }
    stage.settled().await?;
    for round in 0..ROUNDS {
        let place = stage.chance.below(racks.len() as u64) as usize;
        let node = stage.node(place);
        let rotten = stage.rot_one(node)?;
        if round % 2 == 1 {
            stage.pause(20_000).await;
            stage.crash(node, Crash::Power);
            stage.pause(2_000).await;
            stage.cluster.start_node(node);
        }
        if !stage.has_another_file(node, rotten, LIMIT).await? {
            let text = format!("segment {} is bad for {LIMIT:?}, and no scrub found it", rotten.0);
            stage.world.violation("L3", text);
            return Ok(());
        }
        stage.settled().await?;
    }
    stage.close().await
}
