//! All nodes are down. One comes back on a copy of its disk from before its last registration, so
//! it has lost a term in which it led. It must not help to elect a node without the entries
//! committed in that term.

use std::time::Duration;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

const HAND_OVER: Duration = Duration::from_secs(2);
/// How long both are up before the third one starts.
const ALONE: Duration = Duration::from_secs(20);

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    let (away, other, old) = (stage.node(0), stage.node(1), stage.node(2));
    stage.put(1).await?;
    stop(&stage, old).await?;
    let disk = stage.cluster.disk(old).ok_or("no disk")?;
    let image = disk.image(&stage.chance);
    stage.cluster.start_node(old);
    stage.settled().await?;
    stage.put(2).await?;

    // Two nodes know the following: the last term, in which `old` leads, and step 3.
    stop(&stage, away).await?;
    stage.put(3).await?;
    while stage.leader().await? != other {
        hand_over(&stage, old).await?;
    }
    stop(&stage, other).await?;
    stage.crash(old, Crash::Kill);

    stage.cluster.hide_disk(old);
    stage.cluster.excuse(old);
    stage.world.replace_disk(old, image);
    stage.cluster.start_node(old);
    stage.cluster.start_node(away);
    tokio::time::sleep(ALONE).await;
    stage.cluster.start_node(other);
    stage.ended(old).await?;
    stage.read_all().await?;

    stage.cluster.excuse_no_more(old);
    stage.cluster.take_acknowledged(old);
    stage.world.replace_disk(old, disk);
    stage.cluster.show_disk(old);
    stage.crash(old, Crash::Kill);
    stage.cluster.start_node(old);
    stage.close().await
}

async fn stop(stage: &Stage, node: crate::process::ProcessId) -> Told {
    stage.cluster.stop(node);
    stage.ended(node).await?;
    stage.crash(node, Crash::Kill);
    Ok(())
}

async fn hand_over(stage: &Stage, from: crate::process::ProcessId) -> Told {
    let node = stage.cluster.running_node(from).ok_or("the node is down")?;
    node.shared.member.consensus.hand_over(HAND_OVER).await;
    Ok(())
}
