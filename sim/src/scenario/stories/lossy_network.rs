//! Three of ten packets are lost in all directions. TCP sends each again, so messages arrive late.
//! Production's HTTP/2 runs over it. Writes and reads continue, and no node starts an election.

use std::time::Duration;

use tokio::time::Instant;

use super::stage::{Stage, Told};
use crate::net::LinkPolicy;
use crate::trace;
use crate::world::World;

const LOSS: f64 = 0.3;
/// A put of a few segments ends within this time. The slowest of 32 took 9 s.
const PUT_MAX: Duration = Duration::from_secs(20);
const PUTS: u64 = 6;

pub async fn story(world: World) -> Told {
    world.net().speak_http2();
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let leadership = stage.leadership().await?;
    let lossy = LinkPolicy { loss: LOSS, bytes_per_s: 20_000_000, ..LinkPolicy::default() };
    stage.world.net().set_policy(lossy);
    for step in 2..2 + PUTS {
        let began = Instant::now();
        stage.put(step).await?;
        let took = began.elapsed();
        trace::event("c1", "does", format_args!("step {step} took {took:?}"));
        if took > PUT_MAX {
            return Err(format!("put of step {step} took {took:?}"));
        }
    }
    stage.read_all().await?;
    if stage.leadership().await? != leadership {
        return Err("leadership moved, though every message arrived".to_owned());
    }
    stage.world.net().set_policy(LinkPolicy::default());
    stage.close().await
}
