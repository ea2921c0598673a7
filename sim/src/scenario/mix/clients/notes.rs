//! Notes that clients put on committed checkpoints: a label and a metric that say the same number.
//!
//! `Annotate` is a command of a newer build: while a node has an older one it is refused, and that
//! is no failure.

use std::time::Duration;

use cairn_client::{Client, ClientError};
use cairn_types::command::{Annotate, Body, Refusal};
use cairn_types::ids::Incarnation;
use cairn_types::model::{Admin, CheckpointInfo, CheckpointState, Metric};
use tokio::time::{Instant, sleep};

use super::super::Shared;
use super::{Acting, address};
use crate::checkers::c1_history::{Asked, Seen, VersionId};
use crate::checkers::linearizable::catalogue::{Input, Output};
use crate::cluster::Cluster;
use crate::trace;
use crate::world::{ProcessParts, World};

/// The feature level from which there are notes.
const NOTES_LEVEL: u32 = 2;
/// Label and metric of this name.
pub(super) const NOTE: &str = "note";
/// So many notes are taken off, and not put on.
const TAKEN_OFF: f64 = 0.2;
/// In a calm cluster the leader raises the level within this, at the usual pace.
const RAISED_LIMIT: Duration = Duration::from_secs(30);

/// The version that an answer names and the note on it.
pub(super) fn seen(info: &CheckpointInfo) -> Result<Seen, (&'static str, String)> {
    let (label, metric) = (info.labels.get(NOTE), info.metrics.get(NOTE));
    let note = label.map_or(Some(0), |text| text.parse().ok());
    match (note, metric.map_or(0.0, |metric| metric.value())) {
        (Some(note), value) if note as f64 == value => Ok((info.step.0, info.attempt.0, note)),
        _ => Err(("C1", format!("half a note on {}: {label:?} {metric:?}", info.id))),
    }
}

fn note_on(info: &CheckpointInfo, note: u64) -> Body {
    let (mut labels, mut metrics, mut remove) = Default::default();
    match Metric::new(note as f64).filter(|_| note > 0) {
        Some(metric) => {
            labels = [(NOTE.to_owned(), note.to_string())].into();
            metrics = [(NOTE.to_owned(), metric)].into();
        }
        None => remove = vec![NOTE.to_owned()],
    }
    Annotate { checkpoint: info.id, labels, metrics, remove }.into()
}

/// What is there, for a command that names its record.
pub(super) struct Found {
    pub info: CheckpointInfo,
    pub version: VersionId,
    /// When it was asked for.
    pub began: Instant,
}

impl Acting {
    /// `None` where nothing is there.
    pub(super) async fn look_up(&self, name: &str, asked: Asked) -> Result<Option<Found>, String> {
        let began = Instant::now();
        let info = match self.sdk.resolve(&address(name, asked)?).await {
            Ok(info) => info,
            Err(error) => return self.not_got(name, asked, began, &error).map(|()| None),
        };
        let judged = seen(&info).and_then(|seen| {
            self.shared.history.lock().found(name, asked, seen, began, None)?;
            Ok((seen.0, seen.1))
        });
        match judged {
            Ok(version) => Ok(Some(Found { info, version, began })),
            Err(broken) => {
                self.broken(broken);
                Ok(None)
            }
        }
    }

    /// A note on something that is there.
    pub(super) async fn annotate(&self) -> Result<(), String> {
        let (name, asked) = self.somewhere();
        let note = {
            let mut state = self.script.state.lock();
            state.notes += 1;
            let taken_off = state.chance.chance(TAKEN_OFF);
            if taken_off { 0 } else { state.notes * 8 + self.script.number }
        };
        self.note(format!("annotate {name} {asked:?} with {note}"));
        let Some(found) = self.look_up(&name, asked).await? else { return Ok(()) };
        let Found { info, version: (step, attempt), began } = found;
        let call = {
            // What was found may go and come back as another record before the command is sent.
            let input = Input::Annotate((step, attempt), note);
            self.shared.history.lock().call_since(&name, &self.script.name, input, began)
        };
        match self.sdk.execute(note_on(&info, note), Duration::ZERO).await {
            Ok(_) => {
                trace::count("client.notes", 1);
                self.shared.history.lock().answer(&call, Output::Done);
                Ok(())
            }
            Err(ClientError::Refused(Refusal::UnknownCheckpoint(_))) => {
                self.shared.history.lock().answer(&call, Output::Missing);
                Ok(())
            }
            Err(ClientError::Refused(Refusal::FeatureLevel { .. })) => {
                trace::count("client.notes_refused", 1);
                Ok(())
            }
            Err(error) => Err(format!("annotate {name}@{step}: {error}")),
        }
    }
}

/// At the end of a run: a note is refused as long as a node has an older build, and not any more
/// once all have the newer one.
pub(super) async fn level_is_right(
    world: &World,
    cluster: &Cluster,
    shared: &Shared,
    (parts, sdk): (&ProcessParts, &Client),
) -> Result<(), String> {
    let (_, catalogue) = cluster.newest();
    let mut records = catalogue.checkpoints();
    let Some(record) = records.find(|it| it.state == CheckpointState::Committed) else {
        return Ok(());
    };
    let refused = cluster.lowest_feature_level() < NOTES_LEVEL;
    let end = Instant::now() + shared.plan.paced(RAISED_LIMIT);
    let address = address(record.namespace.as_str(), Asked::Step(record.step.0))?;
    loop {
        let (sdk, address) = (sdk.clone(), address.clone());
        let annotating = async move {
            let info = sdk.resolve(&address).await?;
            // The note that is there already.
            let note = seen(&info).map_or(0, |(.., note)| note);
            sdk.execute(note_on(&info, note), Duration::ZERO).await
        };
        let annotated = parts.life.spawn(annotating).await.map_err(|error| error.to_string())?;
        match annotated {
            Ok(_) if !refused => return Ok(()),
            Err(ClientError::Refused(Refusal::FeatureLevel { .. })) if refused => {
                trace::count("checked.refused_by_level", 1);
                return Ok(());
            }
            Err(ClientError::Refused(Refusal::FeatureLevel { .. })) if Instant::now() < end => {
                sleep(shared.plan.paced(Duration::from_secs(1))).await;
            }
            // The record of a node that is gone and was not removed holds the level back.
            Err(ClientError::Refused(Refusal::FeatureLevel { .. })) if an_old_record(cluster) => {
                trace::count("checked.refused_by_record", 1);
                return Ok(());
            }
            other => {
                let text = format!("the lowest build refuses notes: {refused}, but {other:?}");
                world.violation("L2", text);
                return Ok(());
            }
        }
    }
}

/// Whether a node in service last registered with an older build.
fn an_old_record(cluster: &Cluster) -> bool {
    let (_, catalogue) = cluster.newest();
    let mut serving = catalogue
        .nodes()
        .filter(|node| node.admin == Admin::InService && node.incarnation != Incarnation(0));
    serving.any(|node| node.feature_level < NOTES_LEVEL)
}
