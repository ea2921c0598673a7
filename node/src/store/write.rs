//! Receiving a segment.
//!
//! ```text
//! push ──► buffer of a stored block ──► Data lane: decode, hash, write      (two in flight)
//! finish ──► Data lane: last block, digest, footer, header, sync, wanted?, rename, sync directory
//! ```

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blake3::hazmat::ChainingValue;
use bytes::Bytes;
use cairn_types::blocks::{BlockTable, block_value};
use cairn_types::canary;
use cairn_types::form::StoredBlocks;
use cairn_types::ids::SegmentDigest;
use cairn_types::limits::SEGMENT_BYTES_MAX;
use tokio::sync::oneshot;

use super::error::StoreError;
use super::format::{self, Footer, Header, PAGE_BYTES, file_len, footer_offset, padded};
use super::index::Held;
use super::recover::Why;
use super::stats::add;
use super::tmp::{self, TmpFile};
use super::{Inner, SEGMENTS, SegmentStore, TMP, directory, io_error, place};
use crate::disk::buffers::{AlignedBuffer, PooledBuffer};
use crate::disk::{DiskFile, Open};

/// Full buffers of one writer on their way to the disk: one is hashed while the previous one is
/// written. A third would only wait.
const IN_FLIGHT_MAX: usize = 2;

/// The result of `begin`.
#[allow(clippy::large_enum_variant, reason = "taken apart at once, never stored")]
pub enum Begin {
    /// The segment is durable here already: send nothing.
    Exists(Stored),
    Writer(Writer),
}

/// A segment that is durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub digest: SegmentDigest,
    /// Raw bytes.
    pub len: u64,
    /// Whether it was durable before this writer started.
    pub existed: bool,
}

impl SegmentStore {
    /// Starts receiving a segment whose bytes come in these stored blocks.
    pub async fn begin(
        &self,
        digest: SegmentDigest,
        blocks: StoredBlocks,
    ) -> Result<Begin, StoreError> {
        self.inner.check_running()?;
        let len = blocks.raw_len();
        if !(1..=SEGMENT_BYTES_MAX).contains(&len) {
            return Err(StoreError::SegmentLength { digest, len });
        }
        self.inner.know(digest).await?;
        match self.inner.index.len_of(digest) {
            Some(held) if held == len => {
                // The index gives a fast answer. One look at the disk then confirms that the file
                // exists.
                if self.without_file(vec![digest]).await.is_empty() {
                    return Ok(Begin::Exists(Stored { digest, len, existed: true }));
                }
                self.quarantine_if_bad(digest).await?;
            }
            Some(want) => return Err(StoreError::WrongLength { digest, want, got: len }),
            None => {}
        }
        let (inner, needed) = (Arc::clone(&self.inner), file_len(&blocks));
        let tmp = self.inner.data(move || inner.create_tmp(digest, needed)).await;
        let tmp = self.inner.trouble.note(tmp)?;
        add(&self.inner.counters.segments_received, 1);
        Ok(Begin::Writer(Writer {
            inner: Arc::clone(&self.inner),
            digest,
            received: 0,
            current: None,
            filled: 0,
            values: Vec::with_capacity(blocks.count()),
            blocks,
            launched: 0,
            in_flight: VecDeque::new(),
            tmp,
            failed: false,
        }))
    }
}

/// Receives one segment. If it is dropped before it finishes, it leaves no file.
pub struct Writer {
    inner: Arc<Inner>,
    digest: SegmentDigest,
    blocks: StoredBlocks,
    /// Stored bytes.
    received: u64,
    /// The block being filled; the last one stays here for `finish`.
    current: Option<PooledBuffer>,
    filled: usize,
    /// Values of the blocks written, in order.
    values: Vec<ChainingValue>,
    /// Blocks handed to the disk.
    launched: usize,
    in_flight: VecDeque<oneshot::Receiver<Result<Written, StoreError>>>,
    tmp: TmpFile,
    failed: bool,
}

struct Written {
    value: ChainingValue,
    bytes: u64,
}

impl Writer {
    pub fn digest(&self) -> SegmentDigest {
        self.digest
    }

    /// The blocks this writer expects.
    pub fn blocks(&self) -> &StoredBlocks {
        &self.blocks
    }

