//! The ledger: when each segment was last verified and how often it was read.
//!
//! May be lost at any time: no decision that keeps data depends on it. Two implementations:
//! [`SledLedger`] (production) and [`MemoryLedger`] (simulator and tests).

use std::collections::BTreeMap;
use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cairn_core::scrub::Known;
use cairn_host::seam::{Env, Lane};
use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

/// Statistics by segment. Recording never blocks. Reading and flushing may block and run on the
/// Data lane.
pub trait Ledger: Send + Sync + 'static {
    /// The segment was written or read as a whole, and was good then.
    fn record(&self, digest: SegmentDigest, known: Known);
    fn known(&self, digest: SegmentDigest) -> Option<Known>;
    /// `count` more blocks of the segment were read.
    fn add_reads(&self, digest: SegmentDigest, count: u64);
    fn reads(&self, digest: SegmentDigest) -> u64;
    /// The segment is no longer held.
    fn forget(&self, digest: SegmentDigest);
    /// What an operator last asked the scrub for.
    fn scrub_orders(&self) -> ScrubOrders;
    fn set_scrub_orders(&self, orders: ScrubOrders);
    /// Writes the records to the disk. Call it from time to time. It never fails: records that
    /// cannot be stored are lost.
    fn flush(&self);
}

/// What an operator asked the scrub of a node for. Wall times, milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubOrders {
    /// A pass over everything began then, and has not ended.
    pub pass_since_ms: Option<u64>,
    /// Nothing is read before this time.
    pub paused_until_ms: Option<u64>,
    /// A pass or a cycle was last complete then.
    pub complete_ms: Option<u64>,
    /// A bad replica was last found then.
    pub bad_ms: Option<u64>,
}

/// Flush period. Records since the last flush are lost with the process.
const FLUSH_PERIOD: Duration = Duration::from_secs(60);

/// Keeps the ledger for as long as the node runs.
pub async fn run(env: Env, ledger: Arc<dyn Ledger>) {
    loop {
        tokio::time::sleep(FLUSH_PERIOD).await;
        let ledger = Arc::clone(&ledger);
        env.blocking(Lane::Data, move || ledger.flush()).await;
    }
}

/// One segment's record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    known: Option<Known>,
    reads: u64,
}

/// A ledger that lives as long as its process.
#[derive(Default)]
pub struct MemoryLedger {
    entries: Mutex<BTreeMap<SegmentDigest, Entry>>,
    orders: Mutex<ScrubOrders>,
}

impl Ledger for MemoryLedger {
    fn record(&self, digest: SegmentDigest, known: Known) {
        self.entries.lock().entry(digest).or_default().known = Some(known);
    }

    fn known(&self, digest: SegmentDigest) -> Option<Known> {
        self.entries.lock().get(&digest)?.known
    }

    fn add_reads(&self, digest: SegmentDigest, count: u64) {
        let mut entries = self.entries.lock();
        let entry = entries.entry(digest).or_default();
        entry.reads = entry.reads.saturating_add(count);
    }

    fn reads(&self, digest: SegmentDigest) -> u64 {
        self.entries.lock().get(&digest).map_or(0, |entry| entry.reads)
    }

    fn forget(&self, digest: SegmentDigest) {
        self.entries.lock().remove(&digest);
    }

    fn scrub_orders(&self) -> ScrubOrders {
        *self.orders.lock()
    }

    fn set_scrub_orders(&self, orders: ScrubOrders) {
        *self.orders.lock() = orders;
    }

    fn flush(&self) {}
}

/// The directory of the production ledger within the data directory.
pub const LEDGER_DIRECTORY: &str = "ledger";
/// Exists beside the ledger while the ledger is being opened. If it exists at a start, opening
/// ended the last process, and the ledger is deleted.
const OPENING_FILE: &str = "ledger.opening";
/// sled's page cache, bytes. It is small because the ledger holds only statistics and memory is for
/// segments.
const CACHE_BYTES: u64 = 8 << 20;
/// Limit on segments recorded since the last flush. At the limit, records of new segments are
/// dropped. A missing statistic costs nothing, but a queue without a limit does.
const PENDING_MAX: usize = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("cannot {action} ledger {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot open ledger {}: {source}", path.display())]
    Open { path: PathBuf, source: sled::Error },
}

/// Records of one segment since the last flush.
#[derive(Debug, Clone, Copy, Default)]
struct Pending {
    known: Option<Known>,
    reads: u64,
    /// Whether the stored record must be removed.
    forgotten: bool,
}

/// A ledger on disk, in sled with a small cache: digest -> verified wall time, reads.
///
/// sled syncs its file when it is dropped, and panics if that fails. The panic would abort a node
/// that is stopping because its disk fails, before it can report why. So sled is never dropped.
/// Records that were not flushed are lost with the process, which is allowed.
pub struct SledLedger {
    stored: ManuallyDrop<sled::Db>,
    /// A flush failed. sled accepts no more records, and the failure was logged.
    failed: AtomicBool,
    pending: Mutex<BTreeMap<SegmentDigest, Pending>>,
    orders: Mutex<ScrubOrders>,
    /// One flush at a time. Otherwise a record could be merged into a value that is being replaced.
    flushing: Mutex<()>,
}

