//! The only file of a segment is moved to quarantine from outside. Its node finds it missing and
//! has no source to copy it from. An operator restores it by a command, and the checkpoint is
//! complete again.

use std::time::Duration;

use tokio::time::sleep;

use super::stage::{Stage, Told};
use crate::world::World;

const BLOCKS: usize = 3;
/// By then the node has found its file missing, and its attempts to copy it have failed.
const LOST_FOR: Duration = Duration::from_secs(20);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.policy.replicas = Some(1);
    stage.policy.write_quorum = Some(1);
    stage.policy.min_racks = Some(1);
    stage.put_blocks(1, BLOCKS).await?;
    stage.settled().await?;
    let mut found = None;
    for process in stage.cluster.nodes() {
        found = found.or(stage.durable_on(process, BLOCKS).ok().map(|digest| (process, digest)));
    }
    let (process, digest) = found.ok_or("no node has the segment")?;
    stage.move_aside(process, digest)?;
    stage.pause(2_000).await;
    // A reader or the node's own check may find the loss before the operator acts, or may not.
    if stage.chance.chance(0.5) {
        stage.scrub(process).await?;
        sleep(LOST_FOR).await;
    }
    stage.put_back(process, digest).await?;
    stage.close().await
}
