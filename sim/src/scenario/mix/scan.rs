//! The durability scan at the end of a run (D2), and the last word on its history (C1).

use std::sync::Arc;

use cairn_client::{GetOptions, MemorySink};
use tokio::time::Instant;

use super::Shared;
use super::clients::{address, files_of};
use crate::checkers::c1_history::Asked;
use crate::cluster::Cluster;
use crate::trace;
use crate::world::World;

/// Reads every checkpoint that must be there, in full, then judges all that clients saw.
pub async fn scan(world: &World, cluster: &Cluster, shared: &Shared) -> Result<(), String> {
    restore(world, cluster, shared).await?;
    for text in shared.history.lock().not_linearizable() {
        world.violation("C1", text);
    }
    Ok(())
}

async fn restore(world: &World, cluster: &Cluster, shared: &Shared) -> Result<(), String> {
    let reader = cluster.client("reader", "r1");
    let (seat, sdk) = cluster.sdk(reader).ok_or("the reader is down")?;
    let committed = shared.history.lock().committed();
    for (name, (step, attempt)) in committed {
        let (sink, sdk) = (Arc::new(MemorySink::default()), sdk.clone());
        let (into, address) = (sink.clone(), address(&name, Asked::Step(step))?);
        let began = Instant::now();
        let getting = async move { sdk.get(&address, into, GetOptions::default()).await };
        let got = seat.life.spawn(getting).await.map_err(|error| error.to_string())?;
        let report = match got {
            Ok(report) => report,
            Err(error) => {
                world.violation("D2", format!("{name}@{step} attempt {attempt}: {error}"));
                continue;
            }
        };
        trace::count("checked.checkpoints_restored", 1);
        let id = (report.checkpoint.step.0, report.checkpoint.attempt.0);
        let files = files_of(&sink);
        let asked = Asked::Step(step);
        let judged = shared.history.lock().found(&name, asked, id, began, Some(&files));
        if let Err((invariant, text)) = judged {
            world.violation(invariant, format!("scan: {text}"));
        }
    }
    Ok(())
}