impl SledLedger {
    /// Opens the ledger of data directory `root`. A ledger that cannot be opened is deleted, with a
    /// warning, and made anew. Blocks.
    pub fn open(root: &Path) -> Result<Self, LedgerError> {
        let path = root.join(LEDGER_DIRECTORY);
        let opening = root.join(OPENING_FILE);
        if opening.exists() {
            tracing::warn!(path = %path.display(), "opening the ledger failed last time, deleting it");
            remove_directory(&path)?;
        }
        let mark = |source| LedgerError::Io { action: "mark", path: opening.clone(), source };
        std::fs::write(&opening, b"").map_err(mark)?;
        let stored = match open_sled(&path) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "ledger is damaged, deleting it");
                remove_directory(&path)?;
                open_sled(&path)
                    .map_err(|source| LedgerError::Open { path: path.clone(), source })?
            }
        };
        std::fs::remove_file(&opening).map_err(mark)?;
        let orders = stored.get(ORDERS_KEY).ok().flatten();
        let orders = orders.and_then(|value| decode_orders(&value)).unwrap_or_default();
        Ok(Self {
            stored: ManuallyDrop::new(stored),
            orders: Mutex::new(orders),
            failed: AtomicBool::new(false),
            pending: Mutex::default(),
            flushing: Mutex::default(),
        })
    }

    fn change(&self, digest: SegmentDigest, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock();
        if pending.len() < PENDING_MAX || pending.contains_key(&digest) {
            change(pending.entry(digest).or_default());
        }
    }

    fn entry(&self, digest: SegmentDigest) -> Entry {
        let pending = self.pending.lock().get(&digest).copied().unwrap_or_default();
        merge(self.stored_entry(digest), pending)
    }

    fn stored_entry(&self, digest: SegmentDigest) -> Entry {
        match self.stored.get(digest.0) {
            Ok(Some(value)) => decode(&value).unwrap_or_default(),
            Ok(None) => Entry::default(),
            Err(error) => {
                tracing::debug!(%digest, %error, "cannot read ledger");
                Entry::default()
            }
        }
    }
}

impl Ledger for SledLedger {
    fn record(&self, digest: SegmentDigest, known: Known) {
        self.change(digest, |pending| pending.known = Some(known));
    }

    fn known(&self, digest: SegmentDigest) -> Option<Known> {
        self.entry(digest).known
    }

    fn add_reads(&self, digest: SegmentDigest, count: u64) {
        self.change(digest, |pending| pending.reads = pending.reads.saturating_add(count));
    }

    fn reads(&self, digest: SegmentDigest) -> u64 {
        self.entry(digest).reads
    }

    fn forget(&self, digest: SegmentDigest) {
        self.change(digest, |pending| *pending = Pending { forgotten: true, ..Pending::default() });
    }

    fn scrub_orders(&self) -> ScrubOrders {
        *self.orders.lock()
    }

    fn set_scrub_orders(&self, orders: ScrubOrders) {
        *self.orders.lock() = orders;
    }

    fn flush(&self) {
        let _one = self.flushing.lock();
        let pending = std::mem::take(&mut *self.pending.lock());
        let mut batch = sled::Batch::default();
        for (digest, change) in pending {
            let entry = merge(self.stored_entry(digest), change);
            if entry == Entry::default() {
                batch.remove(&digest.0);
            } else {
                batch.insert(&digest.0, &encode(entry));
            }
        }
        batch.insert(ORDERS_KEY, &encode_orders(self.scrub_orders()));
        let kept = self.stored.apply_batch(batch).and_then(|()| self.stored.flush());
        if let Err(error) = kept
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "cannot keep ledger, statistics are lost");
        }
    }
}

fn open_sled(path: &Path) -> sled::Result<sled::Db> {
    sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()
}

