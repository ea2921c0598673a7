//! The end of a run: what must be there is restored, and all that clients saw is judged.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_client::{Client, GetOptions, MemorySink};
use cairn_types::model::CheckpointState;
use tokio::time::Instant;

use super::super::Shared;
use super::notes::{level_is_right, seen};
use super::{AGAINST, AGAINST_STEPS, address, files_of, is_missing};
use crate::checkers::c1_history::Asked;
use crate::cluster::Cluster;
use crate::trace;
use crate::world::{ProcessParts, World};

/// Reads every checkpoint that must be there or that the catalogue has, in full, sees that the
/// cluster has the feature level of its builds, then judges all that clients saw.
pub async fn scan(world: &World, cluster: &Cluster, shared: &Shared) -> Result<(), String> {
    let reader = cluster.client("reader", "r1");
    let (parts, sdk) = cluster.sdk(reader).ok_or("the reader is down")?;
    let committed = shared.history.lock().committed();
    let mut wanted: BTreeSet<(String, u64)> =
        committed.into_iter().map(|(name, (step, _))| (name, step)).collect();
    // And what the catalogue says is there, whatever clients were told.
    let (_, catalogue) = cluster.newest();
    let records = catalogue.checkpoints().filter(|it| it.state == CheckpointState::Committed);
    wanted.extend(records.map(|record| (record.namespace.to_string(), record.step.0)));
    for (name, step) in wanted.iter().filter(|(name, _)| name != AGAINST) {
        restore(world, shared, (&parts, &sdk), (name, *step)).await?;
    }
    // What is there after many writers, nobody can say beforehand.
    for step in 1..=AGAINST_STEPS {
        restore(world, shared, (&parts, &sdk), (AGAINST, step)).await?;
    }
    level_is_right(world, cluster, shared, (&parts, &sdk)).await?;
    for text in shared.history.lock().not_linearizable() {
        world.violation("C1", text);
    }
    for text in shared.marks.not_linearizable() {
        world.violation("C5", text);
    }
    Ok(())
}

async fn restore(
    world: &World,
    shared: &Shared,
    (parts, sdk): (&ProcessParts, &Client),
    (name, step): (&str, u64),
) -> Result<(), String> {
    let (sink, sdk) = (Arc::new(MemorySink::default()), sdk.clone());
    let asked = Asked::Step(step);
    let (into, address) = (sink.clone(), address(name, asked)?);
    let began = Instant::now();
    let options = GetOptions { quarantined: true, ..GetOptions::default() };
    let getting = async move { sdk.get(&address, into, options).await };
    let got = parts.life.spawn(getting).await.map_err(|error| error.to_string())?;
    let judged = match got {
        Ok(report) => {
            trace::count("checked.checkpoints_restored", 1);
            seen(&report.checkpoint).and_then(|seen| {
                shared.history.lock().found(name, asked, seen, began, Some(&files_of(&sink)))
            })
        }
        Err(error) if name == AGAINST && is_missing(&error) => {
            shared.history.lock().missing(name, asked, began);
            Ok(())
        }
        Err(error) => Err(("D2", format!("{name}@{step}: {error}"))),
    };
    if let Err((invariant, text)) = judged {
        world.violation(invariant, format!("scan: {text}"));
    }
    Ok(())
}
