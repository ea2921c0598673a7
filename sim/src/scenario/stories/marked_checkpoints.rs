//! People and jobs mark important and bad checkpoints while a policy deletes and leaders die. A
//! hold and a ref protect their checkpoints, one of several moves of a ref wins, and after a
//! rollback `latest` is the good one, even if an upload of a later step was in progress.

use cairn_types::command::Refusal;
use cairn_types::ids::Selector;
use cairn_types::model::PolicyChange;
use cairn_types::retention::Extreme;

use super::stage::{Stage, Told, finish};
use crate::disk::Crash;
use crate::world::World;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    kept_by_a_hold(&mut stage).await?;
    moved_by_one_of_three(&mut stage).await?;
    rolled_back(&mut stage).await?;
    stage.release(1, "eval").await?;
    stage.until_let_go(1).await?;
    for step in [4, 5] {
        keeps(&stage, step, "a ref or as the newest good one");
    }
    stage.close().await
}

/// Steps 1 to 4. A rule keeps the newest, and a hold keeps the first.
async fn kept_by_a_hold(stage: &mut Stage) -> Told {
    for step in 1..4 {
        stage.put(step).await?;
    }
    stage.hold(1, "eval", None).await?;
    stage.policy = PolicyChange { keep_last: Some(1), ..PolicyChange::default() };
    stage.put(4).await?;
    stage.until_let_go(2).await?;
    stage.until_let_go(3).await?;
    stage.settled().await?;
    keeps(stage, 1, "a hold");
    Ok(())
}

fn keeps(stage: &Stage, step: u64, by: &str) {
    if !stage.has(step) {
        stage.world.violation("D7", format!("step {step} is gone, though kept by {by}"));
    }
}

/// Three clients move one ref from the same generation; in one round the leader dies.
async fn moved_by_one_of_three(stage: &mut Stage) -> Told {
    let name = "production".parse().map_err(|error| format!("{error}"))?;
    for generation in 0..4 {
        let moves = [1, 4, 4].map(|step| stage.begin_move(&name, step, generation));
        if generation == 2 {
            let leader = stage.leader().await?;
            stage.crash(leader, Crash::Power);
            stage.pause(2_000).await;
            stage.cluster.start_node(leader);
        }
        let mut won = 0;
        for moved in moves {
            match finish(moved?, "move of a ref").await? {
                Ok(()) => won += 1,
                Err(error) if matches!(error.refusal(), Some(Refusal::RefMoved { .. })) => {}
                Err(error) => return Err(format!("move of a ref: {error}")),
            }
        }
        if won != 1 {
            let text = format!("{won} of three moves from generation {generation} were made");
            stage.world.violation("C5", text);
        }
    }
    let moved = finish(stage.begin_move(&name, 4, 4)?, "move of a ref").await?;
    moved.map_err(|error| format!("move of a ref: {error}"))?;
    match stage.resolved(Selector::Ref(name)).await? {
        4 => Ok(()),
        step => Err(format!("the ref names step {step}, not the one it was moved to")),
    }
}

/// Rolls back to step 4. Steps 5 and 6 are committed, and 7 and 8 are being uploaded.
async fn rolled_back(stage: &mut Stage) -> Told {
    stage.policy = PolicyChange::default();
    stage.put(5).await?;
    stage.put(6).await?;
    // The bad checkpoint has the better loss.
    for (step, loss) in [(4, 2.0), (6, 1.0)] {
        stage.annotate(step, "loss", loss).await?;
    }
    stage.set_speed(2_000_000);
    let late = stage.begin_put_blocks(7, 48)?;
    stage.until_put(&late, 5).await?;
    // Retention has deleted step 5 by now.
    let (quarantined, aborted) = stage.roll_back(4).await?;
    if quarantined == 0 || aborted == 0 {
        return Err(format!("{quarantined} in quarantine, {aborted} aborted"));
    }
    names_the_good_one(stage, 4).await?;
    let best = Selector::BestBy("loss".to_owned(), Some(Extreme::Min));
    let step = stage.resolved(best).await?;
    if step != 4 {
        stage.world.violation("C5", format!("the best is step {step}, which is in quarantine"));
    }
    if stage.finish_put(late).await.is_ok() {
        stage.world.violation("C5", "an upload of a later step outlived the rollback");
    }
    // Its first attempt, which no launcher named.
    match stage.begin_attempt(7, 1).await? {
        Err(error) if matches!(error.refusal(), Some(Refusal::RolledBack { .. })) => {}
        other => stage.world.violation("C5", format!("an aborted upload begins again: {other:?}")),
    }
    names_the_good_one(stage, 4).await?;
    let error = stage.get_fails(6).await?;
    if !matches!(error.refusal(), Some(Refusal::Quarantined { .. })) {
        return Err(format!("a get of what is in quarantine: {error}"));
    }
    stage.forget(5);
    stage.forget(6);
    // Training continues and writes the bad steps again.
    for step in [6, 5] {
        stage.put(step).await?;
        names_the_good_one(stage, step).await?;
    }
    stage.until_let_go(6).await
}

async fn names_the_good_one(stage: &Stage, good: u64) -> Told {
    let step = stage.resolved(Selector::Latest).await?;
    if step != good {
        stage.world.violation("C5", format!("latest is step {step}, the newest good one is {good}"));
    }
    Ok(())
}
