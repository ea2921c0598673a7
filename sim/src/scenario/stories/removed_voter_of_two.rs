//! Of two nodes only one votes. That node is removed: its vote goes to the other, and all data
//! stays readable.

use cairn_types::command::Accept;
use cairn_types::model::PolicyChange;

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2"]).await?;
    stage.policy = PolicyChange {
        replicas: Some(2),
        write_quorum: Some(1),
        min_racks: Some(1),
        ..PolicyChange::default()
    };
    stage.put(1).await?;
    stage.settled().await?;
    let voter = stage.leader().await?;
    let gone = stage.node_id(voter)?;
    stage.cluster.retire(voter);
    stage.remove_with(gone, Accept { fewer_hosts: true, data_loss: false }).await?;
    stage.ended(voter).await?;
    stage.put(2).await?;
    stage.close().await
}
