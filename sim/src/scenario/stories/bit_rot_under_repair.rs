//! A node is gone for so long that its replicas are made again elsewhere. Meanwhile one of the two
//! sources is damaged. No wrong byte is copied or read, and in the end all replicas are sound.

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

/// Longer than the time after which a silent node's replicas are replaced.
const GONE: Duration = Duration::from_secs(45);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    for step in 1..4 {
        stage.put(step).await?;
    }
    stage.settled().await?;
    let (gone, rotten) = (stage.node(1), stage.node(2));
    stage.crash(gone, Crash::Power);
    stage.rot(rotten)?;
    tokio::time::sleep(GONE).await;
    stage.read_all().await?;
    stage.cluster.start_node(gone);
    stage.settled().await?;
    stage.scrub(rotten).await?;
    stage.close().await
}
