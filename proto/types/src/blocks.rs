//! The block table: BLAKE3 subtree values of a segment's 1 MiB blocks.
//!
//! A segment's digest is the root of a BLAKE3 tree whose subtrees are its blocks, so a table of
//! subtree values can be checked against the digest once, and from then on any single block can
//! be verified alone, whoever sent it (D5). A segment of one block or less has no subtrees: its
//! table is one entry, the digest itself.
//!
//! Source of the tree rules: the BLAKE3 paper, section 2.1; `blake3::hazmat`.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::ids::SegmentDigest;
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};

/// The verified shape of one segment: its length and one value per block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTable {
    len: u64,
    values: Vec<ChainingValue>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("block table has {got} entries, a segment of {len} bytes has {want}")]
    EntryCount { len: u64, got: usize, want: usize },
    #[error("segment length {0} is not between 1 byte and 32 MiB")]
    SegmentLength(u64),
    #[error("block table does not belong to segment {0}")]
    WrongRoot(SegmentDigest),
    #[error("block {index} has {got} bytes, expected {want}")]
    BlockLength { index: usize, got: u64, want: u64 },
    #[error("bytes of block {index} do not match their digest")]
    WrongBlock { index: usize },
}

/// Blocks in a segment of `len` bytes.
pub fn block_count(len: u64) -> usize {
    usize::try_from(len.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX)
}

/// Raw length of block `index` of a segment of `len` bytes.
pub fn block_len(len: u64, index: usize) -> u64 {
    let start = index as u64 * BLOCK_BYTES;
    len.saturating_sub(start).min(BLOCK_BYTES)
}

/// The value of one block: a subtree value, or the digest where the block is the whole segment.
pub fn block_value(segment_len: u64, index: usize, bytes: &[u8]) -> ChainingValue {
    if segment_len <= BLOCK_BYTES {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index as u64 * BLOCK_BYTES);
    hasher.update(bytes).finalize_non_root()
}

impl BlockTable {
    /// Computes the table of a whole segment held in memory.
    pub fn of(bytes: &[u8]) -> Self {
        let len = bytes.len() as u64;
        let values = bytes
            .chunks(BLOCK_BYTES as usize)
            .enumerate()
            .map(|(index, block)| block_value(len, index, block))
            .collect();
        Self { len, values }
    }

    /// Accepts a table from elsewhere if it belongs to `digest`.
    pub fn checked(
        digest: SegmentDigest,
        len: u64,
        values: Vec<ChainingValue>,
    ) -> Result<Self, BlockError> {
        if len == 0 || len > SEGMENT_BYTES_MAX {
            return Err(BlockError::SegmentLength(len));
        }
        let want = block_count(len);
        if values.len() != want {
            return Err(BlockError::EntryCount { len, got: values.len(), want });
        }
        let table = Self { len, values };
        if table.digest() == digest { Ok(table) } else { Err(BlockError::WrongRoot(digest)) }
    }

    pub fn segment_len(&self) -> u64 {
        self.len
    }

    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// The digest of the segment this table describes.
    pub fn digest(&self) -> SegmentDigest {
        match self.values.as_slice() {
            [] => SegmentDigest::of(b""),
            [whole] => SegmentDigest(*whole),
            values => {
                let left = (left_subtree_len(self.len) / BLOCK_BYTES) as usize;
                let root = merge_subtrees_root(
                    &subtree(&values[..left], left as u64 * BLOCK_BYTES),
                    &subtree(&values[left..], self.len - left as u64 * BLOCK_BYTES),
                    Mode::Hash,
                );
                SegmentDigest(*root.as_bytes())
            }
        }
    }

    /// Checks the bytes of one block.
    pub fn verify(&self, index: usize, bytes: &[u8]) -> Result<(), BlockError> {
        let want = block_len(self.len, index);
        let got = bytes.len() as u64;
        if got != want || index >= self.values.len() {
            return Err(BlockError::BlockLength { index, got, want });
        }
        if block_value(self.len, index, bytes) == self.values[index] {
            Ok(())
        } else {
            Err(BlockError::WrongBlock { index })
        }
    }
}

/// The non-root value of a run of blocks covering `len` bytes.
fn subtree(values: &[ChainingValue], len: u64) -> ChainingValue {
    match values {
        [one] => *one,
        many => {
            let left = (left_subtree_len(len) / BLOCK_BYTES) as usize;
            merge_subtrees_non_root(
                &subtree(&many[..left], left as u64 * BLOCK_BYTES),
                &subtree(&many[left..], len - left as u64 * BLOCK_BYTES),
                Mode::Hash,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[test]
    fn table_root_is_the_blake3_of_the_segment() {
        let block = BLOCK_BYTES as usize;
        for len in [1, 1023, block, block + 1, 2 * block, 3 * block - 5, 5 * block + 17, 32 * block]
        {
            let data = bytes(len);
            let table = BlockTable::of(&data);
            assert_eq!(table.digest(), SegmentDigest::of(&data), "len {len}");
            for (index, chunk) in data.chunks(block).enumerate() {
                table.verify(index, chunk).unwrap();
            }
        }
    }

    #[test]
    fn wrong_bytes_and_foreign_tables_are_refused() {
        let data = bytes(3 * BLOCK_BYTES as usize);
        let table = BlockTable::of(&data);
        let mut block = data[..BLOCK_BYTES as usize].to_vec();
        block[77] ^= 1;
        assert_eq!(table.verify(0, &block), Err(BlockError::WrongBlock { index: 0 }));
        let digest = SegmentDigest::of(&data[1..]);
        let foreign = BlockTable::checked(digest, table.segment_len(), table.values().to_vec());
        assert_eq!(foreign, Err(BlockError::WrongRoot(digest)));
        let short = BlockTable::checked(table.digest(), data.len() as u64, vec![[0; 32]]);
        assert!(matches!(short, Err(BlockError::EntryCount { .. })));
    }
}
