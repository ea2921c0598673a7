//! The first node loses its disk, and its configuration still says to create a cluster. It does not
//! create a second one, because its peers answer. When it is told to join, it comes back as a new
//! member.

use super::stage::{Stage, Told};
use crate::cluster::End;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let node = stage.node(0);
    let lost = stage.node_id(node)?;
    stage.cluster.hide_disk(node);
    stage.cluster.excuse(node);
    stage.wipe(node);
    stage.cluster.leave_bootstrap_in(true);
    stage.cluster.start_node(node);
    stage.ended(node).await?;
    if stage.cluster.end(node) != Some(End::Refused) {
        stage.world.violation("identity", "a second cluster was made at an address of the first");
    }
    stage.read_all().await?;
    stage.cluster.leave_bootstrap_in(false);
    stage.cluster.start_node(node);
    stage.remove(lost).await?;
    stage.settled().await?;
    stage.cluster.excuse_no_more(node);
    stage.cluster.show_disk(node);
    stage.close().await
}
