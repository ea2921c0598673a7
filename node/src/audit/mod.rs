//! The audit file of this node: records that apply derives, made durable beside it (T2, decision
//! 0021).
//!
//! ```text
//!   apply --record--> queue --batches, fsync--> audit/FIRST.log, audit/durable
//!     |                                                  |
//!     snapshot of entry n waits until the records up to n are durable: a restart derives the
//!     others again from the log, and a log that is purged cannot
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`file`] | the form of a file, and the walk along its chain |
//! | [`writer`] | start after a crash, appends, new files, old ones removed |
//! | [`read`] | pages for readers, the check of a file |
//!
//! A node that gets a snapshot has not seen the entries before it: it writes a gap. A file that is
//! damaged is never changed: the damage is an alarm, and the records go on in a new file.

pub mod file;
pub mod read;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::{Env, Lane};
use cairn_types::audit::{AuditGap, AuditHead, Audited};
use parking_lot::Mutex;

use self::file::Place;
pub use self::writer::AuditError;
use self::writer::{Writer, gap};
use crate::disk::Disk;
use crate::fatal::FatalHook;
use crate::raft::Applied;
use crate::wake::Wake;

/// Records that wait for the writer. At this limit apply waits: the writer needs a sync for all of
/// them, and the log needs one for each batch of entries.
const QUEUE_MAX: u64 = 4_096;
/// Records in one write.
const BATCH_MAX: usize = 1_024;
/// After a record the writer waits this long for others, unless somebody waits for it.
const GATHER: Duration = Duration::from_millis(200);
/// How long a batch that does not fit the disk waits for room.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// Different damage that is remembered, in words.
const DAMAGE_MAX: usize = 16;

/// How much audit this node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditConfig {
    /// A file that would become longer by the next batch is followed by a new one.
    pub file_bytes: u64,
    /// Older files are removed while all of them take more than this.
    pub keep_bytes: u64,
}

impl Default for AuditConfig {
    /// About five million records.
    fn default() -> Self {
        Self { file_bytes: 64 << 20, keep_bytes: 1 << 30 }
    }
}

impl AuditConfig {
    /// Files of a quarter of what is kept, 64 MiB at most.
    pub fn keeping(keep_bytes: u64) -> Self {
        Self { file_bytes: (keep_bytes / 4).min(64 << 20), keep_bytes }
    }
}

/// What is written.
#[derive(Debug, Clone)]
pub enum Item {
    Record(Audited),
    Gap(AuditGap),
}

impl Item {
    fn head(&self) -> AuditHead {
        match self {
            Self::Record(record) => record.head,
            Self::Gap(gap) => AuditHead { count: gap.last, index: gap.until_index, hash: gap.hash },
        }
    }
}

struct State {
    queue: VecDeque<Item>,
    /// The end of the chain with what is in the queue.
    queued: AuditHead,
    /// What is durable.
    place: Place,
    damage: Vec<String>,
}

/// The audit of this node.
pub struct Trail {
    env: Env,
    pub(crate) disk: Arc<dyn Disk>,
    fatal: FatalHook,
    state: Mutex<State>,
    /// By number of records.
    durable: Applied,
    queued: Wake,
    hurry: Wake,
}

