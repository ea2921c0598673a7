//! The log and the vote, behind openraft's storage interface.
//!
//! ```text
//! openraft -> [Memory: vote, purged, last, recent entries]  readable at once
//!          -> queue -> committer task -> one redb transaction -> callbacks
//! ```
//!
//! Changes enter memory and the queue in the same order. One committer makes them durable in that
//! order. One transaction takes all changes that have gathered. `save_vote`, `truncate_after` and
//! `purge` return once the change is durable. `append` returns once the entries are readable and
//! calls back once they are durable. The committed log id is saved with the next transaction. On a
//! disk that is nearly full the committer releases the ballast first. The records in the file are
//! re-read slowly and repeatedly, so that a damaged one is found while the other replicas are still
//! a majority. Any error stops the store for good: it calls the node's fatal hook and refuses every
//! later call.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::{Env, Lane};
use futures::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::disk::Disk;
use crate::fatal::FatalHook;
use crate::raft::entry_bytes;
use crate::raft::log::file::{self, Change, LogError, LogFile};
use crate::raft::log::memory::{Flushed, Memory};
use crate::raft::peers::plausible;
use crate::raft::peers::promises::{self, Promise};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// Changes in one transaction. openraft batches appends itself, so this limits the other changes.
const COMMIT_CHANGES_MAX: usize = 256;
/// Changes waiting for the committer. At this limit openraft waits.
const QUEUE_MAX: usize = 1024;
/// Entries read at once for one replication message, or for one step of apply, bytes. A read of
/// this size plus the largest command still fits a message.
pub(in crate::raft) const READ_BYTES_MAX: usize = 2 << 20;

/// The durable records are read again in pieces of this many bytes, with this pause between pieces.
/// 100 MB take eight minutes, at a low load.
const SCRUB_BYTES: usize = 2 << 20;
const SCRUB_PAUSE: Duration = Duration::from_secs(10);

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

struct Queued {
    change: Change,
    sequence: u64,
    done: Done,
}

/// Shows the durable state of a running log store.
#[derive(Clone)]
pub struct FlushedWatch(Arc<Shared>);

impl FlushedWatch {
    pub fn get(&self) -> Flushed {
        self.0.memory.lock().flushed
    }

    /// The last entry of the log, durable or not.
    pub fn last(&self) -> Option<LogId> {
        self.0.memory.lock().last
    }
}

struct Shared {
    env: Env,
    disk: Arc<dyn Disk>,
    memory: Mutex<Memory>,
    fatal: FatalHook,
}

/// The writing half. openraft owns it.
pub struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Queued>,
}

/// Reads the log. Each replication task has one.
#[derive(Clone)]
pub struct LogReader(Arc<Shared>);

/// Resolves when the store is dropped and its file closed.
pub struct LogClosed(oneshot::Receiver<()>);

impl LogClosed {
    pub async fn wait(self) {
        let _ = self.0.await;
    }
}

