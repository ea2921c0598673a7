//! A range of one file as an ordered stream, verified like whole files.

use std::ops::Range;

use bytes::Bytes;
use cairn_core::ids::{Address, SegmentDigest};
use cairn_core::limits::BLOCK_BYTES;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::reader::{Reader, Wanted};
use super::{read_whole, targets};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::sink::{FileTarget, shown};
use crate::task::Task;

/// Segments of an ordered range read ahead; each is held whole, 32 MiB at most.
const RANGE_PARALLEL: usize = 3;

impl Client {
    /// Bytes `range` of one file, in order, each verified before it is given out; `None` ends at
    /// the file's end.
    pub fn read_range<'a>(
        &'a self,
        address: &'a Address,
        file: &'a [u8],
        start: u64,
        len: Option<u64>,
    ) -> Answer<'a, BoxStream<'static, Result<Bytes, ClientError>>> {
        Box::pin(async move {
            let info = self.resolve(address).await?;
            let manifests = self.manifests(&info).await?;
            let targets = targets::targets(&manifests, |name| name == file)?;
            let missing =
                |what: String| ClientError::NoSuchFile { address: address.to_string(), what };
            let target = targets.into_iter().next().ok_or_else(|| missing(shown(file)))?;
            let end = len.map_or(target.len, |len| start.saturating_add(len));
            if start > target.len || end > target.len {
                let what =
                    format!("bytes {start}..{end} in {} of {} bytes", target.shown(), target.len);
                return Err(missing(what));
            }
            let ranges = wanted_ranges(&target, start..end);
            let digests: Vec<SegmentDigest> =
                ranges.iter().map(|(wanted, _)| wanted.digest).collect();
            let located = self.locate(&digests).await?;
            let (reader, env) = (Reader::new(self), self.env.clone());
            let parts =
                ranges.into_iter().zip(located).map(move |((mut wanted, within), located)| {
                    let reader = reader.clone();
                    wanted.slots = located.slots;
                    let env = env.clone();
                    async move {
                        Task::run(&env, "read range", async move {
                            let blocks = read_whole(&reader, &wanted).await?;
                            Ok(trim(blocks, within))
                        })
                        .await
                    }
                });
            Ok(stream::iter(parts)
                .buffered(RANGE_PARALLEL)
                .map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok)))
                .try_flatten()
                .boxed())
        })
    }
}

/// The blocks to read for a range of a file, and which bytes of them are wanted.
fn wanted_ranges(target: &FileTarget, range: Range<u64>) -> Vec<(Wanted, Range<u64>)> {
    let mut wanted = Vec::new();
    for extent in &target.extents {
        let from = range.start.max(extent.file_offset);
        let to = range.end.min(extent.file_offset + u64::from(extent.len));
        if from >= to {
            continue;
        }
        let in_segment = |at: u64| at - extent.file_offset + u64::from(extent.segment_offset);
        let (from, to) = (in_segment(from), in_segment(to));
        let first = from / BLOCK_BYTES;
        let blocks = first as usize..to.div_ceil(BLOCK_BYTES) as usize;
        let within = from - first * BLOCK_BYTES..to - first * BLOCK_BYTES;
        let (digest, len) = (extent.digest, extent.segment_len);
        wanted.push((Wanted { digest, len, blocks, slots: vec![], file: target.shown() }, within));
    }
    wanted
}

/// Cuts a run of blocks down to `within`.
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
