//! Watching what happens to checkpoints: what is there, a seam, and then each event, from any node and
//! without a gap.
//!
//! ```text
//!   Begins, Checkpoint.., Ref.., Seam | Event, Cursor, Event, ...     a node dies: the next one goes on
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::event::{Event, EventId, WatchedCheckpoint, WatchedRef};
use cairn_types::ids::Namespace;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::{sleep, timeout};
use tonic::Streaming;

use crate::catalogue::malformed;
use crate::cluster::{Answer, Client, with_identity};
use crate::error::ClientError;

/// A node says something at least every 5 s: one that is silent for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(12);
/// Before another node is asked to go on.
const PAUSE: Duration = Duration::from_millis(200);

/// What to watch, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// This namespace and those below it; all without one.
    pub prefix: Option<Namespace>,
    /// All up to here is known; without one the watch begins with what is there.
    pub from: Option<EventId>,
}

/// What a watcher is told, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watched {
    /// What is there comes next. It comes again where a node died before the seam: what it said is to be
    /// forgotten.
    Begins,
    /// A committed checkpoint that is there.
    Checkpoint(WatchedCheckpoint),
    /// A ref that is there.
    Ref(WatchedRef),
    /// All that is there was told, as it was at this cursor.
    Seam(EventId),
    Event(Event),
    /// Nothing else happened up to here.
    Cursor(EventId),
}

impl Watched {
    /// From where a later watch goes on behind this.
    pub fn cursor(&self) -> Option<EventId> {
        match self {
            Self::Seam(cursor) | Self::Cursor(cursor) => Some(*cursor),
            Self::Event(event) => Some(event.id),
            Self::Begins | Self::Checkpoint(_) | Self::Ref(_) => None,
        }
    }
}

struct Watch {
    client: Client,
    options: WatchOptions,
    open: Option<Streaming<wire::WatchReply>>,
    told: VecDeque<Watched>,
    /// A stream was opened before: pause before the next.
    again: bool,
    ended: bool,
}

impl Client {
    /// Watches without end. Where a node dies or stops, another one goes on behind the last event; an
    /// error ends the stream. Two of them a caller can do something about: after
    /// [`Refusal::CursorTooOld`](crate::Refusal::CursorTooOld) a watch without a cursor starts again, after [`Refusal::WatcherTooSlow`](crate::Refusal::WatcherTooSlow)
    /// one goes on with the last cursor.
    pub fn watch(&self, options: WatchOptions) -> BoxStream<'static, Result<Watched, ClientError>> {
        let watch = Watch {
            client: self.clone(),
            options,
            open: None,
            told: VecDeque::new(),
            again: false,
            ended: false,
        };
        let next = |mut watch: Watch| async move {
            if watch.ended {
                return None;
            }
            let told = watch.next().await;
            watch.ended = told.is_err();
            Some((told, watch))
        };
        stream::unfold(watch, next).boxed()
    }
}

impl Watch {
    async fn next(&mut self) -> Result<Watched, ClientError> {
        loop {
            if let Some(told) = self.told.pop_front() {
                if let Some(cursor) = told.cursor() {
                    self.options.from = Some(cursor);
                }
                return Ok(told);
            }
            let Some(open) = &mut self.open else {
                match std::mem::replace(&mut self.again, true) {
                    true => sleep(self.client.env.jitter(PAUSE)).await,
                    // Where the other nodes are: the one that serves this watch may die first. Without
                    // an answer the watch itself says what is wrong.
                    false => drop(self.client.settings().await),
                }
                self.open = Some(self.opened().await?);
                if self.options.from.is_none() {
                    self.told.push_back(Watched::Begins);
                }
                continue;
            };
            match timeout(SILENCE, open.message()).await {
                Ok(Ok(Some(reply))) => {
                    self.take(reply).map_err(|error| malformed("watch", error.to_string()))?;
                }
                Ok(Err(status)) => match cairn_proto::refused::refusal_of(&status) {
                    Some(refusal) => return Err(ClientError::Refused(refusal)),
                    None => self.open = None,
                },
                // The node stops, or is silent.
                Ok(Ok(None)) | Err(_) => self.open = None,
            }
        }
    }

    fn opened(&self) -> Answer<'_, Streaming<wire::WatchReply>> {
        let prefix = self.options.prefix.as_ref().map(ToString::to_string).unwrap_or_default();
        let from = self.options.from.map(|from| from.to_string()).unwrap_or_default();
        Box::pin(async move {
            self.client
                .read("watch", |mut stub, identity, deadline_ms| {
                    let (prefix, from) = (prefix.clone(), from.clone());
                    let message = wire::WatchRequest { prefix, from, deadline_ms };
                    let request = with_identity(message, &identity);
                    Box::pin(async move { stub.watch(request).await })
                })
                .await
        })
    }

    /// Drops an event that was told already, or that precedes one that was.
    fn take(&mut self, reply: wire::WatchReply) -> Result<(), convert::ConvertError> {
        let cursor = convert::cursor_from_wire(&reply.cursor)?;
        for checkpoint in reply.checkpoints {
            self.told.push_back(Watched::Checkpoint(convert::watched_from_wire(checkpoint)?));
        }
        for named in reply.refs {
            self.told.push_back(Watched::Ref(convert::watched_ref_from_wire(named)?));
        }
        let mut known = self.options.from;
        for event in reply.events {
            let event = convert::event_from_wire(event)?;
            if known.is_none_or(|known| known < event.id) {
                known = Some(event.id);
                self.told.push_back(Watched::Event(event));
            }
        }
        match (cursor, known) {
            (Some(cursor), None) => self.told.push_back(Watched::Seam(cursor)),
            (Some(cursor), Some(known)) if known < cursor => {
                self.told.push_back(Watched::Cursor(cursor));
            }
            _ => {}
        }
        Ok(())
    }
}
