//! One file of a checkpoint: `AsyncRead` and `AsyncSeek`, or a stream of bytes. Everything is
//! verified before it is returned. It is read from any replica that answers.
//!
//! ```text
//! file's range -> pieces: 1, 2, 4 .. 32 MiB -> locate, a batch at a time -> read 3 ahead -> in order
//! ```
//!
//! Pieces grow. So a short read after a seek costs one block, and a long read whole segments.

use std::io::{self, SeekFrom};
use std::ops::{Bound, Range, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use cairn_types::canary;
use cairn_types::ids::{Address, SegmentDigest};
use cairn_types::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
use cairn_types::model::CheckpointInfo;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tracing::Instrument;

use super::reader::{Reader, Wanted};
use super::{check_usable, read_whole, targets};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::sink::{FileTarget, shown};
use crate::task::Task;

/// Pieces of an ordered range that are read ahead. Each is held as a whole, 32 MiB at most.
const PIECES_PARALLEL: usize = 3;
/// Segments located at once. The limit keeps a slow reader from using old locations for long.
const LOCATE_BATCH: usize = 64;

/// A file to be read; see [`Client::reader`].
#[must_use = "nothing is read before `open` or `stream`"]
pub struct ReaderBuilder {
    client: Client,
    address: Address,
    file: Vec<u8>,
    part: Option<u32>,
    quarantined: bool,
    range: (Bound<u64>, Bound<u64>),
}

impl Client {
    /// Starts to read one file of the checkpoint that `address` names.
    pub fn reader(&self, address: &Address, file: impl AsRef<[u8]>) -> ReaderBuilder {
        ReaderBuilder {
            client: self.clone(),
            address: address.clone(),
            file: file.as_ref().to_vec(),
            part: None,
            quarantined: false,
            range: (Bound::Unbounded, Bound::Unbounded),
        }
    }
}

impl ReaderBuilder {
    /// Reads only these bytes. A range beyond the file's end is an error.
    pub fn range(mut self, range: impl RangeBounds<u64>) -> Self {
        self.range = (range.start_bound().cloned(), range.end_bound().cloned());
        self
    }

    /// The part of the file, if parts have different files of that name.
    pub fn part(mut self, part: impl Into<Option<u32>>) -> Self {
        self.part = part.into();
        self
    }

    /// Allows a checkpoint in quarantine. Without this it is an error.
    pub fn quarantined(mut self, quarantined: bool) -> Self {
        self.quarantined = quarantined;
        self
    }

    /// Finds the file. Bytes are fetched as they are read.
    pub fn open(self) -> Answer<'static, FileReader> {
        let span = self.span();
        let open = async move {
            let (file, range) = self.find().await?;
            Ok(FileReader { range, ..FileReader::of(file) })
        };
        Box::pin(open.instrument(span))
    }

    /// The bytes in order, in chunks of at most 1 MiB.
    pub fn stream(self) -> Answer<'static, BoxStream<'static, Result<Bytes, ClientError>>> {
        let span = self.span();
        let open = async move {
            let (file, range) = self.find().await?;
            Ok(file.bytes(range))
        };
        Box::pin(open.instrument(span))
    }

    fn span(&self) -> tracing::Span {
        tracing::info_span!("open", address = %self.address, file = shown(&self.file))
    }

    async fn find(&self) -> Result<(Arc<OpenFile>, Range<u64>), ClientError> {
        let Self { client, address, file, part, quarantined, range } = self;
        let info = client.resolve(address).await?;
        check_usable(&info, *quarantined)?;
        let manifests = client.part_manifests(&info, *part).await?;
        let found = targets::targets(&manifests, |name| name == file)?.files;
        let missing = |what: String| ClientError::NoSuchFile { address: address.to_string(), what };
        let target = found.into_iter().next().ok_or_else(|| missing(shown(file)))?;
        let start = match range.0 {
            Bound::Unbounded => 0,
            Bound::Included(start) => start,
            Bound::Excluded(start) => start.saturating_add(1),
        };
        let end = match range.1 {
            Bound::Unbounded => target.len,
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => end,
        };
        if start > end || end > target.len {
            let what =
                format!("bytes {start}..{end} in {} of {} bytes", target.shown(), target.len);
            return Err(missing(what));
        }
        let (client, reader) = (client.about(info.id), Reader::new(client, &info));
        let file = OpenFile::new(client, reader, Arc::new(info), Arc::new(target));
        Ok((Arc::new(file), start..end))
    }
}

