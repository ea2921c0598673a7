//! A follower's disk stops answering for half an hour, without an error. The node reports this,
//! ends, and is replaced. Puts continue. When its disk answers again, it is a member again.

use std::time::Duration;

use tokio::time::sleep;

use super::stage::{Stage, Told};
use crate::world::World;

const HUNG_FOR: Duration = Duration::from_secs(30 * 60);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r3"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    let hung = stage.another_than(leader)?;
    stage.hang_disk(hung)?;
    stage.put(2).await?;
    stage.ended(hung).await?;
    stage.cluster.leave_out(Some(hung));
    stage.settled_without_one().await?;
    stage.put(3).await?;
    sleep(HUNG_FOR).await;
    stage.read_all().await?;
    stage.recover_disk(hung)?;
    stage.cluster.leave_out(None);
    stage.close().await
}
