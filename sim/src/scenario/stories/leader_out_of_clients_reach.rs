//! Clients and the leader cannot reach each other, but all nodes can. Writes continue: another node
//! forwards each command to the leader.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{Stage, Told};
use crate::world::World;

/// Time limit for a put of a few segments. Before commands were forwarded, no put ended at all.
const PUT_MAX: Duration = Duration::from_secs(30);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    stage.world.net().partition(&[stage.client()], &[leader]);
    for step in 2..5 {
        let began = Instant::now();
        stage.put(step).await?;
        let took = began.elapsed();
        if took > PUT_MAX {
            return Err(format!("put of step {step} took {took:?}"));
        }
    }
    stage.read_all().await?;
    if stage.leader().await? != leader {
        return Err("leadership moved, so nothing was passed on".to_owned());
    }
    if stage.commands_forwarded() == 0 {
        return Err("no command was passed on".to_owned());
    }
    stage.world.net().heal();
    stage.close().await
}
