//! Verifications and drills at set times. Both are of the newest good checkpoint of the namespace.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{
    Address, Annotation, Client, ClientError, GetProgress, Lane, Progress, Refusal, Selector,
    VerifyLevel, VerifyReport,
};

use crate::config::Job;
use crate::drill::{self, Drill, DrillError, DrillPlan};
use crate::journal::Finding;
use crate::mind::Outcome;
use crate::put::Means;

/// Below the directory of a drill's job: made and removed by each drill.
const SCRATCH: &str = "cairn-drill";

pub async fn verify(
    means: &Means,
    job: &Job,
    level: VerifyLevel,
    _progress: Arc<Progress>,
) -> Outcome {
    let client = &means.client;
    let address = Address { namespace: job.namespace.clone(), selector: Selector::Latest };
    let report = match client.verify(&address, level, Arc::<GetProgress>::default()).await {
        Ok(report) => report,
        Err(error) => return failed(&error),
    };
    if let Err(error) = record(client, &report).await {
        tracing::warn!(job = job.name, %error, "the result is not in the checkpoint's labels");
    }
    // A node that did not answer is asked again: nothing is known of its replicas.
    if !report.is_damaged()
        && let Some((node, (_, why))) = report.unverified.first_key_value()
    {
        return Outcome::Failed { why: format!("node {node} did not verify its replicas: {why}") };
    }
    let (step, good) = (report.checkpoint.step.0, report.is_good());
    let at_ms = client.env().wall_ms();
    Outcome::Found(Finding { at_ms, step, good, said: said(&report), rto_ms: None, rpo_ms: None })
}

fn said(report: &VerifyReport) -> String {
    let (bad, lost) = (report.bad.len(), report.lost.len());
    match (report.is_damaged(), report.problems.first()) {
        (true, _) => format!("bad replicas: {bad}, lost files: {lost}"),
        (false, Some(problem)) => problem.clone(),
        (false, None) => format!("replicas verified: {}", report.replicas_verified),
    }
}

/// The label of the level, as `cairn verify` writes it.
async fn record(client: &Client, report: &VerifyReport) -> Result<(), ClientError> {
    let info = &report.checkpoint;
    let address =
        Address { namespace: info.namespace.clone(), selector: Selector::Step(info.step) };
    let (name, value) = report.label(client.env().wall_ms());
    let labels = [(name, value)].into();
    client.annotate(&address, Annotation { labels, ..Annotation::default() }).await.map(drop)
}

pub async fn drill(means: &Means, plan: &DrillPlan, directory: &Path) -> Outcome {
    let client = &means.client;
    let scratch = directory.join(SCRATCH);
    let made = scratch.clone();
    // What a drill that was killed has left is in the way of this one.
    let prepare = move || {
        if made.exists() {
            std::fs::remove_dir_all(&made)?;
        }
        std::fs::create_dir_all(&made)
    };
    if let Err(error) = client.env().blocking(Lane::Client, prepare).await {
        return Outcome::Failed { why: format!("make {}: {error}", scratch.display()) };
    }
    let ended = drill::drill(client, plan, &scratch).await;
    let made = scratch.clone();
    if let Err(error) =
        client.env().blocking(Lane::Client, move || std::fs::remove_dir_all(made)).await
    {
        tracing::warn!(path = %scratch.display(), %error, "what a drill restored is not removed");
    }
    let drill = match ended {
        Ok(drill) => drill,
        Err(DrillError::Client(error)) => return failed(&error),
        Err(error) => return Outcome::Failed { why: error.to_string() },
    };
    if let Err(error) = drill::record(client, plan, &drill).await {
        tracing::warn!(%error, "the result is not in the checkpoint's labels");
    }
    let ms = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    Outcome::Found(Finding {
        at_ms: client.env().wall_ms(),
        step: drill.checkpoint.step.0,
        good: drill.is_good(),
        said: said_of(&drill),
        rto_ms: ms(drill.rto),
        rpo_ms: ms(drill.rpo),
    })
}

fn said_of(drill: &Drill) -> String {
    if let Some(first) = drill.lost.first() {
        let (count, bytes, name) = (drill.lost.len(), drill.bytes_lost(), &first.name);
        return format!("lost files: {count}, {bytes} bytes; the first is {name}");
    }
    match (&drill.check, drill.has_majority) {
        (Some(Err(why)), _) => format!("the check failed: {why}"),
        (_, false) => "no majority of the voters would be left".to_owned(),
        _ => format!("restored in {:.1} s", drill.rto.as_secs_f64()),
    }
}

/// A namespace without a checkpoint has none to lose, yet.
fn failed(error: &ClientError) -> Outcome {
    let why = error.to_string();
    match error {
        ClientError::Refused(Refusal::NoSuchCheckpoint { .. }) => Outcome::Refused { why },
        _ => Outcome::Failed { why },
    }
}
