//! A node dies for good, and another one is up but cannot write segments (EIO, read-only). It
//! declines its new replicas, and the others make them. So it does not block repair (L4). When its
//! disk works again, it is a normal node.

use super::stage::{Stage, Told};
use crate::disk::{Crash, Fault, On};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r3", "r3"]).await?;
    for step in 1..5 {
        stage.put(step).await?;
    }
    stage.settled().await?;
    let (stuck, dead) = (stage.node(3), stage.node(2));
    let lost = stage.node_id(dead)?;
    let disk = stage.cluster.disk(stuck).ok_or("no disk")?;
    let refuse = |on| Fault { prefix: "tmp/".to_owned(), on, probability: 1.0, times: None };
    disk.add_fault(refuse(On::Write));
    disk.add_fault(refuse(On::Names));
    stage.crash(dead, Crash::Power);
    stage.cluster.retire(dead);
    stage.remove(lost).await?;
    stage.without(stuck).await?;
    if !stage.world.is_up(stuck) {
        stage.world.violation("fatal", "a node ended because its disk cannot be written");
    }
    disk.heal();
    stage.put(5).await?;
    stage.close().await
}
