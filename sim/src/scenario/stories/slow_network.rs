//! The one-way delay between members is 200 ms, plus or minus 50. The leader keeps its leadership,
//! and puts commit.

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::net::LinkPolicy;
use crate::world::World;

/// In this time there were four elections with timings for a fast network.
const WATCHED: Duration = Duration::from_secs(60);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let delay_us = 150_000..250_000;
    stage.world.net().set_policy(LinkPolicy { delay_us, ..LinkPolicy::default() });
    // Calls that began at the old speed have ended.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (leader, term) = stage.leadership().await?;
    tokio::time::sleep(WATCHED).await;
    stage.put(2).await?;
    stage.put(3).await?;
    stage.read_all().await?;
    if stage.leadership().await? != (leader, term) {
        return Err(format!("an election after term {term}, though nothing failed"));
    }
    stage.world.net().set_policy(LinkPolicy::default());
    stage.close().await
}
