//! A node that has just voted is cut off before it hears the result, and is removed. It knows no
//! leader that could tell it so. It asks its peers, and ends.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    stage.crash(leader, Crash::Power);
    stage.until(|stage| stage.voting().is_some()).await?;
    let away = stage.voting().ok_or("nobody votes")?;
    let lost = stage.node_id(away)?;
    stage.world.net().isolate(away);
    stage.cluster.start_node(leader);
    stage.cluster.retire(away);
    stage.remove(lost).await?;
    stage.until_forgotten(lost).await?;
    stage.world.net().heal();
    stage.ended(away).await?;
    stage.close().await
}
