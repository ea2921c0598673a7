//! `cairn watch`

use std::borrow::Cow;

use cairn_client::stream::StreamExt;
use cairn_client::{
    DeletedFor, Event, EventId, Happened, Namespace, WatchOptions, Watched, WatchedCheckpoint,
    WatchedRef,
};
use clap::Args;
use serde::Serialize;

use super::ls;
use crate::exit::{Exit, Failure, Outcome};
use crate::foreign;
use crate::output::{print, wall_time};
use crate::session::{Session, client_failure, interruptible};

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// This namespace and those below it, such as llama/pretrain [default: all]
    #[arg(value_name = "NAMESPACE")]
    namespace: Option<Namespace>,
    /// Go on behind an event that an earlier watch printed, such as 0/5012.0, at any node; without it the
    /// watch begins with what is there
    #[arg(long, value_name = "CURSOR")]
    from: Option<EventId>,
    /// End after N events that happen from now on
    #[arg(long, value_name = "N")]
    events: Option<u64>,
}

pub fn run(session: &Session, args: WatchArgs) -> Outcome {
    session.runtime()?.block_on(async {
        let client = session.client()?;
        interruptible(async {
            session.survey(&client).await?;
            let mut watch = client.watch(WatchOptions { prefix: args.namespace, from: args.from });
            let mut left = args.events.unwrap_or(u64::MAX);
            while left > 0
                && let Some(told) = watch.next().await
            {
                let told = told.map_err(client_failure)?;
                left -= u64::from(matches!(told, Watched::Event(_)));
                match session.output.json {
                    true => print(&line(&told)?)?,
                    false => print(&foreign::lines(&text(&told)))?,
                }
            }
            session.remember(&client)?;
            Ok(Exit::Ok)
        })
        .await
    })
}

/// One document in one line.
pub(super) fn line(told: &Watched) -> Result<String, Failure> {
    let document = serde_json::to_value(WatchRecord::new(told));
    let document = document.map_err(|error| Failure::from(anyhow::Error::from(error)))?;
    Ok(foreign::json(&document.to_string()))
}

/// `watch`: one document a line.
#[derive(Default, Serialize)]
struct WatchRecord<'a> {
    /// `begins`, `checkpoint`, `ref`, `seam`, `event` or `cursor`.
    told: &'static str,
    /// Where a later watch goes on; null before the seam.
    cursor: Option<String>,
    /// Of an event: `committed`, `deleted`, `undeleted`, `quarantined`, `released`, `full` or
    /// `ref-moved`; else null, as are all others that are not known.
    event: Option<&'static str>,
    namespace: Option<&'a str>,
    step: Option<u64>,
    id: Option<u64>,
    at_ms: Option<u64>,
    /// Of a deletion.
    reason: Option<&'static str>,
    /// Of a ref: its name and generation.
    name: Option<&'a str>,
    generation: Option<u64>,
    /// Of a checkpoint that is there.
    quarantined: Option<bool>,
    full: Option<bool>,
}

impl<'a> WatchRecord<'a> {
    fn new(told: &'a Watched) -> Self {
        let mut record = match told {
            Watched::Checkpoint(checkpoint) => Self::there(checkpoint),
            Watched::Ref(named) => Self::named(named),
            Watched::Seam(_) => Self { told: "seam", ..Self::default() },
            Watched::Cursor(_) => Self { told: "cursor", ..Self::default() },
            Watched::Event(event) => Self::happened(event),
            _ => Self { told: "begins", ..Self::default() },
        };
        record.cursor = told.cursor().map(|cursor| cursor.to_string());
        record
    }

    fn there(checkpoint: &'a WatchedCheckpoint) -> Self {
        Self {
            told: "checkpoint",
            namespace: Some(checkpoint.namespace.as_str()),
            step: Some(checkpoint.step.0),
            id: Some(checkpoint.id.0),
            at_ms: Some(checkpoint.commit_wall_ms),
            quarantined: Some(checkpoint.is_quarantined),
            full: Some(checkpoint.is_full),
            ..Self::default()
        }
    }

    fn named(named: &'a WatchedRef) -> Self {
        Self {
            told: "ref",
            namespace: Some(named.namespace.as_str()),
            step: named.step.map(|step| step.0),
            id: Some(named.checkpoint.0),
            name: Some(named.name.as_str()),
            generation: Some(named.generation),
            ..Self::default()
        }
    }

    fn happened(event: &'a Event) -> Self {
        let (name, generation) = match &event.what {
            Happened::RefMoved { name, generation, .. } => (Some(name.as_str()), Some(*generation)),
            _ => (None, None),
        };
        Self {
            told: "event",
            event: Some(event.what.name()),
            namespace: Some(event.namespace.as_str()),
            step: event.what.step().map(|step| step.0),
            id: event.what.checkpoint().map(|id| id.0),
            at_ms: Some(event.wall_ms),
            reason: deleted_for(event).map(ls::reason),
            name,
            generation,
            ..Self::default()
        }
    }
}

fn deleted_for(event: &Event) -> Option<DeletedFor> {
    match event.what {
        Happened::Deleted { reason, .. } => Some(reason),
        _ => None,
    }
}

/// A line for people; empty where nothing has happened.
pub(super) fn text(told: &Watched) -> String {
    let there = |what: &str, name: String| format!("{:<22}{what:<15}{name}", "");
    match told {
        Watched::Checkpoint(checkpoint) => {
            let WatchedCheckpoint { namespace, step, is_quarantined, .. } = checkpoint;
            let state = if *is_quarantined { "in quarantine" } else { "is there" };
            there(state, format!("{namespace}@{step}"))
        }
        Watched::Ref(named) => {
            let WatchedRef { namespace, name, checkpoint, step, .. } = named;
            let target = match step {
                Some(step) => step.to_string(),
                None => format!("id {checkpoint}"),
            };
            there("ref", format!("{namespace}@{name} -> {target}"))
        }
        Watched::Seam(cursor) => format!("from now on, behind {cursor}:"),
        Watched::Event(event) => {
            let name: Cow<str> = match &event.what {
                Happened::RefMoved { name, step: Some(step), .. } => {
                    format!("{}@{name} -> {step}", event.namespace).into()
                }
                Happened::RefMoved { name, .. } => {
                    format!("{}@{name} removed", event.namespace).into()
                }
                what => {
                    let step = what.step().map_or(0, |step| step.0);
                    format!("{}@{step}", event.namespace).into()
                }
            };
            let reason = deleted_for(event).map(|why| format!(" ({})", ls::reason(why)));
            let (at, what) = (wall_time(event.wall_ms), event.what.name());
            format!("{at}  {what:<15}{name}{}  {}", reason.unwrap_or_default(), event.id)
        }
        _ => String::new(),
    }
}