impl LogStore {
    /// Opens the log and starts its committer. See [`LogFile::open`] for `expect_log`. `promised`
    /// holds the promises that others have heard from this node.
    pub async fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        fatal: FatalHook,
        expect_log: bool,
        promised: &[Promise],
    ) -> Result<(Self, LogClosed), LogError> {
        let files = Arc::clone(&disk);
        let (file, stored) = env
            .blocking(Lane::Log, move || {
                file::keep_room(&*files, 0)?;
                LogFile::open(&*files, expect_log)
            })
            .await?;
        // A promise of a term that no election can have reached is false. It must not stop a node.
        let own_term = stored.vote.map_or(0, |vote| vote.leader_id.term);
        let is_plausible = |it: &&Promise| plausible::promise(own_term, Some(**it)).is_ok();
        let promised: Vec<_> = promised.iter().filter(is_plausible).copied().collect();
        if let Some(promise) = promises::broken(&promised, stored.vote, stored.last) {
            return Err(LogError::SetBack(*promise));
        }
        let memory = Memory {
            file: Some(Arc::new(file)),
            failed: None,
            vote: stored.vote,
            committed: stored.committed,
            committed_unsaved: None,
            purged: stored.purged,
            first: stored.purged.map_or(0, |purged| purged.index + 1),
            last: stored.last,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            sequence: 0,
            durable_sequence: 0,
            flushed: Flushed {
                vote: stored.vote,
                last: stored.last.map(|last| last.index),
                tail: stored.last,
            },
        };
        let shared = Arc::new(Shared { env: env.clone(), disk, memory: Mutex::new(memory), fatal });
        let (queue, changes) = mpsc::channel(QUEUE_MAX);
        let (closed_tx, closed) = oneshot::channel();
        let committer = commit_queued(shared.clone(), changes);
        env.spawn("raft log scrub", scrub(shared.clone()));
        env.spawn("raft log committer", async move {
            committer.await;
            let _ = closed_tx.send(());
        });
        Ok((Self { shared, queue }, LogClosed(closed)))
    }

    pub fn watch(&self) -> FlushedWatch {
        FlushedWatch(self.shared.clone())
    }

    /// The last purged log id. A snapshot must cover it.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.memory.lock().purged
    }

    /// Applies `edit` to memory and queues the resulting change, in one step.
    async fn submit(
        &self,
        done: Done,
        edit: impl FnOnce(&mut Memory, u64) -> io::Result<Change>,
    ) -> io::Result<()> {
        let place = self.queue.reserve().await.map_err(|_| io::Error::other("raft log closed"))?;
        let mut memory = self.shared.memory.lock();
        memory.refuse_if_failed()?;
        let sequence = memory.sequence + 1;
        let change = edit(&mut memory, sequence)?;
        memory.sequence = sequence;
        place.send(Queued { change, sequence, done });
        Ok(())
    }

    async fn submit_and_wait(
        &self,
        edit: impl FnOnce(&mut Memory, u64) -> io::Result<Change>,
    ) -> io::Result<()> {
        let (done_tx, done) = oneshot::channel();
        let done_tx: Done = Box::new(move |result| {
            let _ = done_tx.send(result);
        });
        self.submit(done_tx, edit).await?;
        done.await.map_err(|_| io::Error::other("raft log closed"))?
    }
}

