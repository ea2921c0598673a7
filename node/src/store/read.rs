//! Reading segments: block tables, blocks, and whole segments past the page cache.
//!
//! A server sends blocks as they are stored: the reader holds the block table and verifies. Only
//! scrub, recovery from quarantine and sources of new replicas hash here (D6).

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::SegmentDigest;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rustix::io::Errno;

use super::error::{Damage, StoreError};
use super::format::{BlockPlace, Footer, FormatError, Header, PAGE_BYTES, footer_offset, padded};
use super::stats::add;
use super::{Inner, SegmentStore, io_error, place};
use crate::disk::buffers::{AlignedBuffer, PooledBuffer};
use crate::disk::{DiskFile, Open};

/// Blocks read by one job, 4 MiB: long enough that a disk streams, short enough that restores
/// take turns.
const JOB_BLOCKS: usize = 4;
/// Jobs of one stream at a time: one being sent, one being read.
const READ_AHEAD: usize = 2;
/// Blocks up to this long are copied out of their 1 MiB buffer rather than pin it.
const COPY_BYTES_MAX: usize = 128 << 10;

/// The blocks asked for, in order.
pub type BlockStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// Whether blocks are hashed before they are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    AsStored,
    Verified,
}

impl SegmentStore {
    /// The block table, checked against the digest, and where the blocks are stored.
    pub async fn read_table(&self, digest: SegmentDigest) -> Result<Footer, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .data(move || {
                let (file, len) = inner.open_held(digest, Open::Read)?;
                inner.reading(digest, read_footer(&*file, digest, len))
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
        let len = self.inner.books.len_of(digest).ok_or(StoreError::NotHeld(digest))?;
        let count = cairn_core::blocks::block_count(len);
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

    /// Re-reads a held segment, past the page cache, against its digest: `Damaged` if any byte of
    /// its file is not what it must be. The caller decides what to do then.
    pub async fn verify(&self, digest: SegmentDigest) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        let (file, len) = self
            .inner
            .data(move || {
                let (file, len) = inner.open_held(digest, Open::ReadDirect)?;
                Ok((Arc::<dyn DiskFile>::from(file), len))
            })
            .await?;
        let found = self.inner.verify_file(file, digest).await;
        self.inner.reading(digest, found)?;
        add(&self.inner.counters.segments_verified, 1);
        add(&self.inner.counters.bytes_verified, len);
        Ok(())
    }
}

impl Inner {
    /// Reads every byte of a segment file that claims to be `digest`, a few blocks a job.
    /// Returns its raw length.
    pub(super) async fn verify_file(
        &self,
        file: Arc<dyn DiskFile>,
        digest: SegmentDigest,
    ) -> Result<u64, Damage> {
        let open = Arc::clone(&file);
        let (header, footer) = self.data(move || read_ends(&*open, digest)).await?;
        let footer = Arc::new(footer);
        for first in (0..footer.places.len()).step_by(JOB_BLOCKS) {
            let (file, footer) = (Arc::clone(&file), Arc::clone(&footer));
            let mut buffer = self.pool.take();
            self.data(move || {
                let end = (first + JOB_BLOCKS).min(footer.places.len());
                (first..end).try_for_each(|index| verify_block(&*file, &footer, index, &mut buffer))
            })
            .await?;
        }
        Ok(header.raw_len)
    }

    /// Opens a segment of the durable set. Blocks.
    fn open_held(
        &self,
        digest: SegmentDigest,
        how: Open,
    ) -> Result<(Box<dyn DiskFile>, u64), StoreError> {
        let len = self.books.len_of(digest).ok_or(StoreError::NotHeld(digest))?;
        let file = self.disk.open(&place(digest), how).map_err(Damage::Io);
        Ok((self.reading(digest, file)?, len))
    }

    /// Reads a run of blocks. Blocks.
    fn read_run(
        &self,
        digest: SegmentDigest,
        blocks: Range<usize>,
        reading: Reading,
    ) -> Result<Vec<Bytes>, StoreError> {
        let (file, len) = self.open_held(digest, Open::Read)?;
        let footer = match reading {
            Reading::AsStored => None,
            Reading::Verified => Some(self.reading(digest, read_footer(&*file, digest, len))?),
        };
        let mut run = Vec::with_capacity(blocks.len());
        for index in blocks {
            let BlockPlace { offset, len } = super::format::raw_place(len, index);
            let len = len as usize;
            let mut buffer = self.pool.take();
            let read = file.read_at(u64::from(offset), &mut buffer[..len]).map_err(Damage::Io);
            self.reading(digest, read)?;
            if let Some(footer) = &footer {
                let right = footer.table.verify(index, &buffer[..len]).map_err(Damage::Block);
                self.reading(digest, right)?;
            }
            add(&self.counters.blocks_read, 1);
            add(&self.counters.bytes_read, len as u64);
            run.push(into_bytes(buffer, len));
        }
        Ok(run)
    }

    /// Tells a bad replica from a node in trouble, and from a segment that has just gone.
    pub(super) fn reading<T>(
        &self,
        digest: SegmentDigest,
        result: Result<T, Damage>,
    ) -> Result<T, StoreError> {
        result.map_err(|damage| match damage {
            Damage::Io(error) if !is_damage(&error) => io_error("read", &place(digest), error),
            _ if self.books.len_of(digest).is_none() => StoreError::NotHeld(digest),
            damage => StoreError::Damaged { digest, damage },
        })
    }
}

/// Whether an error tells something about the file rather than about this process (which may,
/// say, have run out of file descriptors).
pub(super) fn is_damage(error: &io::Error) -> bool {
    let medium = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::ILSEQ];
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    ) || medium.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Reads and checks header, length and footer. Blocks.
pub(super) fn read_ends(
    file: &dyn DiskFile,
    digest: SegmentDigest,
) -> Result<(Header, Footer), Damage> {
    let len = file.len()?;
    if len < 3 * PAGE_BYTES as u64 {
        return Err(FormatError::FileLength { got: len, want: 3 * PAGE_BYTES as u64 }.into());
    }
    let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
    file.read_at(0, &mut page)?;
    let header = Header::parse(&page)?;
    header.check(digest, len)?;
    let footer = read_footer(file, digest, header.raw_len)?;
    Ok((header, footer))
}

fn read_footer(file: &dyn DiskFile, digest: SegmentDigest, raw_len: u64) -> Result<Footer, Damage> {
    let mut page = AlignedBuffer::zeroed(PAGE_BYTES);
    file.read_at(footer_offset(raw_len), &mut page)?;
    Ok(Footer::parse(&page, digest, raw_len)?)
}

fn verify_block(
    file: &dyn DiskFile,
    footer: &Footer,
    index: usize,
    buffer: &mut PooledBuffer,
) -> Result<(), Damage> {
    let BlockPlace { offset, len } = footer.places[index];
    let (len, end) = (len as usize, padded(u64::from(len)) as usize);
    file.read_at(u64::from(offset), &mut buffer[..end])?;
    footer.table.verify(index, &buffer[..len])?;
    if buffer[len..end].iter().any(|byte| *byte != 0) {
        return Err(FormatError::Padding.into());
    }
    Ok(())
}

fn into_bytes(buffer: PooledBuffer, len: usize) -> Bytes {
    if len <= COPY_BYTES_MAX {
        Bytes::copy_from_slice(&buffer[..len])
    } else {
        Bytes::from_owner(buffer).slice(..len)
    }
}
