//! The leader's wall clock is a month ahead for two seconds. Status reports it, and no commit gets
//! a label far ahead (C5, which the checkers watch). Then the clocks of two of three voters are a
//! day ahead, which cannot be told from right clocks. Commits get labels in the future, status
//! reports it once the clocks are right, and an operator takes the labels back.

use std::time::Duration;

use cairn_client::ClusterStatus;
use cairn_node::clock::{WALL_AHEAD_MAX_MS, is_wrong};
use cairn_types::ids::NodeId;
use tokio::time::sleep;

use super::stage::{Stage, Told, address, finish};
use crate::world::World;

const DAY_MS: i64 = 86_400_000;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let leader = stage.leader().await?;
    stage.clock(leader)?.jump(30 * DAY_MS);
    stage.put(2).await?;
    let wrong = wrong_clocks(&stage).await?;
    if wrong != [stage.node_id(leader)?] {
        return Err(format!("the wrong clock is the leader's; status names nodes {wrong:?}"));
    }
    sleep(Duration::from_secs(2)).await;
    stage.clock(leader)?.put_right();
    if !status(&stage).await?.first_ahead.is_empty() {
        return Err("a label is ahead although two of three clocks were right".to_owned());
    }

    for place in [0, 1] {
        stage.clock(stage.node(place))?.jump(DAY_MS);
    }
    // Time for new readings of each voter's clock.
    sleep(Duration::from_secs(5)).await;
    stage.put(3).await?;
    for place in [0, 1] {
        stage.clock(stage.node(place))?.put_right();
    }
    sleep(Duration::from_secs(5)).await;
    let ahead = status(&stage).await?.first_ahead;
    let ahead_ms = ahead.first().map_or(0, |it| it.ahead_ms as i64);
    if ahead.len() != 1 || !is_wrong(ahead_ms) || is_wrong(ahead_ms - DAY_MS) {
        return Err(format!("status should name one namespace, a day ahead: {ahead:?}"));
    }
    let repaired = repair_time(&stage).await?;
    if repaired != 1 {
        return Err(format!("one label was wrong, {repaired} were taken back"));
    }
    stage.put(4).await?;
    let newest_ms = stage.cluster.newest().1.summary().label_newest_ms;
    let now_ms = stage.clock(leader)?.now_ms();
    if newest_ms > now_ms + WALL_AHEAD_MAX_MS.unsigned_abs() {
        return Err(format!("the next commit is labelled {newest_ms} at {now_ms}"));
    }
    if !status(&stage).await?.first_ahead.is_empty() {
        return Err("status still names the namespace".to_owned());
    }
    stage.read_all().await?;
    stage.close().await
}

/// The status as the leader has it.
async fn status(stage: &Stage) -> Told<ClusterStatus> {
    let (parts, sdk) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let ask = async move { sdk.full_status().await.map_err(|error| error.to_string()) };
    finish(parts.life.spawn(ask), "status").await
}

/// Nodes whose clock is far off, by the leader's status.
async fn wrong_clocks(stage: &Stage) -> Told<Vec<NodeId>> {
    let nodes = status(stage).await?.nodes.into_iter();
    let wrong = nodes.filter(|node| node.clock_ahead_ms.is_some_and(is_wrong));
    Ok(wrong.map(|node| node.id).collect())
}

/// An operator takes back labels later than now. Returns their number.
async fn repair_time(stage: &Stage) -> Told<u64> {
    let (parts, sdk) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let namespace = address(0)?.namespace;
    let repair = async move {
        let plan = sdk.plan_time_repair(&namespace, None).await;
        let to_ms = plan.map_err(|error| error.to_string())?.to_ms;
        sdk.repair_time(&namespace, to_ms).await.map_err(|error| error.to_string())
    };
    finish(parts.life.spawn(repair), "time repair").await
}
