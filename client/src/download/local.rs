//! The parts of a download that exist locally. A killed download continues, and a finished one is
//! recognised.
//!
//! Only a whole segment can be checked. So its bytes are collected from all local files that hold
//! pieces of it and compared with its digest.

use cairn_types::canary;
use cairn_types::ids::SegmentDigest;

use super::targets::{PieceOf, SegmentWork};
use crate::sink::{FileTarget, Presence, Sink};

/// Which pieces of `work` are right in their place, in the order of its pieces. Blocks. A file that
/// cannot be read counts as absent.
pub(super) fn good_pieces(
    sink: &dyn Sink,
    targets: &[FileTarget],
    presences: &[Presence],
    work: &SegmentWork,
) -> Vec<bool> {
    let none = vec![false; work.pieces.len()];
    let is_local =
        |piece: &PieceOf| matches!(presences[piece.file], Presence::Part | Presence::Final);
    let read = |piece: &PieceOf, buffer: &mut [u8]| {
        let target = &targets[piece.file];
        sink.read_at(target, presences[piece.file], piece.file_offset, buffer).is_ok()
    };
    let mut order: Vec<&PieceOf> = work.pieces.iter().filter(|piece| is_local(piece)).collect();
    order.sort_by_key(|piece| (piece.offset, std::cmp::Reverse(piece.len)));
    if !covers(&order, work.len) {
        return none;
    }
    let mut bytes = vec![0; work.len as usize];
    let mut end = 0;
    for piece in order {
        let piece_end = (piece.offset + piece.len) as usize;
        if piece_end > end {
            if !read(piece, &mut bytes[piece.offset as usize..piece_end]) {
                return none;
            }
            end = piece_end;
        }
    }
    if SegmentDigest::of(&bytes) != work.digest && !canary!("trust_what_is_there") {
        return none;
    }
    // The segment's bytes are right now. A piece is right if it equals them; this includes its
    // twins.
    let is_good = |piece: &PieceOf| {
        let mut own = vec![0; piece.len as usize];
        let start = piece.offset as usize;
        is_local(piece) && read(piece, &mut own) && own == bytes[start..start + own.len()]
    };
    work.pieces.iter().map(is_good).collect()
}

/// Whether pieces in ascending order cover `0..len` without a gap.
fn covers(order: &[&PieceOf], len: u32) -> bool {
    let mut end = 0;
    for piece in order {
        if piece.offset > end {
            return false;
        }
        end = end.max(piece.offset + piece.len);
    }
    end == len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::MemorySink;

    fn target(name: &str, len: u64) -> FileTarget {
        FileTarget {
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len,
            extents: vec![],
        }
    }

    fn piece(file: usize, offset: u32, len: u32) -> PieceOf {
        PieceOf { file, file_offset: 0, offset, len }
    }

    #[test]
    fn pieces_of_several_files_are_verified_together() {
        let sink = MemorySink::default();
        let targets = [target("a", 3), target("b", 4), target("twin", 3)];
        sink.insert(b"a", b"abc".to_vec());
        sink.create(&targets[1]).unwrap();
        sink.write_at(&targets[1], 0, b"defg").unwrap();
        sink.insert(b"twin", b"abX".to_vec());
        let work = SegmentWork {
            digest: SegmentDigest::of(b"abcdefg"),
            len: 7,
            pieces: vec![piece(0, 0, 3), piece(1, 3, 4), piece(2, 0, 3)],
        };
        let presences = [Presence::Final, Presence::Part, Presence::Final];
        assert_eq!(good_pieces(&sink, &targets, &presences, &work), [true, true, false]);
        let without = [Presence::Absent, Presence::Part, Presence::Absent];
        assert_eq!(good_pieces(&sink, &targets, &without, &work), [false; 3]);
        sink.write_at(&targets[1], 0, b"dXfg").unwrap();
        assert_eq!(good_pieces(&sink, &targets, &presences, &work), [false; 3]);
    }
}
