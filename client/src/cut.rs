//! The cuts of a part's files into segments.
//!
//! Cuts depend only on content and sizes. So two uploads of the same bytes name the same segments,
//! and after a change little more than the changed bytes is sent again:
//!
//! ```text
//! safetensors   [header + small tensors, up to 4 MiB] [large tensor, every 32 MiB] [..] [small ..]
//! other file    [32 MiB] [32 MiB] [rest]
//! small files   [a b c ... up to 4 MiB] [d e ...]      in name order, across files
//! ```

use cairn_types::limits::{PACK_BYTES_MAX, SEGMENT_BYTES_MAX, TENSOR_BYTES_MIN};

use crate::safetensors;
use crate::source::{Source, SourceError};

/// A range of a source's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index into the source's entries.
    pub file: usize,
    pub offset: u64,
    pub len: u32,
}

/// One segment: the pieces it is made of, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlannedSegment {
    pub pieces: Vec<Piece>,
    /// Sum of the pieces, 1 byte to 32 MiB.
    pub len: u32,
}

/// All segments of a part. Every byte of every file is in exactly one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub segments: Vec<PlannedSegment>,
}

/// Plans the cuts of `source`. Blocks, because it reads the header of files that look like
/// safetensors.
pub fn plan(source: &dyn Source) -> Result<Plan, SourceError> {
    let mut plan = Plan::default();
    let mut small_files = PlannedSegment::default();
    for (file, entry) in source.entries().iter().enumerate() {
        let tensors = if entry.len >= TENSOR_BYTES_MIN {
            safetensors::layout(source, file)?.filter(|layout| {
                // A small file without a large tensor is packed like other small files.
                entry.len >= PACK_BYTES_MAX || layout.iter().any(|len| *len >= TENSOR_BYTES_MIN)
            })
        } else {
            None
        };
        match tensors {
            Some(layout) => cut_tensors(&mut plan, file, &layout),
            None if entry.len >= PACK_BYTES_MAX => cut_run(&mut plan, file, 0, entry.len),
            None if entry.len > 0 => pack(&mut plan, &mut small_files, file, 0, entry.len),
            None => {}
        }
    }
    flush(&mut plan, &mut small_files);
    Ok(plan)
}

/// Cuts `len` bytes from `offset` every 32 MiB.
fn cut_run(plan: &mut Plan, file: usize, mut offset: u64, len: u64) {
    let end = offset + len;
    while offset < end {
        let len = (end - offset).min(SEGMENT_BYTES_MAX) as u32;
        plan.segments.push(PlannedSegment { pieces: vec![Piece { file, offset, len }], len });
        offset += u64::from(len);
    }
}

/// Cuts a file at the bounds of its header and tensors, whose lengths are given in file order.
fn cut_tensors(plan: &mut Plan, file: usize, layout: &[u64]) {
    let mut small = PlannedSegment::default();
    let mut offset = 0;
    for (index, len) in layout.iter().copied().enumerate() {
        // The header (index 0) is packed with its small neighbours unless it is huge.
        let large = if index == 0 { len > PACK_BYTES_MAX } else { len >= TENSOR_BYTES_MIN };
        if large {
            flush(plan, &mut small);
            cut_run(plan, file, offset, len);
        } else {
            pack(plan, &mut small, file, offset, len);
        }
        offset += len;
    }
    flush(plan, &mut small);
}

/// Adds a piece of at most 4 MiB to the segment being packed. Starts a new segment if it is full.
fn pack(plan: &mut Plan, packed: &mut PlannedSegment, file: usize, offset: u64, len: u64) {
    if len == 0 {
        return;
    }
    if u64::from(packed.len) + len > PACK_BYTES_MAX {
        flush(plan, packed);
    }
    let len = len as u32;
    packed.len += len;
    match packed.pieces.last_mut() {
        Some(last) if last.file == file && last.offset + u64::from(last.len) == offset => {
            last.len += len;
        }
        _ => packed.pieces.push(Piece { file, offset, len }),
    }
}

