//! Watching: what is there, a seam, and from then on what happens.
//!
//! ```text
//!   no cursor   checkpoints and refs, a page at a time | seam: a cursor | events, with a cursor each time
//!   a cursor                                           | seam           | events behind it
//! ```
//!
//! Any node serves it. Before the stream, and at every heartbeat, the node makes sure that it knows all that
//! is committed: one that is cut off from the others ends the stream, and the watcher goes on elsewhere
//! with its cursor. A watcher costs a cursor and a short queue. One that takes nothing for a while, or
//! whose cursor this node has no events behind any more, is told so and cut off: there is never a gap.

use std::sync::Arc;
use std::time::Duration;

use cairn_core::catalogue::{Catalogue, ListQuery};
use cairn_host::envelope::{Reason, refuse};
use cairn_host::seam::Lane;
use cairn_proto::refused::refusal_status;
use cairn_proto::wire;
use cairn_types::command::Refusal;
use cairn_types::convert;
use cairn_types::event::EventId;
use cairn_types::ids::Namespace;
use cairn_types::limits::{REFS_MAX, WATCH_BATCH_MAX};
use cairn_types::listing::ListPlace;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::admission::Permit;
use crate::caller::Caller;
use crate::shared::Shared;

/// A watcher hears at least this often that nothing has happened.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between two looks whether this node still serves.
const LOOK: Duration = Duration::from_secs(1);
/// A watcher that takes nothing for so long is cut off.
const STALL: Duration = Duration::from_secs(30);
/// Messages that wait for a watcher.
const QUEUE: usize = 2;
/// The node must know within this all that is committed.
const CURRENT_DEADLINE: Duration = Duration::from_secs(5);

type Item = Result<wire::WatchReply, Status>;

