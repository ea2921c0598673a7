//! The segment store: segments on this node's disk.
//!
//! ```text
//!             begin            finish: digest right, fsync, rename, fsync directory
//! bytes ──► tmp/DIGEST.N ─────────────────────────────► segments/XX/DIGEST ──► durable set
//!              │ drop, error                                 │ quarantine   ▲ recover
//!              ▼                                             ▼              │ (verified)
//!            removed                          quarantine/DIGEST.N.WHY.MS ───┘
//! ```
//!
//! Promises:
//! * Only bytes that match a digest are visible under it, and only after the bytes and their name
//!   are durable (D1, D6). Only the durable set in memory answers the question "is it held".
//! * A file is destroyed only by [`SegmentStore::destroy`], under the digest's lock, while the
//!   caller's condition is true (D3). No file is ever overwritten: a file that is in the way, bad
//!   or unknown is moved to quarantine.
//! * After a failed sync nothing more is acknowledged, and the fatal hook has been called.
//!
//! The future of a method may be dropped at any await. Work that must not stop half-way runs as a
//! task of its own.

mod checks;
pub(crate) mod error;
pub mod format;
mod index;
mod keep;
mod locks;
mod read;
mod recover;
mod salvage;
mod start;
mod stats;
mod tmp;
mod trouble;
mod write;

pub mod ballast;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn_host::seam::{Env, Lane};
use cairn_types::form::Codecs;
use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::disk::buffers::BufferPool;
use crate::disk::{Disk, is_out_of_descriptors};
use crate::fatal::FatalHook;

pub use checks::{CHECKS_MAX, Checking};
pub use error::{Damage, StoreError};
pub use index::{Room, WRITERS_MAX};
pub use keep::{Checked, Destroyed};
pub use locks::DigestGuard;
pub use read::{BlockStream, Reading};
pub use recover::{Copies, Quarantined, Restored, Why};
pub use salvage::Salvage;
pub use start::Found;
pub use stats::StoreStats;
pub use write::{Begin, Stored, Writer};

use checks::Checks;
pub(crate) use error::is_full;
use index::StoreIndex;
use locks::DigestLocks;
use start::Looked;
use stats::Counters;
use tmp::Garbage;
use trouble::Trouble;

/// Space never given to data unless configured otherwise, bytes: room for the log with its
/// ballast, two catalogue snapshots and the ledger.
pub const RESERVE_BYTES_DEFAULT: u64 = 512 << 20;

pub(super) const SEGMENTS: &str = "segments";
pub(super) const TMP: &str = "tmp";
pub(super) const QUARANTINE: &str = "quarantine";

#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Most bytes of segment files, including quarantine. With `u64::MAX` only the disk limits
    /// them.
    pub capacity_bytes: u64,
    /// Bytes of the file system that data never takes.
    pub reserve_bytes: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { capacity_bytes: u64::MAX, reserve_bytes: RESERVE_BYTES_DEFAULT }
    }
}

/// A cheap handle to the store.
#[derive(Clone)]
pub struct SegmentStore {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    disk: Arc<dyn Disk>,
    config: StoreConfig,
    codecs: Codecs,
    index: Arc<StoreIndex>,
    locks: Arc<DigestLocks>,
    checks: Arc<Checks>,
    pool: Arc<BufferPool>,
    garbage: Arc<Garbage>,
    counters: Counters,
    trouble: Trouble,
    looked: Looked,
    listed: Mutex<recover::Listed>,
    on_fatal: FatalHook,
    stopped: AtomicBool,
    /// Makes the names of this process's temporary files distinct.
    next_tmp: AtomicU64,
}

impl SegmentStore {
    /// Whether the segment is known to be durable here, right now. The answer is complete once the
    /// store [is looked through](SegmentStore::is_looked_through).
    pub fn holds(&self, digest: SegmentDigest) -> bool {
        self.len_of(digest).is_some()
    }

    /// The codecs this store can decode.
    pub fn codecs(&self) -> Codecs {
        self.inner.codecs
    }

    /// Raw length of a held segment.
    pub fn len_of(&self, digest: SegmentDigest) -> Option<u64> {
        self.inner.index.len_of(digest)
    }

    /// All segments held, with their raw lengths, by digest.
    pub fn held(&self) -> Vec<(SegmentDigest, u64)> {
        self.inner.index.held()
    }

