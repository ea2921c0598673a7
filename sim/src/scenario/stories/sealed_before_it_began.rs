//! A hostile client seals a part, with a manifest that nobody can read, in the same moment in which
//! it begins the upload, whose id it guesses. The leader may not have applied the Begin when it
//! looks at the seal. The manifest is read all the same, and nothing is committed.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::ClientError;
use cairn_types::command::{self, Body, Refusal, Reply};
use cairn_types::ids::{Attempt, CheckpointId, Run};
use cairn_types::model::ManifestPlace;
use cairn_types::set_digest;
use futures::future::try_join;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::stage::bodies::{begin, delete};
use super::stage::{Stage, Told, address, finish};
use crate::trace;
use crate::world::World;

const TRIES: u64 = 20;
/// So far apart are a Begin and its seal at most, either way.
const APART_MS: u64 = 3;

pub async fn story(world: World) -> Told {
    let mut stage = Stage::open(world, &["r1", "r2", "r3"]).await?;
    stage.put(1).await?;
    let newest = stage.cluster.newest().1.resolve(&address(1)?);
    let mut newest = newest.map_err(|refusal| refusal.to_string())?.id;
    let mut refused = 0;
    for step in 10..10 + TRIES {
        let next = CheckpointId(newest.0 + 1);
        let waits = [stage.chance.below(APART_MS), stage.chance.below(APART_MS)];
        let begins = finish(execute_after(&stage, waits[0], begin(step)?)?, "begin");
        let seals = finish(execute_after(&stage, waits[1], seal(next))?, "seal");
        let (began, sealed) = try_join(begins, seals).await?;
        newest = match began {
            Ok(Reply::Begun(begun)) => begun.checkpoint,
            other => return Err(format!("begin step {step}: {other:?}")),
        };
        match sealed {
            // It was there before the Begin.
            Err(ClientError::Refused(Refusal::UnknownCheckpoint(_))) => {}
            Err(ClientError::Refused(Refusal::BadManifest { .. })) => refused += 1,
            other => {
                let text = format!("{next} is sealed with an unreadable manifest: {other:?}");
                stage.world.violation("C2", text);
            }
        }
        if stage.has(step) {
            stage.world.violation("C2", format!("step {step} is committed and cannot be read"));
        }
        let given_up = execute_after(&stage, 0, delete(newest))?;
        finish(given_up, "delete").await?.map_err(|error| error.to_string())?;
    }
    trace::count("story.unreadable_manifests", refused);
    stage.put(2).await?;
    stage.close().await
}

/// A command of the client's process, sent after so many milliseconds.
fn execute_after(
    stage: &Stage,
    wait_ms: u64,
    body: Body,
) -> Told<JoinHandle<Told<Result<Reply, ClientError>>>> {
    let (parts, sdk) = stage.cluster.sdk(stage.client()).ok_or("the client is down")?;
    Ok(parts.life.spawn(async move {
        sleep(Duration::from_millis(wait_ms)).await;
        Ok(sdk.execute(body, Duration::ZERO).await)
    }))
}

fn seal(checkpoint: CheckpointId) -> Body {
    Body::SealPart(command::SealPart {
        checkpoint,
        attempt: Attempt(1),
        part: 0,
        run: Run(1),
        manifest: ManifestPlace::Inline(Bytes::from_static(b"no manifest")),
        set_digest: set_digest([]),
        bytes: 1,
        files: 1,
        compared: 0,
        voids: Vec::new(),
    })
}
