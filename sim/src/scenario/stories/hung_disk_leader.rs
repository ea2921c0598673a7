//! The leader's disk stops answering for half an hour, without an error. Another node soon leads,
//! and puts continue. The old leader ends, and comes back when its disk answers again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::stage::{Stage, Told};
use crate::world::World;

const HUNG_FOR: Duration = Duration::from_secs(30 * 60);
/// The time until the disk counts as hung, plus an election.
const MOVES_WITHIN: Duration = Duration::from_secs(8);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let hung = stage.leader().await?;
    stage.hang_disk(hung)?;
    let since = Instant::now();
    let putting = stage.begin_put(2)?;
    let leads = |stage: &Stage| {
        stage.cluster.leader().is_some_and(|leader| leader.process != hung)
    };
    stage.until(leads).await?;
    if since.elapsed() > MOVES_WITHIN {
        return Err(format!("leadership moved only after {:?}", since.elapsed()));
    }
    stage.finish_put(putting).await?;
    stage.ended(hung).await?;
    sleep(HUNG_FOR).await;
    stage.put(3).await?;
    stage.recover_disk(hung)?;
    stage.close().await
}
