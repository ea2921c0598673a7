//! Reading segments: block tables, blocks, and whole segments without the page cache.
//!
//! A server sends blocks as they are stored. The reader holds the block table, decodes and
//! verifies. Blocks are decoded and hashed here only for scrub, for recovery from quarantine, for
//! sources of new replicas and for readers that do not know a segment's codec (D6).

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::blocks::BlockTable;
use cairn_types::form::StoredBlocks;
use cairn_types::ids::SegmentDigest;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rustix::io::Errno;

use super::error::{Damage, StoreError};
use super::format::{self, BlockPlace, Footer, FormatError, Header, PAGE_BYTES, padded};
use super::index::Held;
use super::stats::add;
use super::{Inner, SegmentStore, io_error, place};
use crate::disk::buffers::{AlignedBuffer, PooledBuffer};
use crate::disk::{DiskFile, Open};

/// Blocks read by one job, 4 MiB. This is long enough for sequential disk speed and short enough
/// that several restores take turns.
const JOB_BLOCKS: usize = 4;
/// Jobs of one stream at a time: one is sent while the next is read.
const READ_AHEAD: usize = 2;
/// Blocks up to this length are copied out of their 1 MiB buffer, so that they do not pin it.
const COPY_BYTES_MAX: usize = 128 << 10;

/// The blocks asked for, in order.
pub type BlockStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// The form in which a block is returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Its stored bytes, not checked.
    AsStored,
    /// Its raw bytes, decoded and hashed.
    Verified,
}

impl SegmentStore {
    /// The block table, checked against the digest, and the stored blocks.
    pub async fn read_table(&self, digest: SegmentDigest) -> Result<Footer, StoreError> {
        self.inner.know(digest).await?;
        let inner = Arc::clone(&self.inner);
        self.inner
            .data(move || {
                let (file, held) = inner.open_held(digest, Open::Read)?;
                inner.reading(digest, inner.read_footer(&*file, digest, held))
            })
            .await
    }

    /// Streams blocks `blocks` of a held segment.
    pub fn read_blocks(
        &self,
        digest: SegmentDigest,
        blocks: Range<usize>,
        reading: Reading,
    ) -> Result<BlockStream, StoreError> {
        let len = self.inner.index.len_of(digest).ok_or(StoreError::NotHeld(digest))?;
        let count = cairn_types::blocks::block_count(len);
        let Range { start, end } = blocks;
        if start > end || end > count {
            return Err(StoreError::BlockRange { digest, start, end, count });
        }
        let inner = Arc::clone(&self.inner);
        let jobs = (start..end).step_by(JOB_BLOCKS).map(move |first| {
            let inner = Arc::clone(&inner);
            async move {
                let job = Arc::clone(&inner);
                let blocks = first..(first + JOB_BLOCKS).min(end);
                inner.data(move || job.read_run(digest, blocks, reading)).await
            }
        });
        let read = stream::iter(jobs).buffered(READ_AHEAD);
        Ok(read.map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok))).try_flatten().boxed())
    }

    /// Re-reads a held segment against its digest, without the page cache. Returns `Damaged` if any
    /// byte of its file is wrong. The caller decides the next step.
    pub async fn verify(&self, digest: SegmentDigest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        let (file, held) = self
            .inner
            .data(move || {
                let (file, held) = inner.open_held(digest, Open::ReadDirect)?;
                Ok::<_, StoreError>((Arc::<dyn DiskFile>::from(file), held))
            })
            .await?;
        let found = self.inner.verify_file(file, digest).await;
        self.inner.reading(digest, found)?;
        add(&self.inner.counters.segments_verified, 1);
        add(&self.inner.counters.bytes_verified, held.raw_len());
        Ok(())
    }
}

impl Inner {
    /// Reads every byte of a segment file that claims to be `digest`, a few blocks per job.
    pub(super) async fn verify_file(
        self: &Arc<Self>,
        file: Arc<dyn DiskFile>,
        digest: SegmentDigest,
    ) -> Result<Arc<Footer>, Damage> {
        let (job, open) = (Arc::clone(self), Arc::clone(&file));
        let footer = Arc::new(self.data(move || job.read_ends(&*open, digest)).await?);
        for first in (0..footer.blocks.count()).step_by(JOB_BLOCKS) {
            let (job, file, footer) = (Arc::clone(self), Arc::clone(&file), Arc::clone(&footer));
            let mut buffer = self.pool.take();
            self.data(move || {
                let end = (first + JOB_BLOCKS).min(footer.blocks.count());
                (first..end)
                    .try_for_each(|index| job.verify_block(&*file, &footer, index, &mut buffer))
            })
            .await?;
        }
        Ok(footer)
    }

    /// Opens a segment of the durable set. Blocks.
    fn open_held(
        &self,
        digest: SegmentDigest,
        how: Open,
    ) -> Result<(Box<dyn DiskFile>, Held), StoreError> {
        let held = self.index.find(digest).ok_or(StoreError::NotHeld(digest))?;
        let file = self.disk.open(&place(digest), how).map_err(Damage::Io);
        Ok((self.reading(digest, file)?, held))
    }

