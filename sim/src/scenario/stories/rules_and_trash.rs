//! Twelve checkpoints of two days, and rules that keep the newest of each day. Nothing is deleted
//! before a confirmation, under any leader. Then everything is deleted except the checkpoints that
//! the rules or a hold keep, and the newest good one. A deleted checkpoint is restored completely
//! after a leader died, and stays.

use std::time::Duration;

use cairn_client::{OwnPolicy, PolicyEdit};
use cairn_types::command::Refusal;
use cairn_types::retention::RetentionChange;
use tokio::time::sleep;

use super::stage::{Stage, Told};
use crate::disk::Crash;
use crate::world::World;

const DAY_MS: i64 = 86_400_000;
/// The newest of its day, the one on hold, and the newest of all.
const KEPT: [u64; 3] = [6, 2, 12];

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    for step in 1..=6 {
        stage.put(step).await?;
    }
    for place in [0, 1, 2] {
        stage.clock(stage.node(place))?.jump(DAY_MS);
    }
    // Time for new readings of each voter's clock.
    sleep(Duration::from_secs(5)).await;
    for step in 7..=12 {
        stage.put(step).await?;
    }
    stage.hold(2, "eval", None).await?;
    waits(&mut stage).await?;
    stage.confirm_retention(9).await?;
    let mut let_go = (1..12).filter(|step| !KEPT.contains(step));
    for step in let_go.by_ref() {
        // A checkpoint that is kept at first is not deleted later.
        check_kept(&stage);
        stage.until_let_go_whole(step).await?;
    }
    stage.settled().await?;
    check_kept(&stage);
    comes_back(&mut stage).await?;
    stage.close().await
}

/// Sets the rules. Nothing is deleted, also under the next leader.
async fn waits(stage: &mut Stage) -> Told {
    let retention = RetentionChange { daily: Some(2), ..RetentionChange::default() };
    stage.edit_policy(PolicyEdit { retention, ..PolicyEdit::default() }).await?;
    for is_new in [false, true] {
        if is_new {
            let leader = stage.leader().await?;
            stage.crash(leader, Crash::Power);
            sleep(Duration::from_secs(10)).await;
            stage.cluster.start_node(leader);
        }
        sleep(Duration::from_secs(10)).await;
        if let Some(step) = (1..=12).find(|step| !stage.has(*step)) {
            let text = format!("step {step} is gone, and nobody confirmed that");
            stage.world.violation("D7", text);
        }
    }
    let plan = stage.plan_retention(OwnPolicy::default()).await?;
    let kept = plan.checkpoints.iter().filter(|planned| planned.is_kept());
    let kept: Vec<u64> = kept.map(|planned| planned.step.0).collect();
    if let Some(step) = KEPT.iter().find(|step| !kept.contains(step)) {
        let text = format!("the plan lets step {step} go, though a rule or a hold keeps it");
        stage.world.violation("D7", text);
    }
    match plan.waits() && plan.let_go == 9 {
        true => Ok(()),
        false => Err(format!("{} of 12 are let go, waits: {}", plan.let_go, plan.waits())),
    }
}

fn check_kept(stage: &Stage) {
    for step in KEPT.into_iter().filter(|step| !stage.has(*step)) {
        let text = format!("step {step} is gone, though a rule or a hold keeps it");
        stage.world.violation("D7", text);
    }
}

async fn comes_back(stage: &mut Stage) -> Told {
    let leader = stage.leader().await?;
    stage.crash(leader, Crash::Power);
    stage.cluster.start_node(leader);
    stage.undelete(3).await?.map_err(|error| format!("undelete of step 3: {error}"))?;
    sleep(Duration::from_secs(10)).await;
    if !stage.has(3) {
        stage.world.violation("D7", "step 3 was undeleted, and is gone again");
    }
    stage.read_all().await?;
    stage.put(4).await?;
    match stage.undelete(4).await? {
        Err(error) if matches!(error.refusal(), Some(Refusal::StepTaken { .. })) => {}
        other => return Err(format!("undelete of a step that was written again: {other:?}")),
    }
    // It is the newest of its day now.
    stage.until_let_go(12).await
}