/// Removes the directory or file at the path.
fn remove_directory(path: &Path) -> Result<(), LedgerError> {
    let removed =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(LedgerError::Io { action: "delete", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn merge(stored: Entry, pending: Pending) -> Entry {
    let stored = if pending.forgotten { Entry::default() } else { stored };
    Entry {
        known: pending.known.or(stored.known),
        reads: stored.reads.saturating_add(pending.reads),
    }
}

/// The time plus one (0 = not known), with the highest bit set if the segment was only written then;
/// and reads. Both little-endian.
fn encode(entry: Entry) -> [u8; 16] {
    let known = match entry.known {
        None => 0,
        Some(known @ Known::Verified(_)) => stored_time(Some(known.at_ms())),
        Some(known @ Known::Written(_)) => stored_time(Some(known.at_ms())) | WRITTEN,
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&known.to_le_bytes());
    bytes[8..].copy_from_slice(&entry.reads.to_le_bytes());
    bytes
}

fn decode(value: &[u8]) -> Option<Entry> {
    let (known, rest) = value.split_first_chunk::<8>()?;
    let reads = u64::from_le_bytes(rest.try_into().ok()?);
    let known = u64::from_le_bytes(*known);
    let how = if known & WRITTEN == 0 { Known::Verified } else { Known::Written };
    Some(Entry { known: (known & !WRITTEN).checked_sub(1).map(how), reads })
}

/// The highest bit of a stored time. No clock of this world reaches it.
const WRITTEN: u64 = 1 << 63;

/// No digest is that short.
const ORDERS_KEY: &[u8] = b"scrub";

fn encode_orders(orders: ScrubOrders) -> [u8; 32] {
    let ScrubOrders { pass_since_ms, paused_until_ms, complete_ms, bad_ms } = orders;
    let mut bytes = [0; 32];
    let times = [pass_since_ms, paused_until_ms, complete_ms, bad_ms];
    for (place, time) in bytes.chunks_exact_mut(8).zip(times) {
        place.copy_from_slice(&stored_time(time).to_le_bytes());
    }
    bytes
}

fn decode_orders(value: &[u8]) -> Option<ScrubOrders> {
    let value: &[u8; 32] = value.try_into().ok()?;
    let (times, _) = value.as_chunks::<8>();
    let time = |place: usize| u64::from_le_bytes(times[place]).checked_sub(1);
    Some(ScrubOrders {
        pass_since_ms: time(0),
        paused_until_ms: time(1),
        complete_ms: time(2),
        bad_ms: time(3),
    })
}

/// The time plus one; 0 = none.
fn stored_time(time_ms: Option<u64>) -> u64 {
    time_ms.map_or(0, |ms| ms.min(WRITTEN - 2) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SegmentDigest = SegmentDigest([1; 32]);
    const B: SegmentDigest = SegmentDigest([2; 32]);
    const ORDERS: ScrubOrders = ScrubOrders {
        pass_since_ms: Some(5),
        paused_until_ms: None,
        complete_ms: Some(0),
        bad_ms: Some(9),
    };

    fn tells_what_it_was_told(ledger: &dyn Ledger) {
        assert_eq!((ledger.known(A), ledger.reads(A)), (None, 0));
        ledger.record(A, Known::Verified(0));
        ledger.add_reads(A, 2);
        ledger.flush();
        ledger.add_reads(A, 3);
        ledger.add_reads(B, 1);
        assert_eq!((ledger.known(A), ledger.reads(A)), (Some(Known::Verified(0)), 5));
        assert_eq!((ledger.known(B), ledger.reads(B)), (None, 1));
        ledger.forget(A);
        ledger.add_reads(A, 1);
        ledger.flush();
        assert_eq!((ledger.known(A), ledger.reads(A)), (None, 1));
        ledger.record(A, Known::Written(77));
        assert_eq!(ledger.scrub_orders(), ScrubOrders::default());
        ledger.set_scrub_orders(ORDERS);
        ledger.flush();
        assert_eq!(ledger.scrub_orders(), ORDERS);
    }

    #[test]
    fn both_ledgers_tell_what_they_were_told() {
        tells_what_it_was_told(&MemoryLedger::default());
        let dir = tempfile::tempdir().unwrap();
        tells_what_it_was_told(&SledLedger::open(dir.path()).unwrap());
        let again = SledLedger::open(copy(dir.path()).path()).unwrap();
        let known = Some(Known::Written(77));
        assert_eq!((again.known(A), again.reads(A), again.reads(B)), (known, 1, 1));
        assert_eq!(again.scrub_orders(), ORDERS);
    }

    /// A copy of the data directory, as the next process finds it. In this process the ledger stays
    /// locked.
    fn copy(from: &Path) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        let (from, into) = (from.join(LEDGER_DIRECTORY), to.path().join(LEDGER_DIRECTORY));
        std::fs::create_dir(&into).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), into.join(entry.file_name())).unwrap();
            }
        }
        to
    }

    /// sled's drop syncs, and panics if the disk fails.
    #[test]
    fn a_ledger_that_ends_leaves_the_disk_alone() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = SledLedger::open(dir.path()).unwrap();
        ledger.add_reads(A, 4);
        drop(ledger);
        let ended = open_sled(&dir.path().join(LEDGER_DIRECTORY));
        assert!(ended.is_err(), "sled was dropped: its lock is free");
    }

    #[test]
    fn ledger_that_cannot_be_opened_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LEDGER_DIRECTORY), b"not a ledger").unwrap();
        let ledger = SledLedger::open(dir.path()).unwrap();
        ledger.add_reads(A, 4);
        ledger.flush();
        // As if the process had died while opening it.
        let dir = copy(dir.path());
        std::fs::write(dir.path().join(OPENING_FILE), b"").unwrap();
        assert_eq!(SledLedger::open(dir.path()).unwrap().reads(A), 0);
        assert!(!dir.path().join(OPENING_FILE).exists());
    }
}
