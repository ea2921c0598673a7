//! One of three voters is cut off. The removal of another voter is refused, because one voter of
//! two is no majority. The removal of the cut-off voter is allowed. The node that stayed continues
//! to serve.

use cairn_types::command::{Accept, Refusal};

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    stage.settled().await?;
    let leader = stage.leader().await?;
    let lost = stage.another_than(leader)?;
    let (dead, leads) = (stage.node_id(lost)?, stage.node_id(leader)?);
    stage.world.net().isolate(lost);
    let all = Accept { fewer_hosts: true, data_loss: true };
    // The cluster may not know yet that a node is cut off. The missing answers are enough.
    stage.pause(4_000).await;
    match stage.is_refused(leads, all).await? {
        Refusal::NoMajority { up: 1, voters: 2, .. } => {}
        other => return Err(format!("refused for another reason: {other}")),
    }
    stage.put(2).await?;
    stage.cluster.retire(lost);
    stage.remove_with(dead, all).await?;
    stage.world.net().heal();
    stage.ended(lost).await?;
    stage.close().await
}