/// An open file, and the reader of its segments.
pub(crate) struct OpenFile {
    client: Client,
    reader: Arc<Reader>,
    info: Arc<CheckpointInfo>,
    target: Arc<FileTarget>,
}

impl OpenFile {
    pub(super) fn new(
        client: Client,
        reader: Arc<Reader>,
        info: Arc<CheckpointInfo>,
        target: Arc<FileTarget>,
    ) -> Self {
        Self { client, reader, info, target }
    }

    pub(super) fn target(&self) -> &FileTarget {
        &self.target
    }

    pub(crate) fn bytes(
        self: &Arc<Self>,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, ClientError>> {
        let mut pieces = pieces(&self.target, range).into_iter();
        let batches = std::iter::from_fn(move || {
            let batch: Vec<_> = pieces.by_ref().take(LOCATE_BATCH).collect();
            (!batch.is_empty()).then_some(batch)
        });
        let (locating, reading) = (self.clone(), self.clone());
        stream::iter(batches)
            .then(move |batch| {
                let file = locating.clone();
                async move { file.locate(batch).await }
            })
            .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
            .try_flatten()
            .map(move |piece: Result<Piece, ClientError>| {
                let file = reading.clone();
                async move { file.read(piece?).await }
            })
            .buffered(PIECES_PARALLEL)
            .map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn locate(&self, mut batch: Vec<Piece>) -> Result<Vec<Piece>, ClientError> {
        let mut digests: Vec<SegmentDigest> =
            batch.iter().map(|piece| piece.wanted.digest).collect();
        digests.dedup();
        let located = self.client.locate(&digests).await?;
        for piece in &mut batch {
            let place = located.iter().find(|place| place.digest == piece.wanted.digest);
            piece.wanted.slots = place.map(|place| place.slots.clone()).unwrap_or_default();
        }
        Ok(batch)
    }

    async fn read(self: Arc<Self>, piece: Piece) -> Result<Vec<Bytes>, ClientError> {
        let reader = self.reader.clone();
        let Piece { wanted, within } = piece;
        Task::run(&self.client.env, "read range", async move {
            Ok(trim(read_whole(&reader, &wanted).await?, within))
        })
        .await
    }
}

/// The blocks of one read, and the wanted bytes of them.
struct Piece {
    wanted: Wanted,
    within: Range<u64>,
}

/// A range of a file in growing pieces that end at block borders of the segments.
fn pieces(target: &FileTarget, range: Range<u64>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut most = BLOCK_BYTES;
    for extent in &target.extents {
        let from = range.start.max(extent.file_offset);
        let to = range.end.min(extent.file_offset + u64::from(extent.len));
        if from >= to {
            continue;
        }
        let in_segment = |at: u64| at - extent.file_offset + u64::from(extent.segment_offset);
        let (mut from, to) = (in_segment(from), in_segment(to));
        while from < to {
            let first = from / BLOCK_BYTES;
            let end = (first * BLOCK_BYTES + most).min(to);
            let early = u64::from(canary!("range_a_block_early") && first > 0);
            let blocks = (first - early) as usize..(end.div_ceil(BLOCK_BYTES) - early) as usize;
            let (digest, len) = (extent.digest, extent.segment_len);
            let wanted = Wanted { digest, len, blocks, slots: vec![], file: target.shown() };
            let within = from - first * BLOCK_BYTES..end - first * BLOCK_BYTES;
            pieces.push(Piece { wanted, within });
            from = end;
            most = (most * 2).min(SEGMENT_BYTES_MAX);
        }
    }
    pieces
}

/// Reduces a run of blocks to `within`.
fn trim(blocks: Vec<Bytes>, within: Range<u64>) -> Vec<Bytes> {
    let mut at = 0;
    let mut kept = Vec::with_capacity(blocks.len());
    for block in blocks {
        let (from, to) = (at, at + block.len() as u64);
        let (start, end) = (within.start.max(from), within.end.min(to));
        if start < end {
            kept.push(block.slice((start - from) as usize..(end - from) as usize));
        }
        at = to;
    }
    kept
}

/// One file of a checkpoint, or a range of it: position 0 is the range's start.
///
/// A failed read returns the [`ClientError`] inside the `io::Error`. The next read tries again from
/// the same position. Nothing is fetched before the first read, and at most 96 MiB ahead.
pub struct FileReader {
    file: Arc<OpenFile>,
    range: Range<u64>,
    position: u64,
    /// Continues at the end of `chunk`.
    stream: Option<BoxStream<'static, Result<Bytes, ClientError>>>,
    /// Bytes from `position` on.
    chunk: Bytes,
}

impl FileReader {
    /// At the beginning of a file.
    pub(super) fn of(file: Arc<OpenFile>) -> Self {
        let range = 0..file.target.len;
        Self { file, range, position: 0, stream: None, chunk: Bytes::new() }
    }

    /// Number of readable bytes: of the range, or of the file.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The start of the next read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The checkpoint that the address named when the file was opened.
    pub fn checkpoint(&self) -> &CheckpointInfo {
        &self.file.info
    }

    /// The whole file, for reads of many ranges.
    pub(crate) fn file(&self) -> Arc<OpenFile> {
        self.file.clone()
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if buffer.remaining() == 0 || this.position >= this.len() {
                return Poll::Ready(Ok(()));
            }
            if !this.chunk.is_empty() {
                let count = this.chunk.len().min(buffer.remaining());
                buffer.put_slice(&this.chunk[..count]);
                this.chunk.advance(count);
                this.position += count as u64;
                return Poll::Ready(Ok(()));
            }
            let rest = this.range.start + this.position..this.range.end;
            let stream = this.stream.get_or_insert_with(|| this.file.bytes(rest));
            match ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(chunk)) => this.chunk = chunk,
                Some(Err(error)) => {
                    this.stream = None;
                    return Poll::Ready(Err(error.into()));
                }
                // The manifest's extents have no gaps and end at the file's end.
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }
}

impl AsyncSeek for FileReader {
    fn start_seek(self: Pin<&mut Self>, place: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        let place = match place {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => this.len().checked_add_signed(offset),
            SeekFrom::Current(offset) => this.position.checked_add_signed(offset),
        };
        let place = place.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek before the start of the file")
        })?;
        match place.checked_sub(this.position) {
            Some(ahead) if ahead <= this.chunk.len() as u64 => this.chunk.advance(ahead as usize),
            _ => {
                this.chunk = Bytes::new();
                this.stream = None;
            }
        }
        this.position = place;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::FileExtent;

