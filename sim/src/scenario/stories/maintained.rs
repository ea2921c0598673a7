//! A node in maintenance is down for much longer than a replica is waited for: nobody makes its
//! replicas. Once the maintenance is over they are made, as those of any node that stays down.

use std::time::Duration;

use cairn_types::command::NewDuty;
use tokio::time::sleep;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

/// A node is given up 33 s after its end.
const AWAY: Duration = Duration::from_secs(90);
const MAINTENANCE: Duration = Duration::from_secs(100);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put_blocks(1, 6).await?;
    stage.put(2).await?;
    stage.settled().await?;
    let leader = stage.leader().await?;
    let away = stage.another_than(leader)?;
    let node = stage.node_id(away)?;
    let for_ms = MAINTENANCE.as_millis() as u64;
    stage.set_duty(node, NewDuty::Maintain { for_ms }).await?;
    let before = stage.slots_elsewhere(node);
    stage.crash(away, Crash::Power);
    sleep(AWAY).await;
    let after = stage.slots_elsewhere(node);
    if before != after {
        return Err(format!(
            "L3: {before} replicas became {after} while node {node} was in maintenance"
        ));
    }
    // The same without maintenance, and so the reason why nothing happened before.
    sleep(MAINTENANCE).await;
    let made = stage.slots_elsewhere(node);
    if made <= before {
        return Err(format!("L1: {before} replicas are still {made} after the maintenance"));
    }
    stage.cluster.start_node(away);
    stage.close().await
}
