//! A leader loses both followers. Within seconds it reports that it does not lead, and no node
//! reports itself healthy. When one follower is back, the cluster works again.

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    let lost: Vec<_> = (0..3).map(|place| stage.node(place)).filter(|it| *it != leader).collect();
    lost.iter().for_each(|node| stage.crash(*node, Crash::Power));
    tokio::time::sleep(Duration::from_secs(3)).await;
    if let Some(still) = stage.cluster.leader() {
        return Err(format!("{} leads without a majority", stage.cluster.name(still.process)));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let shared = stage.cluster.running_node(leader).ok_or("the leader is down")?.shared.clone();
    let silence = shared.member.consensus.contact().silence;
    if silence < Duration::from_secs(5) {
        return Err(format!("without a majority for 8 s, it claims to be for {silence:?}"));
    }
    stage.cluster.start_node(lost[0]);
    stage.put(2).await?;
    stage.cluster.start_node(lost[1]);
    stage.close().await
}