    /// Reads a run of blocks. Blocks.
    fn read_run(
        &self,
        digest: SegmentDigest,
        blocks: Range<usize>,
        reading: Reading,
    ) -> Result<Vec<Bytes>, StoreError> {
        let (file, held) = self.open_held(digest, Open::Read)?;
        let (stored, table) = match (held.form.blocks(), reading) {
            (Some(blocks), Reading::AsStored) => (blocks, None),
            _ => {
                let footer = self.read_footer(&*file, digest, held);
                let Footer { table, blocks } = self.reading(digest, footer)?;
                (blocks, Some(table).filter(|_| reading == Reading::Verified))
            }
        };
        let mut run = Vec::with_capacity(blocks.len());
        for index in blocks {
            let BlockPlace { offset, len } = format::place(&stored, index);
            let len = len as usize;
            let mut buffer = self.pool.take();
            let read = file.read_at(u64::from(offset), &mut buffer[..len]).map_err(Damage::Io);
            self.reading(digest, read)?;
            add(&self.counters.blocks_read, 1);
            add(&self.counters.bytes_read, len as u64);
            let bytes = into_bytes(buffer, len);
            run.push(match &table {
                None => bytes,
                Some(table) => {
                    let raw = self.verified(table, &stored, index, &bytes);
                    self.reading(digest, raw)?
                }
            });
        }
        Ok(run)
    }

    /// The raw bytes of a stored block, if they are the right ones.
    pub(super) fn verified(
        &self,
        table: &BlockTable,
        blocks: &StoredBlocks,
        index: usize,
        stored: &Bytes,
    ) -> Result<Bytes, Damage> {
        let raw = self.codecs.decode_bytes(blocks, index, stored).map_err(FormatError::Form)?;
        table.verify(index, &raw)?;
        Ok(raw)
    }

    /// Tells a bad replica from a failing node, and from a segment that was just removed.
    pub(super) fn reading<T>(
        &self,
        digest: SegmentDigest,
        result: Result<T, Damage>,
    ) -> Result<T, StoreError> {
        result.map_err(|damage| match damage {
            Damage::Io(error) if !is_damage(&error) => io_error("read", &place(digest), error),
            _ if self.index.len_of(digest).is_none() => StoreError::NotHeld(digest),
            damage => StoreError::Damaged { digest, damage },
        })
    }
}

/// The functions that read and check parts of a file. Everything here blocks.
impl Inner {
    /// Header, length and footer.
    pub(super) fn read_ends(
        &self,
        file: &dyn DiskFile,
        digest: SegmentDigest,
    ) -> Result<Footer, Damage> {
        let len = file.len()?;
        if len < 3 * PAGE_BYTES as u64 {
            return Err(FormatError::FileLength { got: len, want: 3 * PAGE_BYTES as u64 }.into());
        }
        let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
        file.read_at(0, &mut page)?;
        let header = Header::parse(&page, self.codecs)?;
        header.check(digest, len)?;
        let footer = self.footer_at(file, digest, header.form.raw_len().into(), len)?;
        footer.check(&header, len)?;
        Ok(footer)
    }

    fn read_footer(
        &self,
        file: &dyn DiskFile,
        digest: SegmentDigest,
        held: Held,
    ) -> Result<Footer, Damage> {
        let footer = self.footer_at(file, digest, held.raw_len(), held.file_len())?;
        match footer.blocks.form() == held.form {
            true => Ok(footer),
            false => Err(FormatError::TwoForms.into()),
        }
    }

    /// The footer: the last page of a file of `file_len` bytes.
    pub(super) fn footer_at(
        &self,
        file: &dyn DiskFile,
        digest: SegmentDigest,
        raw_len: u64,
        file_len: u64,
    ) -> Result<Footer, Damage> {
        let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
        file.read_at(file_len.saturating_sub(PAGE_BYTES as u64), &mut page)?;
        Ok(Footer::parse(&page, digest, raw_len, self.codecs)?)
    }

    fn verify_block(
        &self,
        file: &dyn DiskFile,
        footer: &Footer,
        index: usize,
        buffer: &mut PooledBuffer,
    ) -> Result<(), Damage> {
        let BlockPlace { offset, len } = format::place(&footer.blocks, index);
        let (len, end) = (len as usize, padded(u64::from(len)) as usize);
        file.read_at(u64::from(offset), &mut buffer[..end])?;
        let mut room = Vec::new();
        let raw = self.codecs.decode(&footer.blocks, index, &buffer[..len], &mut room);
        footer.table.verify(index, raw.map_err(FormatError::Form)?)?;
        if buffer[len..end].iter().any(|byte| *byte != 0) {
            return Err(FormatError::Padding.into());
        }
        Ok(())
    }
}

/// Whether an error concerns the file, not this process. An example of the second kind is a process
/// that has no file descriptors left.
pub(super) fn is_damage(error: &io::Error) -> bool {
    let medium = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::ILSEQ];
    // A link, a socket, a directory, or a file in the directory's place.
    let stranger = [Errno::LOOP, Errno::NXIO, Errno::ISDIR, Errno::NOTDIR];
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotFound
            | io::ErrorKind::InvalidData
            | io::ErrorKind::IsADirectory
    ) || medium
        .iter()
        .chain(&stranger)
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

pub(super) fn into_bytes(buffer: PooledBuffer, len: usize) -> Bytes {
    if len <= COPY_BYTES_MAX {
        Bytes::copy_from_slice(&buffer[..len])
    } else {
        Bytes::from_owner(buffer).slice(..len)
    }
}
