//! Three nodes get a newer build one by one, each in the middle of a put. A command of the newer
//! build is refused as long as one node does not understand it, and no node stops. Once all nodes
//! have the build, the command works on every node, and the older build no longer starts.

use cairn_client::{Annotation, ClientError};
use cairn_types::command::Refusal;
use cairn_types::model::Metric;

use super::stage::{Stage, Told, address, finish};
use crate::disk::Crash;
use crate::world::World;

const OLDER: u32 = 1;
/// The feature level of `Annotate`.
const NEWER: u32 = 2;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open_at_level(world, &["r1", "r2", "r3"], OLDER).await?;
    stage.put(1).await?;
    for place in 0..3 {
        let refused = Refusal::FeatureLevel { needed: NEWER, current: OLDER };
        match annotate(&stage, place as f64).await? {
            Err(ClientError::Refused(refusal)) if refusal == refused => {}
            other => return Err(format!("with {place} nodes upgraded: {other:?}")),
        }
        let putting = stage.begin_put(place as u64 + 2)?;
        let percent = stage.chance.below(95);
        stage.until_put(&putting, percent).await?;
        restart_at(&stage, place, NEWER);
        stage.finish_put(putting).await?;
        stage.settled().await?;
    }
    stage.until(|stage| level(stage) == Some(NEWER)).await?;
    annotate(&stage, 0.5).await?.map_err(|error| format!("once all are upgraded: {error}"))?;
    // Its log and snapshot may hold commands that the older build does not understand.
    let node = stage.node(0);
    stage.cluster.excuse(node);
    stage.crash(node, Crash::Kill);
    stage.cluster.start_older_once(node, OLDER);
    stage.cluster.start_node(node);
    stage.ended(node).await?;
    stage.put(5).await?;
    stage.cluster.start_node(node);
    stage.close().await
}

fn restart_at(stage: &Stage, place: usize, level: u32) {
    let node = stage.node(place);
    stage.crash(node, Crash::Kill);
    stage.cluster.set_feature_level(node, level);
    stage.cluster.start_node(node);
}

/// The cluster's level in the leader's catalogue.
fn level(stage: &Stage) -> Option<u32> {
    Some(stage.cluster.leader()?.catalogue().cluster().feature_level)
}

async fn annotate(stage: &Stage, loss: f64) -> Told<Result<(), ClientError>> {
    let (parts, sdk) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    let address = address(1)?;
    let mut change = Annotation::default();
    let metric = Metric::new(loss).ok_or("no number")?;
    change.metrics.insert("loss".to_owned(), metric);
    let task = async move {
        let annotated = sdk.annotate(&address, change).await;
        Ok(annotated.and_then(|info| match info.metrics.get("loss") {
            Some(got) if *got == metric => Ok(()),
            other => Err(ClientError::Malformed {
                what: "annotate".to_owned(),
                problem: format!("the metric reads back as {other:?}"),
            }),
        }))
    };
    finish(parts.life.spawn(task), "annotate").await
}
