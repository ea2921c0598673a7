//! An operator asks a node to restore a segment whose file there is damaged, and leaves before the
//! answer. By then the check has moved the file to quarantine, or is about to. The slot must be
//! given up in any case.

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::world::World;

const TRIES: u32 = 12;
/// Longer than a check of one segment takes.
const PATIENCE_MAX_US: u64 = 30_000;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put_blocks(1, 2).await?;
    stage.settled().await?;
    let process = stage.cluster.nodes()[0];
    for _ in 0..TRIES {
        let digest = stage.durable_on(process, 2)?;
        stage.rot_block(process, digest, 1)?;
        let patience = Duration::from_micros(stage.chance.range(500..PATIENCE_MAX_US));
        stage.put_back_and_leave(process, digest, patience).await?;
        stage.pause(1_000).await;
        stage.has_file_or_no_slot(process, digest)?;
        // If the operator left too early, no node has noticed the damage yet.
        stage.scrub(process).await?;
        stage.settled().await?;
    }
    stage.close().await
}