    /// At most `limit` held segments that follow `after`, ordered by digest. For a scrub's cursor.
    pub fn held_after(
        &self,
        after: Option<SegmentDigest>,
        limit: usize,
    ) -> Vec<(SegmentDigest, u64)> {
        self.inner.index.held_after(after, limit)
    }

    /// Segments whose files failed the check at start. `quarantine` moves them to quarantine.
    pub fn damaged(&self) -> Vec<SegmentDigest> {
        self.inner.index.damaged()
    }

    /// Whether a fatal error stopped the store.
    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// Waits for the digest's lock, under which segments become visible and are destroyed. While
    /// you hold it, do not call a function that finishes, quarantines, destroys or recovers the
    /// same digest.
    pub async fn lock(&self, digest: SegmentDigest) -> DigestGuard {
        self.inner.locks.lock(digest).await
    }

    /// Room for new segments now, based on the files looked at so far. There is none while the disk
    /// fails writes.
    pub async fn room(&self) -> Result<Room, StoreError> {
        let inner = Arc::clone(&self.inner);
        let mut room = self.inner.data(move || inner.room()).await?;
        if self.inner.trouble.is_recent() {
            room.available = 0;
        }
        Ok(room)
    }

    pub fn stats(&self) -> StoreStats {
        self.inner.counters.snapshot(self.inner.index.totals())
    }
}

impl Inner {
    /// Runs `work` where blocking is allowed.
    async fn data<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.env.blocking(Lane::Data, work).await
    }

    /// Runs `work` to its end even if the caller stops waiting.
    async fn to_the_end<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        self.env.spawn(name, async move {
            let _ = done.send(work.await);
        });
        match result.await {
            Ok(value) => value,
            // The process is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        }
    }

    fn check_running(&self) -> Result<(), StoreError> {
        if self.stopped.load(Ordering::SeqCst) { Err(StoreError::Stopped) } else { Ok(()) }
    }

    /// Blocks.
    fn room(&self) -> Result<Room, StoreError> {
        let disk = self.disk.space().map_err(|error| io_error("measure", ".", error))?;
        let StoreConfig { capacity_bytes, reserve_bytes } = self.config;
        Ok(self.index.room(capacity_bytes, reserve_bytes, disk))
    }

    /// Converts an error of a write, create or rename. The caller handles a full disk.
    /// Blocks.
    fn write_error(
        &self,
        action: &'static str,
        path: &str,
        needed: u64,
        error: io::Error,
    ) -> StoreError {
        if !is_full(&error) {
            return io_error(action, path, error);
        }
        let reserve = self.config.reserve_bytes;
        let room = self.room();
        if room.as_ref().is_ok_and(|room| room.disk.inodes == 0) {
            return StoreError::NoInodes;
        }
        let available = room.map_or(0, |room| room.available);
        StoreError::NoSpace { needed, available, reserve }
    }

    /// After this error the durable state is unknown. A second sync would report success for pages
    /// that the kernel has already dropped.
    fn fatal(&self, action: &'static str, path: &str, source: io::Error) -> StoreError {
        let error = StoreError::Fatal { action, path: path.to_owned(), source };
        if !self.stopped.swap(true, Ordering::SeqCst) {
            (self.on_fatal)(error.to_string());
        }
        error
    }

    /// A directory that could not be opened was not synced. The caller then does not acknowledge
    /// anything. Only a failed sync is fatal. Blocks.
    fn sync_dir(&self, path: &str) -> Result<(), StoreError> {
        self.disk.sync_dir(path).map_err(|error| match is_out_of_descriptors(&error) {
            true => io_error("open directory", path, error),
            false => self.fatal("sync directory", path, error),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.garbage.close();
    }
}

fn io_error(action: &'static str, path: &str, source: io::Error) -> StoreError {
    StoreError::Io { action, path: path.to_owned(), source }
}

/// The directory of a digest's file: its first byte in hexadecimal.
fn directory(digest: SegmentDigest) -> String {
    directory_of(digest.0[0])
}

fn directory_of(first: u8) -> String {
    format!("{SEGMENTS}/{first:02x}")
}

fn place(digest: SegmentDigest) -> String {
    format!("{}/{digest}", directory(digest))
}
