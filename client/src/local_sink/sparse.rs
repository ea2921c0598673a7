//! Writing runs of zero as holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The smallest hole: a block of most file systems.
const HOLE_BYTES: usize = 4096;
static ZEROS: [u8; HOLE_BYTES] = [0; HOLE_BYTES];

/// Writes `bytes` at `offset` of a file that is zero there. Blocks of zeros are left out.
pub(super) fn write(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    for (start, end) in filled(offset, bytes) {
        file.write_all_at(&bytes[start..end], offset + start as u64)?;
    }
    Ok(())
}

/// The ranges of `bytes` that are not whole blocks of zeros. Blocks are those of the file.
fn filled(offset: u64, bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        let in_block = ((offset + start as u64) % HOLE_BYTES as u64) as usize;
        let end = bytes.len().min(start + HOLE_BYTES - in_block);
        let is_hole = end - start == HOLE_BYTES && bytes[start..end] == ZEROS;
        match ranges.last_mut() {
            _ if is_hole => {}
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
        start = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_of_the_file_become_holes() {
        let mut bytes = vec![0; 5 * HOLE_BYTES];
        assert_eq!(filled(0, &bytes), []);
        assert_eq!(
            filled(100, &bytes),
            [(0, HOLE_BYTES - 100), (5 * HOLE_BYTES - 100, 5 * HOLE_BYTES)]
        );
        bytes[HOLE_BYTES] = 1;
        bytes[3 * HOLE_BYTES - 1] = 1;
        assert_eq!(filled(0, &bytes), [(HOLE_BYTES, 3 * HOLE_BYTES)]);
        assert_eq!(filled(0, &bytes[..10]), [(0, 10)]);
    }
}