    /// Stored bytes taken so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes the next bytes, in order, in pieces of any size. Waits while the disk is behind. After
    /// an error the caller can only drop the writer.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.failed {
            return Err(StoreError::WriterFailed(self.digest));
        }
        // If this future is dropped in the middle, the flag stays set, because bytes would be
        // missing.
        self.failed = true;
        self.take(&bytes).await?;
        self.failed = false;
        Ok(())
    }

    /// Checks length and digest and makes the segment durable and visible, in this order. An
    /// error leaves nothing behind.
    pub async fn finish(self) -> Result<Stored, StoreError> {
        self.finish_if(|| true).await
    }

    /// Like [`Writer::finish`], but only if `condition` is true under the digest's lock. The
    /// condition is called just before the file becomes visible. If it is false, the result is
    /// `NotWanted`. A task that destroys files waits for the same lock. So a file whose slot is
    /// gone is either refused here or found by that task.
    ///
    /// The condition must not block for long and must not call this store.
    pub async fn finish_if(
        mut self,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Stored, StoreError> {
        if self.failed {
            return Err(StoreError::WriterFailed(self.digest));
        }
        let want = self.stored_len();
        if self.received != want {
            let Self { digest, received: got, .. } = self;
            return Err(StoreError::WrongLength { digest, want, got });
        }
        while !self.in_flight.is_empty() {
            self.reap().await?;
        }
        let inner = Arc::clone(&self.inner);
        inner.to_the_end("segment finish", self.finish_under_lock(condition)).await
    }

    /// Gives up and waits until the temporary file is gone.
    pub async fn abort(mut self) {
        while !self.in_flight.is_empty() {
            // A failed write does not matter here, because the file is removed next.
            let _ = self.reap().await;
        }
        let Self { inner, tmp, .. } = self;
        let disk = Arc::clone(&inner.disk);
        inner.data(move || tmp.remove(&*disk)).await;
    }

    fn stored_len(&self) -> u64 {
        self.blocks.form().stored_len().into()
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        let (got, want) = (self.received.saturating_add(bytes.len() as u64), self.stored_len());
        if got > want {
            return Err(StoreError::WrongLength { digest: self.digest, want, got });
        }
        add(&self.inner.counters.bytes_received, bytes.len() as u64);
        while !bytes.is_empty() {
            // At most one buffer: a stored block is never longer than a raw one.
            if self.filled == self.blocks.stored_len(self.launched) as usize {
                self.launch().await?;
            }
            let end = self.blocks.stored_len(self.launched) as usize;
            let buffer = self.current.get_or_insert_with(|| self.inner.pool.take());
            let count = bytes.len().min(end - self.filled);
            let (now, later) = bytes.split_at(count);
            buffer[self.filled..self.filled + count].copy_from_slice(now);
            self.filled += count;
            self.received += count as u64;
            bytes = later;
        }
        Ok(())
    }

    /// Sends the full buffer to the disk.
    async fn launch(&mut self) -> Result<(), StoreError> {
        while self.in_flight.len() >= IN_FLIGHT_MAX {
            self.reap().await?;
        }
        let Some(buffer) = self.current.take() else { return Ok(()) };
        let (filled, index, blocks) = (self.filled, self.launched, self.blocks.clone());
        self.filled = 0;
        self.launched += 1;
        let (done, written) = oneshot::channel();
        let (inner, file) = (Arc::clone(&self.inner), Arc::clone(&self.tmp.file));
        let path = self.tmp.path.clone();
        // A separate task, so that the write continues while this writer waits for the network.
        self.inner.env.spawn("segment write", async move {
            let job = Arc::clone(&inner);
            let result = inner
                .data(move || job.write_block(&*file, &path, &blocks, index, buffer, filled))
                .await;
            let _ = done.send(result);
        });
        self.in_flight.push_back(written);
        Ok(())
    }

    /// Waits for the oldest block in flight.
    async fn reap(&mut self) -> Result<(), StoreError> {
        let Some(oldest) = self.in_flight.front_mut() else { return Ok(()) };
        let result = match oldest.await {
            Ok(result) => result,
            // The process is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        };
        self.in_flight.pop_front();
        let Written { value, bytes } = self.inner.trouble.note(result)?;
        self.values.push(value);
        self.tmp.wrote(bytes);
        Ok(())
    }

    async fn finish_under_lock(
        self,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Stored, StoreError> {
        let Self { inner, digest, blocks, current, filled, values, launched, tmp, .. } = self;
        let (len, held) = (blocks.raw_len(), Held::of(&blocks));
        let guard = inner.locks.lock(digest).await;
        let last = current.map(|buffer| (launched, buffer, filled));
        let job = Arc::clone(&inner);
        let sealed = inner
            .data(move || {
                if job.index.len_of(digest).is_some() {
                    // Another writer stored the same bytes first.
                    tmp.remove(&*job.disk);
                    return Ok(None);
                }
                let sealed = job.seal(&tmp, digest, blocks, values, last).and_then(|()| {
                    if !condition() {
                        return Err(StoreError::NotWanted(digest));
                    }
                    job.take_place(&tmp.path, digest)
                });
                match sealed {
                    Ok(()) => Ok(Some(tmp)),
                    Err(error) => {
                        tmp.remove(&*job.disk);
                        Err(error)
                    }
                }
            })
            .await;
        let sealed = inner.trouble.note(sealed)?;
        let existed = sealed.is_none();
        if let Some(tmp) = sealed {
            // Done after the job, not inside it: any task that finds the digest here may report it.
            inner.index.enter(digest, held);
            tmp.renamed();
            inner.trouble.is_over();
            add(&inner.counters.segments_written, 1);
            add(&inner.counters.bytes_written, len);
        }
        drop(guard);
        Ok(Stored { digest, len, existed })
    }
}

/// The part that runs on the Data lane. Everything here blocks.
impl Inner {
    fn create_tmp(
        self: &Arc<Self>,
        digest: SegmentDigest,
        needed: u64,
    ) -> Result<TmpFile, StoreError> {
        let space = self.disk.space().map_err(|error| io_error("measure", ".", error))?;
        let config = &self.config;
        let reservation =
            self.index.reserve(needed, config.capacity_bytes, config.reserve_bytes, space)?;
        let number = self.next_tmp.fetch_add(1, Ordering::Relaxed);
        let path = format!("{TMP}/{digest}.{number}");
        let file = self
            .disk
            .open(&path, Open::CreateDirect)
            .map_err(|error| self.write_error("create", &path, needed, error))?;
        if let Err(error) = file.set_len(needed) {
            let error = self.write_error("allocate", &path, needed, error);
            tmp::remove(&*self.disk, &path);
            return Err(error);
        }
        Ok(TmpFile::new(path, Arc::from(file), Arc::clone(&self.garbage), reservation))
    }

    /// Decodes and hashes one block and writes it, padded to a page.
    fn write_block(
        &self,
        file: &dyn DiskFile,
        path: &str,
        blocks: &StoredBlocks,
        index: usize,
        mut buffer: PooledBuffer,
        filled: usize,
    ) -> Result<Written, StoreError> {
        self.check_running()?;
        let value = self.value_of(blocks, index, &buffer[..filled])?;
        self.write_padded(file, path, blocks, index, &mut buffer, filled)?;
        Ok(Written { value, bytes: padded(filled as u64) })
    }

    /// The value of a stored block's raw bytes. Decoding here proves that the stored bytes give the
    /// digest (D1).
    fn value_of(
        &self,
        blocks: &StoredBlocks,
        index: usize,
        stored: &[u8],
    ) -> Result<ChainingValue, StoreError> {
        let mut room = Vec::new();
        let raw = self.codecs.decode(blocks, index, stored, &mut room)?;
        Ok(block_value(blocks.raw_len(), index, raw))
    }

    fn write_padded(
        &self,
        file: &dyn DiskFile,
        path: &str,
        blocks: &StoredBlocks,
        index: usize,
        buffer: &mut PooledBuffer,
        filled: usize,
    ) -> Result<(), StoreError> {
        let end = filled.next_multiple_of(PAGE_BYTES);
        buffer[filled..end].fill(0);
        let offset = u64::from(format::place(blocks, index).offset);
        file.write_at(offset, &buffer[..end])
            .map_err(|error| self.write_error("write", path, end as u64, error))
    }

    /// Completes a temporary file. When this returns, its digest is right and its bytes are
    /// durable.
    fn seal(
        &self,
        tmp: &TmpFile,
        digest: SegmentDigest,
        blocks: StoredBlocks,
        mut values: Vec<ChainingValue>,
        mut last: Option<(usize, PooledBuffer, usize)>,
    ) -> Result<(), StoreError> {
        self.check_running()?;
        let (file, path) = (&*tmp.file, tmp.path.as_str());
        if let Some((index, buffer, filled)) = &last {
            values.push(self.value_of(&blocks, *index, &buffer[..*filled])?);
        }
        // This node chose the block count and length, so a refusal can only mean wrong bytes.
        let table = BlockTable::checked(digest, blocks.raw_len(), values)
            .map_err(|_| StoreError::WrongDigest(digest))?;
        if let Some((index, buffer, filled)) = &mut last {
            self.write_padded(file, path, &blocks, *index, buffer, *filled)?;
        }
        let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
        let mut write = |offset: u64, encode: &dyn Fn(&mut [u8])| {
            encode(&mut page);
            file.write_at(offset, &page)
                .map_err(|error| self.write_error("write", path, PAGE_BYTES as u64, error))
        };
        let (offset, form) = (footer_offset(&blocks), blocks.form());
        let footer = Footer { table, blocks };
        write(offset, &|page| footer.encode(page))?;
        let header = Header { form, digest };
        write(0, &|page| header.encode(page))?;
        if canary!("put_before_sync") {
            return Ok(());
        }
        file.sync().map_err(|error| self.fatal("sync", path, error))
    }

    /// Renames a synced file to its final place, durably. A file already in that place was not in
    /// the durable set. It is kept as evidence in quarantine.
    pub(super) fn take_place(&self, from: &str, digest: SegmentDigest) -> Result<(), StoreError> {
        self.check_running()?;
        let to = place(digest);
        if self.disk.exists(&to).map_err(|error| io_error("look for", &to, error))? {
            self.set_aside(digest, Why::InTheWay)?;
        }
        let mut renamed = self.disk.rename(from, &to);
        if renamed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            // The whole directory was removed from outside. It is made again.
            let made = self.disk.create_dir(&directory(digest));
            made.map_err(|error| self.write_error("create", &to, PAGE_BYTES as u64, error))?;
            self.sync_dir(SEGMENTS)?;
            renamed = self.disk.rename(from, &to);
        }
        renamed.map_err(|error| self.write_error("rename", from, PAGE_BYTES as u64, error))?;
        if canary!("skip_directory_sync") {
            return Ok(());
        }
        self.sync_dir(&directory(digest))
    }
}