/// To be called on a node that knows all that is committed.
pub(super) fn watch(
    shared: &Arc<Shared>,
    caller: Caller,
    prefix: Option<Namespace>,
    from: Option<EventId>,
    permit: Permit,
) -> Result<impl Stream<Item = Item> + Send + use<>, Status> {
    let (catalogue, end) = shared.member.watched();
    let begin = match from {
        Some(from) => Begin::Behind(known(from, end)?),
        None => Begin::Anew(Arc::new(catalogue), end),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let why = Arc::new(Mutex::new(None));
    let watcher = Watcher { shared: Arc::clone(shared), caller, prefix, sender };
    let ended = Arc::clone(&why);
    shared.this.env.spawn("watch", async move {
        let end = watcher.serve(begin).await;
        *ended.lock() = end.err();
        // Last of all: the stream ends with its sender, and looks then why.
        drop((watcher, permit));
    });
    Ok(futures::stream::unfold(Some((receiver, why)), |state| async move {
        let (mut receiver, why) = state?;
        match receiver.recv().await {
            Some(reply) => Some((Ok(reply), Some((receiver, why)))),
            None => {
                let end: Option<Status> = why.lock().take();
                end.map(|status| (Err(status), None))
            }
        }
    }))
}

enum Begin {
    /// With what is in this catalogue, which knows all up to there.
    Anew(Arc<Catalogue>, EventId),
    Behind(EventId),
}

struct Watcher {
    shared: Arc<Shared>,
    /// Is told of what it may read.
    caller: Caller,
    prefix: Option<Namespace>,
    sender: mpsc::Sender<wire::WatchReply>,
}

impl Watcher {
    /// Until the watcher is gone (`Ok`), or is told why it is cut off.
    async fn serve(&self, begin: Begin) -> Result<(), Status> {
        let member = &self.shared.member;
        let mut cursor = match begin {
            Begin::Behind(cursor) => cursor,
            Begin::Anew(catalogue, end) => {
                self.snapshot(catalogue, end).await?;
                end
            }
        };
        self.send(wire::WatchReply { cursor: cursor.to_string(), ..Default::default() }).await?;
        let (mut sent, mut checked) = (Instant::now(), Instant::now());
        loop {
            let batch = member.feed.behind(cursor, WATCH_BATCH_MAX);
            let batch = batch.map_err(|old| too_old(cursor, old.floor))?;
            let is_whole = batch.events.len() < WATCH_BATCH_MAX;
            cursor = batch.cursor;
            let wanted = batch.events.iter().filter(|event| self.wants(&event.namespace));
            let events: Vec<_> = wanted.map(convert::event_to_wire).collect();
            let is_silent = sent.elapsed() >= HEARTBEAT;
            if checked.elapsed() >= HEARTBEAT {
                // What this node has not applied yet is applied then, and sent before the next heartbeat.
                member.read_index(CURRENT_DEADLINE).await?;
                // A token may be revoked, or expire.
                let wall_ms = member.median_wall_ms();
                member.read(|catalogue| self.caller.check_current(catalogue, wall_ms))?;
                checked = Instant::now();
            }
            if is_silent || !events.is_empty() {
                let text = cursor.to_string();
                self.send(wire::WatchReply { cursor: text, events, ..Default::default() }).await?;
                sent = Instant::now();
            }
            if self.sender.is_closed() {
                return Ok(());
            }
            if self.shared.ending.says_goodbye() {
                return Err(refuse(Reason::Busy, "this node stops: watch at another one"));
            }
            if is_whole {
                let _ = timeout(LOOK, member.feed.changed(cursor)).await;
            }
        }
    }

    fn wants(&self, namespace: &Namespace) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| namespace.is_at_or_below(prefix))
            && self.caller.reads(namespace)
    }

    /// All that is committed, and the refs, of one copy of the catalogue.
    async fn snapshot(&self, catalogue: Arc<Catalogue>, end: EventId) -> Result<(), Status> {
        let env = &self.shared.this.env;
        let mut after: Option<ListPlace> = None;
        loop {
            let (walked, prefix) = (Arc::clone(&catalogue), self.prefix.clone());
            let query = ListQuery {
                prefix: prefix.map(|prefix| prefix.to_string()).unwrap_or_default(),
                after: after.take(),
                limit: WATCH_BATCH_MAX,
                grant: self.caller.token().map(|token| token.grant.clone()),
                ..ListQuery::default()
            };
            let page = env.blocking(Lane::Walk, move || {
                let page = walked.list(&query);
                let checkpoints =
                    page.records.iter().map(|it| convert::watched_to_wire(&it.watched()));
                (checkpoints.collect(), page.next)
            });
            let (checkpoints, next) = page.await;
            self.send(wire::WatchReply { checkpoints, ..Default::default() }).await?;
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let names: Vec<Namespace> = catalogue.namespaces_with_refs().cloned().collect();
        for name in names.iter().filter(|name| self.wants(name)) {
            let refs = catalogue.refs(name).take(REFS_MAX);
            let refs: Vec<_> = refs
                .filter_map(|(of, target)| {
                    let checkpoint = target.checkpoint.and_then(|id| catalogue.checkpoint(id));
                    let step = checkpoint.map(|record| record.step);
                    convert::watched_ref_to_wire(name, of, target, step)
                })
                .collect();
            if !refs.is_empty() {
                self.send(wire::WatchReply { refs, ..Default::default() }).await?;
            }
        }
        // A snapshot that took longer than the ring is long is of no use.
        let behind = self.shared.member.feed.behind(end, 1);
        behind.map(drop).map_err(|old| too_old(end, old.floor))
    }

    async fn send(&self, reply: wire::WatchReply) -> Result<(), Status> {
        match timeout(STALL, self.sender.send(reply)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Status::cancelled("the watcher is gone")),
            Err(_) => Err(refusal_status(&Refusal::WatcherTooSlow)),
        }
    }
}

/// A cursor of this cluster's generation that is not ahead of all that is committed.
fn known(from: EventId, end: EventId) -> Result<EventId, Status> {
    if from.lineage < end.lineage {
        return Err(too_old(from, end));
    }
    let is_ahead = from.lineage > end.lineage || from.index > end.index;
    if is_ahead {
        let text = format!("cursor {from} is ahead of this cluster, which is at {end}");
        return Err(Status::invalid_argument(text));
    }
    Ok(from)
}

fn too_old(cursor: EventId, floor: EventId) -> Status {
    refusal_status(&Refusal::CursorTooOld { cursor, floor })
}
