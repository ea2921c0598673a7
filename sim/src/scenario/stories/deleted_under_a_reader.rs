//! A checkpoint is deleted without its grace while a client reads it over a slow network. The
//! reader gets right bytes, or is told soon that it was deleted. It is never told that data is
//! lost.

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    stage.put(2).await?;
    stage.set_speed(200_000);
    let getting = stage.begin_get(1)?;
    stage.until_got(&getting, 20).await?;
    stage.delete(1, true).await?;
    stage.finish_get_of_deleted(getting).await?;
    stage.set_speed(20_000_000);
    stage.close().await
}