impl Trail {
    /// Opens the files and starts the writer.
    pub async fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        config: AuditConfig,
        fatal: FatalHook,
    ) -> Result<Arc<Self>, AuditError> {
        let opened = Arc::clone(&disk);
        let opened = env.blocking(Lane::Data, move || Writer::open(opened, config)).await;
        let (writer, damage) = opened?;
        let place = writer.place();
        let (queue, queued) = (VecDeque::new(), place.head);
        let trail = Arc::new(Self {
            env: env.clone(),
            disk,
            fatal,
            state: Mutex::new(State { queue, queued, place, damage: Vec::new() }),
            durable: Applied::default(),
            queued: Wake::default(),
            hurry: Wake::default(),
        });
        damage.into_iter().for_each(|text| trail.alarm(text));
        trail.durable.advance(place.head.count);
        env.spawn("audit", Arc::clone(&trail).write(writer));
        env.spawn("audit check", Arc::clone(&trail).check_older(place.file));
        Ok(trail)
    }

    /// The record of an entry that was just applied. Waits while the queue is full.
    pub async fn push(&self, record: Audited) {
        let number = record.head.count;
        {
            let mut state = self.state.lock();
            let end = state.queued;
            if number <= end.count {
                // Derived again after a restart.
                if number == end.count && record.head != end {
                    drop(state);
                    self.alarm(format!("record {number} in the file is not that of the log"));
                }
                return;
            }
            if record.before.count > end.count {
                state.queue.push_back(Item::Gap(gap(&end, &record.before)));
            } else if record.before != end {
                drop(state);
                self.alarm(format!("the chain before record {number} is not that of the log"));
                state = self.state.lock();
            }
            state.queued = record.head;
            state.queue.push_back(Item::Record(record));
        }
        self.queued.ring();
        if let Some(room) = number.checked_sub(QUEUE_MAX) {
            self.until_durable(room).await;
        }
    }

    /// A catalogue from a snapshot takes over, whose chain ends there. `own`: this node made the
    /// snapshot, so its records should be durable. Resolves once what is missing is a durable gap.
    pub async fn adopt(&self, head: AuditHead, own: bool) {
        let missing = {
            let mut state = self.state.lock();
            let end = state.queued;
            if head.count > end.count {
                let missing = gap(&end, &head);
                state.queued = head;
                state.queue.push_back(Item::Gap(missing));
                Some(missing)
            } else {
                if head.count == end.count && head != end {
                    drop(state);
                    self.alarm(format!("record {} in the file is not that of the log", end.count));
                }
                None
            }
        };
        let Some(AuditGap { first, last, .. }) = missing else { return };
        match own {
            true => {
                self.alarm(format!("records {first} to {last} are lost, and the log is purged"))
            }
            false => tracing::info!(first, last, "records not seen here: a gap in the audit"),
        }
        self.queued.ring();
        self.until_durable(head.count).await;
    }

    /// Resolves once all records up to this one are durable.
    pub async fn until_durable(&self, number: u64) {
        if number == 0 {
            return;
        }
        if self.state.lock().place.head.count < number {
            self.hurry.ring();
        }
        self.durable.wait(number).await;
    }

    /// The last record that apply has derived.
    pub fn last(&self) -> u64 {
        self.state.lock().queued.count
    }

    /// What is durable.
    pub fn place(&self) -> Place {
        self.state.lock().place
    }

    pub fn is_damaged(&self) -> bool {
        !self.state.lock().damage.is_empty()
    }

    pub fn damage(&self) -> Vec<String> {
        self.state.lock().damage.clone()
    }

    /// Somebody must look.
    pub(crate) fn alarm(&self, text: String) {
        let mut state = self.state.lock();
        if state.damage.contains(&text) {
            return;
        }
        tracing::error!(text, "the audit is damaged");
        if state.damage.len() < DAMAGE_MAX {
            state.damage.push(text);
        }
    }

    async fn write(self: Arc<Self>, mut writer: Writer) {
        loop {
            self.queued.heard().await;
            self.hurry.wait(GATHER).await;
            loop {
                let batch: Vec<Item> = {
                    let mut state = self.state.lock();
                    let count = state.queue.len().min(BATCH_MAX);
                    state.queue.drain(..count).collect()
                };
                if batch.is_empty() {
                    break;
                }
                match self.append(writer, batch).await {
                    Some(back) => writer = back,
                    None => return,
                }
            }
        }
    }

    /// Makes a batch durable, and waits for room where there is none. `None` if the node stops.
    async fn append(&self, mut writer: Writer, batch: Vec<Item>) -> Option<Writer> {
        let batch = Arc::new(batch);
        let mut is_told = false;
        loop {
            let items = Arc::clone(&batch);
            let append = move || {
                let result = writer.append(&items);
                (writer, result)
            };
            let (back, result) = self.env.blocking(Lane::Data, append).await;
            writer = back;
            match result {
                Ok(place) => {
                    self.state.lock().place = place;
                    self.durable.advance(place.head.count);
                    return Some(writer);
                }
                Err(error) if error.is_full() => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(%error, "the audit waits for room");
                    }
                    tokio::time::sleep(self.env.jitter(FULL_PAUSE)).await;
                }
                Err(error) => {
                    (self.fatal)(error.to_string());
                    return None;
                }
            }
        }
    }

    /// Reads the files before the newest one, which was read at the start.
    async fn check_older(self: Arc<Self>, newest: u64) {
        let disk = Arc::clone(&self.disk);
        let list = self.env.blocking(Lane::Data, move || file::files(&*disk)).await;
        let Ok(files) = list else { return };
        for (place, first) in files.iter().enumerate().filter(|it| *it.1 < newest) {
            let (disk, first) = (Arc::clone(&self.disk), *first);
            let next = files.get(place + 1).copied();
            let check = move || read::check(&*disk, first, None, next, 0);
            let checked = self.env.blocking(Lane::Data, check).await;
            let disk = Arc::clone(&self.disk);
            let now = self.env.blocking(Lane::Data, move || file::files(&*disk)).await;
            // It may have been removed meanwhile, as more than is kept.
            if now.is_ok_and(|now| now.contains(&first)) {
                checked.damage.into_iter().for_each(|text| self.alarm(text));
            }
        }
    }
}
