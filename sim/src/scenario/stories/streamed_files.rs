//! Two writers add files to one open-ended upload, write names again, discard and remove, while the
//! leader loses power. Nobody sees it before it is closed. Then it has exactly the last version of each
//! name, and refers to nothing else.

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3", "r4"]).await?;
    stage.put(1).await?;
    let attempt = 7;
    let mut one = stage.open_upload(2, attempt).await?;
    let mut two = stage.open_upload(2, attempt).await?;
    for name in ["model/a", "model/b", "optimizer", "notes"] {
        stage.write_file(&mut one, name, 2).await?;
    }
    // The other writer replaces the file of the first, and the first its own.
    stage.write_file(&mut two, "model/a", 1).await?;
    stage.write_file(&mut one, "optimizer", 3).await?;
    stage.discard_file(&mut two, "model/b", 2).await?;
    let leader = stage.leader().await?;
    stage.crash(leader, Crash::Power);
    stage.write_file(&mut one, "model/b", 1).await?;
    stage.write_file(&mut two, "notes", 1).await?;
    stage.cluster.start_node(leader);
    stage.remove_file(&mut two, "notes").await?;
    // Staged, and never finished.
    stage.leave_file(&mut two, "model/a", 2).await?;
    if stage.has(2) {
        return Err("step 2 is there before it was closed".to_owned());
    }
    stage.close_upload(2, one).await?;
    stage.read_all().await?;
    drop(two);
    stage.close().await
}
