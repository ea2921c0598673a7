//! A checkpoint is deleted, and then deleted once more without its running grace. Its space is
//! freed early, even after a change of leader, and the other checkpoint stays complete. No node
//! keeps statistics of destroyed segments.

use cairn_node::ledger::Ledger;
use cairn_types::model::CheckpointState;
use tokio::time::{Duration, Instant};

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    stage.put(2).await?;
    stage.settled().await?;
    stage.read_all().await?;
    stage.delete(1, false).await?;
    let began = Instant::now();
    let waits_for_its_grace = |stage: &Stage| {
        let (_, catalogue) = stage.cluster.newest();
        let mut deleted = catalogue.checkpoints().filter(|it| it.state == CheckpointState::Deleted);
        deleted.next().is_some_and(|it| it.reference_count() > 0)
    };
    stage.until(waits_for_its_grace).await?;
    let (_, catalogue) = stage.cluster.newest();
    let deleted = catalogue.checkpoints().filter(|it| it.state == CheckpointState::Deleted);
    let segments = deleted.flat_map(|it| it.references()).filter_map(|id| catalogue.segment(id));
    // Segments that the other checkpoint has too must stay.
    let own = segments.filter(|it| it.references.iter().map(|(_, count)| count).sum::<u32>() == 1);
    let freed: Vec<_> = own.map(|segment| segment.digest).collect();
    let reads = |stage: &Stage| -> u64 {
        let reads_on = |ledger: &dyn Ledger| freed.iter().map(|it| ledger.reads(*it)).sum::<u64>();
        stage.cluster.running().iter().map(|it| reads_on(&*it.shared.replicas.ledger)).sum()
    };
    if reads(&stage) == 0 {
        return Err("no read of the deleted checkpoint is in a ledger".to_owned());
    }
    let leader = stage.leader().await?;
    stage.crash(leader, Crash::Power);
    stage.cluster.start_node(leader);
    stage.free_deleted(1).await?;
    stage.forget(1);
    let is_gone = |stage: &Stage| {
        let (_, catalogue) = stage.cluster.newest();
        catalogue.unreferenced().next().is_none()
            && catalogue.checkpoints().all(|it| it.state == CheckpointState::Committed)
            && catalogue.segments().iter().all(|segment| !segment.reaped)
    };
    stage.until(is_gone).await?;
    stage.until(|stage| reads(stage) == 0).await?;
    let (_, catalogue) = stage.cluster.newest();
    let grace = Duration::from_millis(catalogue.cluster().settings.grace_ms);
    match began.elapsed() {
        took if took >= grace => Err(format!("the space came back after {took:?} only")),
        _ => stage.close().await,
    }
}