/// Drains the queue into transactions until the store is dropped, then closes the file.
async fn commit_queued(shared: Arc<Shared>, mut queue: mpsc::Receiver<Queued>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, COMMIT_CHANGES_MAX).await > 0 {
        let (file, refused, committed) = {
            let mut memory = shared.memory.lock();
            let refused = memory.refuse_if_failed();
            (memory.file.clone(), refused, memory.committed_unsaved.take())
        };
        let mut changes = Vec::with_capacity(batch.len() + 1);
        let mut callbacks = Vec::with_capacity(batch.len());
        let mut sequence = 0;
        let mut flushed = shared.memory.lock().flushed;
        for queued in batch.drain(..) {
            sequence = queued.sequence;
            flushed.note(&queued.change);
            changes.push(queued.change);
            callbacks.push(queued.done);
        }
        changes.extend(committed.map(Change::Committed));
        let result = match (refused, file) {
            (Ok(()), Some(file)) => {
                let disk = Arc::clone(&shared.disk);
                let commit = move || {
                    file::keep_room(&*disk, changes.iter().map(change_bytes).sum())?;
                    file.commit(&changes)
                };
                shared.env.blocking(Lane::Log, commit).await.map_err(|error| shared.fail(error))
            }
            (refused, _) => refused.and(Err(io::Error::other("raft log closed"))),
        };
        if result.is_ok() {
            let mut memory = shared.memory.lock();
            memory.durable_sequence = sequence;
            memory.flushed = flushed;
            memory.forget_old();
        }
        for done in callbacks {
            done(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
    let file = {
        let mut memory = shared.memory.lock();
        memory.failed.get_or_insert_with(|| "it was closed".into());
        memory.file.take()
    };
    shared.env.blocking(Lane::Log, move || drop(file)).await;
}

/// Reads every durable record again, without the entries in memory, until the log is closed. redb
/// checks its pages only when it opens a file. Each record has its own checksum.
async fn scrub(shared: Arc<Shared>) {
    let mut next = 0;
    // A truncation reaches the file before the range in memory shows it. So one pass may see a gap
    // that is no error. Two passes in a row must not.
    let mut met_hole = false;
    loop {
        tokio::time::sleep(SCRUB_PAUSE).await;
        let (txn, range) = {
            let memory = shared.memory.lock();
            let Some(file) = memory.file.as_ref().filter(|_| memory.failed.is_none()) else {
                return;
            };
            let range = memory.first.max(next)..memory.flushed.last.map_or(0, |last| last + 1);
            if range.is_empty() {
                next = 0;
                continue;
            }
            // Entries that are purged in memory stay in the file at least until they are purged
            // there too.
            (file.read(), range)
        };
        let read = match txn {
            Ok(txn) => {
                let read = move || file::read_entries(&txn, range, SCRUB_BYTES);
                shared.env.blocking(Lane::Data, read).await
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(entries) => {
                met_hole = false;
                next = entries.last().map_or(0, |last| last.log_id.index + 1);
            }
            Err(LogError::Hole { .. }) if !met_hole => met_hole = true,
            Err(error) => {
                shared.fail(error);
                return;
            }
        }
    }
}

/// Approximate bytes that a change adds to the log.
fn change_bytes(change: &Change) -> u64 {
    match change {
        Change::Append(entries) => entries.iter().map(entry_bytes).sum::<usize>() as u64,
        Change::Vote(_) | Change::TruncateFrom(_) | Change::Purge(_) | Change::Committed(_) => 0,
    }
}

impl Shared {
    fn fail(&self, error: LogError) -> io::Error {
        let why = error.to_string();
        self.memory.lock().failed.get_or_insert_with(|| why.clone());
        (self.fatal)(why.clone());
        io::Error::other(why)
    }

    /// Every entry of the log in `start..end`. With a limit, only the first of them.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let (cold, cold_end, hot) = {
            let memory = self.memory.lock();
            memory.refuse_if_failed()?;
            let start = start.max(memory.first);
            let end = end.min(memory.last.map_or(0, |last| last.index + 1));
            if start >= end {
                return Ok(Vec::new());
            }
            let hot_start = memory.recent.keys().next().copied().unwrap_or(u64::MAX).min(end);
            let hot = memory.recent_entries(start.max(hot_start), end, bytes_max);
            // The view of the file is taken under the same lock, so no change can happen in
            // between.
            let cold = match (&memory.file, start < hot_start) {
                (Some(file), true) => Some((file.read(), start..hot_start)),
                _ => None,
            };
            (cold, hot_start, hot)
        };
        let Some((txn, range)) = cold else { return Ok(hot) };
        let txn = txn.map_err(|error| self.fail(error))?;
        let mut entries = self
            .env
            .blocking(Lane::Replication, move || file::read_entries(&txn, range, bytes_max))
            .await
            .map_err(|error| self.fail(error))?;
        let bytes: usize = entries.iter().map(entry_bytes).sum();
        if entries.last().is_some_and(|last| last.log_id.index + 1 == cold_end) && bytes < bytes_max
        {
            entries.extend(hot);
        }
        Ok(entries)
    }
}

impl<Rt: AsyncRuntime> RaftLogReader<TypeConfig<Rt>> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.0.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.read(start, end, READ_BYTES_MAX).await
    }

    /// Reads for apply, one piece at a time. A node that comes back far behind must not hold its
    /// whole backlog in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let shared = self.0.clone();
        let (start, end) = bounds(&range);
        let pieces = stream::try_unfold(start, move |next| {
            let shared = shared.clone();
            async move {
                let piece = shared.read(next, end, READ_BYTES_MAX).await?;
                let last = piece.last().map(|entry| entry.log_id.index);
                let piece = stream::iter(piece.into_iter().map(io::Result::Ok));
                Ok::<_, io::Error>(last.map(|last| (piece, last + 1)))
            }
        });
        Box::pin(futures::TryStreamExt::try_flatten(pieces))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let memory = self.0.memory.lock();
        memory.refuse_if_failed()?;
        Ok(memory.vote)
    }
}

impl<Rt: AsyncRuntime> RaftLogStorage<TypeConfig<Rt>> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig<Rt>>> {
        let memory = self.shared.memory.lock();
        memory.refuse_if_failed()?;
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader(self.shared.clone())
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        let (done_tx, done) = oneshot::channel();
        let done_tx: Done = Box::new(move |result| {
            let _ = done_tx.send(result);
        });
        self.submit(done_tx, |_, _| Ok(Change::Vote(vote))).await?;
        done.await.map_err(|_| io::Error::other("raft log closed"))??;
        self.shared.memory.lock().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut memory = self.shared.memory.lock();
        memory.refuse_if_failed()?;
        memory.committed = committed;
        memory.committed_unsaved = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let memory = self.shared.memory.lock();
        memory.refuse_if_failed()?;
        Ok(memory.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<Rt>>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let done: Done = Box::new(move |result| callback.io_completed(result));
        self.submit(done, |memory, sequence| {
            memory.append(&entries, sequence)?;
            Ok(Change::Append(entries))
        })
        .await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.submit_and_wait(|memory, _| {
            Ok(Change::TruncateFrom(memory.truncate_after(last_log_id)))
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.submit_and_wait(|memory, _| {
            memory.purge(log_id);
            Ok(Change::Purge(log_id))
        })
        .await
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
