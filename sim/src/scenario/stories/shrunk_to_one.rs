//! Four of five nodes are removed one after the other, including the leader, until one is left. It
//! leads and has all data.

use cairn_types::command::Accept;
use cairn_types::model::PolicyChange;

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1", "r2"]).await?;
    stage.policy = PolicyChange {
        replicas: Some(2),
        write_quorum: Some(1),
        min_racks: Some(1),
        ..PolicyChange::default()
    };
    for step in 1..5 {
        stage.put(step).await?;
        stage.settled().await?;
        let leader = stage.leader().await?;
        let goes = if stage.chance.below(2) == 0 { leader } else { stage.another_than(leader)? };
        let node = stage.node_id(goes)?;
        stage.cluster.retire(goes);
        stage.remove_with(node, Accept { fewer_hosts: true, data_loss: false }).await?;
        stage.ended(goes).await?;
    }
    stage.put(5).await?;
    stage.close().await
}
