//! A leader that is cut off writes entries that no other node has. When it is back, it replaces
//! them with its successor's entries and loses power. After that none of its own entries is in its
//! log.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

/// More entries than its successor writes in that time.
const ENTRIES: u64 = 200;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    let node = stage.cluster.running_node(leader).ok_or("the leader is down")?;
    let last = || node.shared.member.consensus.status().last_log.unwrap_or(0);
    let before = last();
    let others: Vec<_> = stage.cluster.nodes().into_iter().filter(|it| *it != leader).collect();
    stage.world.net().partition(&[leader], &others);
    let asked: Vec<_> = (100..100 + ENTRIES).map(|step| stage.ask_to_begin(step, 1)).collect();
    stage.until(|_| last() >= before + ENTRIES).await?;
    for asked in asked {
        asked?.abort();
    }
    let tail = last();
    stage.until(|stage| stage.cluster.leader().is_some_and(|it| it.process != leader)).await?;
    stage.pause(500).await;
    stage.world.net().heal();
    stage.until(|_| last() < tail).await?;
    stage.pause(100).await;
    stage.crash(leader, Crash::Power);
    stage.cluster.start_node(leader);
    stage.put(2).await?;
    stage.close().await
}
