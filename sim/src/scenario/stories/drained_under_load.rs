//! The leader is drained while clients write. It dies in the middle of it, and so does its
//! successor. The drain goes on all the same: the vote and every replica move to other nodes, and
//! no read or write fails. Then the node is removed, and nothing is lost with it.

use cairn_types::command::{Accept, NewDuty};
use cairn_types::ids::NodeId;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r1"]).await?;
    stage.put_blocks(1, 8).await?;
    stage.put(2).await?;
    stage.settled().await?;
    let leader = stage.leader().await?;
    let node = stage.node_id(leader)?;
    // Slow enough that the drain takes seconds.
    stage.set_speed(2_000_000);
    stage.set_duty(node, NewDuty::Drain).await?;
    let putting = stage.begin_put_blocks(3, 6)?;
    stage.pause(1_500).await;
    stage.crash(leader, Crash::Power);
    stage.pause(1_000).await;
    stage.cluster.start_node(leader);
    let successor = stage.leader().await?;
    stage.pause(3_000).await;
    stage.crash(successor, Crash::Power);
    stage.pause(1_000).await;
    stage.cluster.start_node(successor);
    stage.finish_put(putting).await?;
    stage.put(4).await?;
    // L3: it ends. A new put in the meantime put nothing on it: see `check_step`.
    stage.until_drained(node).await?;
    stage.until_no_voter(node).await?;
    stage.read_all().await?;
    // No flag is needed: nobody else lacks a replica for it.
    stage.cluster.retire(leader);
    stage.remove_with(node, Accept::default()).await?;
    stage.ended(leader).await?;
    stage.put(5).await?;
    stage.close().await
}

impl Stage {
    /// Until the node has no replica of a segment in use.
    async fn until_drained(&self, node: NodeId) -> Told {
        self.waited(|catalogue| {
            let in_use = catalogue.segments().iter().filter(|segment| segment.is_referenced());
            let left = in_use.filter(|segment| segment.live_slot_on(node).is_some()).count();
            (left > 0).then(|| format!("{left} segments are left on node {node}"))
        })
        .await
        .map_err(|text| format!("L3: a drain does not end: {text}"))
    }

    async fn until_no_voter(&self, node: NodeId) -> Told {
        self.until_not_voting(node).await.map_err(|text| format!("L3: {text}"))
    }
}