fn flush(plan: &mut Plan, packed: &mut PlannedSegment) {
    if packed.len > 0 {
        plan.segments.push(std::mem::take(packed));
    }
}

/// Reads the bytes of a segment. Blocks.
pub fn read(source: &dyn Source, segment: &PlannedSegment) -> Result<Vec<u8>, SourceError> {
    let mut bytes = vec![0; segment.len as usize];
    let mut rest = bytes.as_mut_slice();
    for piece in &segment.pieces {
        let (head, tail) = rest.split_at_mut(piece.len as usize);
        source.read_at(piece.file, piece.offset, head)?;
        rest = tail;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use cairn_types::ids::SegmentDigest;

    use super::*;
    use crate::safetensors::tests::file_of;
    use crate::source::MemorySource;

    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;

    fn source(files: &[(&str, Vec<u8>)]) -> MemorySource {
        let files: BTreeMap<_, _> = files
            .iter()
            .map(|(name, bytes)| (name.as_bytes().to_vec(), Bytes::from(bytes.clone())))
            .collect();
        MemorySource::new(files).unwrap()
    }

    fn lens(plan: &Plan) -> Vec<usize> {
        plan.segments.iter().map(|segment| segment.len as usize).collect()
    }

    fn digests(source: &MemorySource) -> BTreeSet<SegmentDigest> {
        let plan = plan(source).unwrap();
        plan.segments.iter().map(|s| SegmentDigest::of(&read(source, s).unwrap())).collect()
    }

    #[test]
    fn large_files_are_cut_every_32_mib_and_small_ones_packed() {
        let files = source(&[
            ("a", vec![1; 3 * MIB]),
            ("b", vec![2; 70 * MIB]),
            ("c", vec![3; 512 * KIB]),
            ("d", vec![]),
            ("e", vec![4; 2 * MIB]),
        ]);
        let plan = plan(&files).unwrap();
        assert_eq!(lens(&plan), [32 * MIB, 32 * MIB, 6 * MIB, 3 * MIB + 512 * KIB, 2 * MIB]);
        assert_eq!(plan.segments[3].pieces.len(), 2, "a and c share a segment");
        let covered: u64 = plan.segments.iter().map(|segment| u64::from(segment.len)).sum();
        assert_eq!(covered, files.entries().iter().map(|entry| entry.len).sum::<u64>());
    }

    #[test]
    fn tensors_start_segments_and_small_ones_are_packed() {
        let bytes = file_of(&[300 * KIB, 10, 20, 40 * MIB, 5, 256 * KIB - 1, 256 * KIB]);
        let header = bytes.len() - (300 * KIB + 10 + 20 + 40 * MIB + 5 + 512 * KIB - 1);
        let plan = plan(&source(&[("m.safetensors", bytes)])).unwrap();
        assert_eq!(
            lens(&plan),
            [header, 300 * KIB, 30, 32 * MIB, 8 * MIB, 256 * KIB + 4, 256 * KIB]
        );
    }

    #[test]
    fn changing_one_tensor_changes_only_its_segments() {
        let sizes = [MIB, 100, 2 * MIB, 300 * KIB, 40 * MIB];
        let mut bytes = file_of(&sizes);
        for (index, byte) in bytes.iter_mut().enumerate().skip(4096) {
            *byte = (index * 31 % 251) as u8 ^ (index >> 20) as u8;
        }
        let before = source(&[("m", bytes.clone())]);
        let end_of_third = bytes.len() - 40 * MIB - 300 * KIB;
        bytes[end_of_third - 7] ^= 1;
        let (old, new) = (digests(&before), digests(&source(&[("m", bytes)])));
        assert_eq!(new.difference(&old).count(), 1);
        assert_eq!(old.len(), new.len());
    }
}
