//! One follower's disk takes a hundred times as long. A put needs two replicas and does not wait
//! for the third.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{Stage, Told};
use crate::world::World;

/// The slow disk alone would take longer than this.
const PUT_LIMIT: Duration = Duration::from_secs(5);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    let leader = stage.leader().await?;
    let follower = (0..3).map(|place| stage.node(place)).find(|node| *node != leader);
    let disk = follower.and_then(|node| stage.cluster.disk(node)).ok_or("no follower")?;
    disk.set_slow(100.0);
    for step in 1..5 {
        let began = Instant::now();
        stage.put(step).await?;
        if began.elapsed() > PUT_LIMIT {
            return Err(format!("put of step {step} took {:?}", began.elapsed()));
        }
    }
    stage.read_all().await?;
    disk.heal();
    stage.close().await
}
