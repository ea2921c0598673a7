//! Nodes are joined by slow links, and a manifest is very long. The leader does not hold it, and
//! reading it takes longer than any caller waits. The part is sealed, and the manifest is not read
//! again and again.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{Stage, Told};
use crate::net::LinkPolicy;
use crate::world::World;

/// A manifest of two blocks. The first alone takes 8 s, both 14 s.
const FILES: usize = 8_000;
const BYTES_PER_S: u64 = 130_000;
/// The client's own links are fast. A part that takes this long was read by the leader from another
/// node.
const SLOW: Duration = Duration::from_secs(13);
/// The leader does not hold four of five manifests.
const TRIES: u64 = 8;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r4", "r5"]).await?;
    let (replicas, racks) = (Some(1), Some(1));
    stage.policy.replicas = replicas;
    stage.policy.write_quorum = replicas;
    stage.policy.min_racks = racks;
    let nodes = stage.cluster.nodes();
    for from in &nodes {
        for to in nodes.iter().filter(|to| *to != from) {
            let slow = LinkPolicy { bytes_per_s: BYTES_PER_S, ..LinkPolicy::default() };
            stage.world.net().set_link(*from, *to, slow);
        }
    }
    for step in 1..=TRIES {
        let began = Instant::now();
        stage.put_long_names(step, FILES).await?;
        if began.elapsed() >= SLOW {
            return stage.close().await;
        }
    }
    Err(format!("the leader holds each of {TRIES} manifests"))
}
