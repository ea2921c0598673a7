//! Two steps of one run are saved at once. The later step finishes first, and only the newest is
//! kept. The late commit does not push out the checkpoint that began after it, nor the other way
//! round. The next step pushes out both.

use cairn_types::model::PolicyChange;

use super::stage::{Stage, Told};
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.policy = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    stage.put(1).await?;
    // The large one takes eight seconds.
    stage.set_speed(2_000_000);
    let large = stage.begin_put_blocks(2, 16)?;
    stage.pause(1_000).await;
    let small = stage.begin_put_blocks(3, 1)?;
    stage.finish_put(small).await?;
    if stage.has(2) {
        return Err("step 2 was through first: the saves do not overlap".to_owned());
    }
    stage.until_let_go(1).await?;
    stage.finish_put(large).await?;
    stage.settled().await?;
    for step in [2, 3] {
        if !stage.has(step) {
            return Err(format!("step {step} was let go, though it is the newest in one way"));
        }
    }
    stage.read_all().await?;
    stage.put(4).await?;
    stage.until_let_go(2).await?;
    stage.until_let_go(3).await?;
    stage.close().await
}