    const MIB: u64 = 1 << 20;

    /// A file of 70 MiB: the end of a shared segment, then segments of its own.
    fn target() -> FileTarget {
        let extent = |id: u8, segment_len: u64, segment_offset: u64, file_offset: u64, len: u64| {
            FileExtent {
                digest: SegmentDigest([id; 32]),
                segment_len: segment_len as u32,
                segment_offset: segment_offset as u32,
                file_offset,
                len: len as u32,
            }
        };
        let extents = vec![
            extent(1, 4 * MIB, MIB + 5, 0, 3 * MIB - 5),
            extent(2, 32 * MIB, 0, 3 * MIB - 5, 32 * MIB),
            extent(3, 32 * MIB, 0, 35 * MIB - 5, 32 * MIB),
            extent(4, 3 * MIB + 5, 0, 67 * MIB - 5, 3 * MIB + 5),
        ];
        let len = extents.iter().map(|extent| u64::from(extent.len)).sum();
        FileTarget { name: b"f".to_vec(), mode: 0, mtime_ns: 0, len, extents }
    }

    #[test]
    fn pieces_cover_the_range_once_and_grow() {
        let target = target();
        for range in [0..70 * MIB, 5..6, MIB - 1..40 * MIB + 3, 69 * MIB..70 * MIB, 7..7] {
            let pieces = pieces(&target, range.clone());
            let lens = pieces.iter().map(|piece| piece.within.end - piece.within.start);
            assert_eq!(lens.sum::<u64>(), range.end - range.start, "{range:?}");
            for piece in &pieces {
                let Piece { wanted, within } = piece;
                let blocks = (wanted.blocks.end - wanted.blocks.start) as u64;
                assert!(within.start < BLOCK_BYTES && within.end <= blocks * BLOCK_BYTES);
                assert!(within.end > (blocks - 1) * BLOCK_BYTES, "no block is read for nothing");
            }
        }
        let sizes: Vec<usize> =
            pieces(&target, 0..70 * MIB).iter().map(|piece| piece.wanted.blocks.len()).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 4, 32, 4], "blocks of each piece");
    }
}
