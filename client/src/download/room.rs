//! The room that a download needs.

use std::collections::BTreeMap;

use cairn_types::ids::SegmentDigest;
use cairn_types::limits::SEGMENT_BYTES_MAX;

use super::targets::{PieceOf, SegmentWork};

/// Bytes to be written, by file. `missing` holds the missing pieces of each work. Segments of zeros
/// become holes and need no room.
pub(super) fn needed(
    works: &[SegmentWork],
    missing: &[(usize, Vec<PieceOf>)],
    is_written: impl Fn(usize) -> bool,
) -> BTreeMap<usize, u64> {
    // Sparse files are cut into whole segments, and all segments of zeros are the same segment.
    // Shorter runs of zeros need not be recognised.
    let mut zeros = None;
    let mut is_hole = |work: &SegmentWork, pieces: usize| {
        u64::from(work.len) == SEGMENT_BYTES_MAX
            && pieces > 1
            && *zeros.get_or_insert_with(|| SegmentDigest::of(&vec![0; SEGMENT_BYTES_MAX as usize]))
                == work.digest
    };
    let mut needed: BTreeMap<usize, u64> = BTreeMap::new();
    for (index, pieces) in missing {
        if is_hole(&works[*index], pieces.len()) {
            continue;
        }
        for piece in pieces.iter().filter(|piece| is_written(piece.file)) {
            *needed.entry(piece.file).or_default() += u64::from(piece.len);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_files_that_are_not_written_need_no_room() {
        let work = |bytes: &[u8]| SegmentWork {
            digest: SegmentDigest::of(bytes),
            len: bytes.len() as u32,
            pieces: vec![],
        };
        let piece = |file, len| PieceOf { file, file_offset: 0, offset: 0, len };
        let hole = vec![0; SEGMENT_BYTES_MAX as usize];
        let works = [work(&hole), work(b"abcdef")];
        let missing = [
            (0, vec![piece(0, hole.len() as u32), piece(1, hole.len() as u32)]),
            (1, vec![piece(1, 3), piece(2, 3)]),
        ];
        assert_eq!(needed(&works, &missing, |file| file != 2), BTreeMap::from([(1, 3)]));
    }
}
