//! The segment file, byte by byte. The drawing is in `proto/README.md`, "Segment file".
//!
//! Every byte of a file is guarded: header and footer by their CRC-32, blocks by the block table
//! (which belongs to the digest), padding by being zero.

use cairn_core::blocks::{BlockError, BlockTable, block_count, block_len};
use cairn_core::ids::SegmentDigest;
use cairn_core::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};
use cairn_core::model::Codec;

/// Header, footer and padding come in pages, so that every part can be written directly.
pub const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

const HEADER_MAGIC: [u8; 8] = *b"CAIRNSEG";
const FOOTER_MAGIC: [u8; 8] = *b"CAIRNEND";
/// Version of this format; a file with another one is refused, never guessed at.
pub const FORMAT_VERSION: u32 = 1;
const CODEC_RAW: u32 = 0;

/// Bytes of a block-table entry: value, stored offset, stored length.
const ENTRY_BYTES: usize = 40;
/// Where the footer's trailer starts: block count, stored length, zeros, magic, CRC-32.
const TRAILER_AT: usize = PAGE_BYTES - 32;
const CRC_AT: usize = PAGE_BYTES - 4;

// The largest table leaves room for the trailer.
const _: () = assert!((SEGMENT_BYTES_MAX / BLOCK_BYTES) as usize * ENTRY_BYTES <= TRAILER_AT);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{part} is {got} bytes, wants {PAGE_BYTES}")]
    PageLength { part: &'static str, got: usize },
    #[error("{part} does not begin or end with its magic")]
    Magic { part: &'static str },
    #[error("{part} fails its checksum")]
    Checksum { part: &'static str },
    #[error("format version {0} is not known, wants {FORMAT_VERSION}")]
    Version(u32),
    #[error("codec {0} is not known")]
    Codec(u32),
    #[error("raw length {raw} and stored length {stored} do not fit each other")]
    Lengths { raw: u64, stored: u64 },
    #[error("file is {got} bytes, wants {want}")]
    FileLength { got: u64, want: u64 },
    #[error("file of segment {named} says it holds {holds}")]
    OtherSegment { named: SegmentDigest, holds: SegmentDigest },
    #[error("footer counts {got} blocks, wants {want}")]
    BlockCount { got: u32, want: usize },
    #[error("block {index} is stored at {offset} with {len} bytes, which cannot be")]
    Place { index: usize, offset: u32, len: u32 },
    #[error("padding is not zero")]
    Padding,
    #[error(transparent)]
    Table(#[from] BlockError),
}

/// The first page: what the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub codec: Codec,
    /// Raw bytes, 1 to 32 MiB.
    pub raw_len: u64,
    /// Bytes of all stored blocks, without padding; equal to `raw_len` for the raw codec.
    pub stored_len: u64,
    pub digest: SegmentDigest,
}

/// Where one block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// From the start of the file, bytes.
    pub offset: u32,
    pub len: u32,
}

/// The last page: the block table and where its blocks are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub table: BlockTable,
    pub places: Vec<BlockPlace>,
}

/// Bytes up to the next page boundary.
pub fn padded(len: u64) -> u64 {
    len.next_multiple_of(PAGE)
}

/// Where the footer of a file with `stored_len` bytes of blocks starts.
pub fn footer_offset(stored_len: u64) -> u64 {
    PAGE + padded(stored_len)
}

/// Length of the whole file.
pub fn file_len(stored_len: u64) -> u64 {
    footer_offset(stored_len) + PAGE
}

/// Where block `index` of a raw segment of `len` bytes is stored.
pub fn raw_place(len: u64, index: usize) -> BlockPlace {
    debug_assert!(len <= SEGMENT_BYTES_MAX, "segment length was checked before");
    let offset = PAGE + index as u64 * BLOCK_BYTES;
    BlockPlace { offset: offset as u32, len: block_len(len, index) as u32 }
}

impl Header {
    pub fn raw(digest: SegmentDigest, len: u64) -> Self {
        Self { codec: Codec::Raw, raw_len: len, stored_len: len, digest }
    }

    pub fn file_len(&self) -> u64 {
        file_len(self.stored_len)
    }

    /// Writes the header over `page` (one page).
    pub fn encode(&self, page: &mut [u8]) {
        let codec = match self.codec {
            Codec::Raw => CODEC_RAW,
        };
        page.fill(0);
        page[..8].copy_from_slice(&HEADER_MAGIC);
        page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&codec.to_le_bytes());
        page[16..24].copy_from_slice(&self.raw_len.to_le_bytes());
        page[24..32].copy_from_slice(&self.stored_len.to_le_bytes());
        page[32..64].copy_from_slice(&self.digest.0);
        seal(page);
    }

    pub fn parse(page: &[u8]) -> Result<Self, FormatError> {
        let part = "header";
        if page.len() != PAGE_BYTES {
            return Err(FormatError::PageLength { part, got: page.len() });
        }
        if page[..8] != HEADER_MAGIC {
            return Err(FormatError::Magic { part });
        }
        check_seal(page, part)?;
        let version = u32_at(page, 8);
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        let codec = match u32_at(page, 12) {
            CODEC_RAW => Codec::Raw,
            other => return Err(FormatError::Codec(other)),
        };
        let (raw_len, stored_len) = (u64_at(page, 16), u64_at(page, 24));
        if !(1..=SEGMENT_BYTES_MAX).contains(&raw_len) || stored_len != raw_len {
            return Err(FormatError::Lengths { raw: raw_len, stored: stored_len });
        }
        let digest = SegmentDigest(bytes32_at(page, 32));
        Ok(Self { codec, raw_len, stored_len, digest })
    }

    /// Checks that this header stands in the file of `digest`, and that the file is whole.
    pub fn check(&self, digest: SegmentDigest, len: u64) -> Result<(), FormatError> {
        if self.digest != digest {
            return Err(FormatError::OtherSegment { named: digest, holds: self.digest });
        }
        if len != self.file_len() {
            return Err(FormatError::FileLength { got: len, want: self.file_len() });
        }
        Ok(())
    }
}

impl Footer {
    /// The footer of a segment stored raw.
    pub fn raw(table: BlockTable) -> Self {
        let len = table.segment_len();
        let places = (0..table.values().len()).map(|index| raw_place(len, index)).collect();
        Self { table, places }
    }

    /// Writes the footer over `page` (one page).
    pub fn encode(&self, page: &mut [u8]) {
        page.fill(0);
        let mut stored_len = 0;
        for (index, (value, place)) in self.table.values().iter().zip(&self.places).enumerate() {
            let entry = &mut page[index * ENTRY_BYTES..][..ENTRY_BYTES];
            entry[..32].copy_from_slice(value);
            entry[32..36].copy_from_slice(&place.offset.to_le_bytes());
            entry[36..].copy_from_slice(&place.len.to_le_bytes());
            stored_len += u64::from(place.len);
        }
        let trailer = &mut page[TRAILER_AT..];
        trailer[..4].copy_from_slice(&(self.places.len() as u32).to_le_bytes());
        trailer[8..16].copy_from_slice(&stored_len.to_le_bytes());
        trailer[20..28].copy_from_slice(&FOOTER_MAGIC);
        seal(page);
    }

    /// Reads the footer of a raw segment of `raw_len` bytes; its table is checked against
    /// `digest`.
    pub fn parse(page: &[u8], digest: SegmentDigest, raw_len: u64) -> Result<Self, FormatError> {
        let part = "footer";
        if page.len() != PAGE_BYTES {
            return Err(FormatError::PageLength { part, got: page.len() });
        }
        if page[TRAILER_AT + 20..TRAILER_AT + 28] != FOOTER_MAGIC {
            return Err(FormatError::Magic { part });
        }
        check_seal(page, part)?;
        let (count, want) = (u32_at(page, TRAILER_AT), block_count(raw_len));
        if count as usize != want || want * ENTRY_BYTES > TRAILER_AT {
            return Err(FormatError::BlockCount { got: count, want });
        }
        let stored = u64_at(page, TRAILER_AT + 8);
        if stored != raw_len {
            return Err(FormatError::Lengths { raw: raw_len, stored });
        }
        let mut values = Vec::with_capacity(want);
        let mut places = Vec::with_capacity(want);
        for index in 0..want {
            let at = index * ENTRY_BYTES;
            let place = BlockPlace { offset: u32_at(page, at + 32), len: u32_at(page, at + 36) };
            if place != raw_place(raw_len, index) {
                let BlockPlace { offset, len } = place;
                return Err(FormatError::Place { index, offset, len });
            }
            values.push(bytes32_at(page, at));
            places.push(place);
        }
        let table = BlockTable::checked(digest, raw_len, values)?;
        Ok(Self { table, places })
    }
}

/// Puts the CRC-32 of a page into its last four bytes.
fn seal(page: &mut [u8]) {
    let crc = crc32fast::hash(&page[..CRC_AT]);
    page[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
}

fn check_seal(page: &[u8], part: &'static str) -> Result<(), FormatError> {
    if crc32fast::hash(&page[..CRC_AT]) == u32_at(page, CRC_AT) {
        Ok(())
    } else {
        Err(FormatError::Checksum { part })
    }
}

// The callers have checked that the page is whole, so these are within it.

fn u32_at(page: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&page[at..at + 4]);
    u32::from_le_bytes(bytes)
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&page[at..at + 8]);
    u64::from_le_bytes(bytes)
}

fn bytes32_at(page: &[u8], at: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&page[at..at + 32]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(len: usize) -> (SegmentDigest, Vec<u8>, Vec<u8>) {
        let data = vec![7; len];
        let digest = SegmentDigest::of(&data);
        let (mut header, mut footer) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        Header::raw(digest, len as u64).encode(&mut header);
        Footer::raw(BlockTable::of(&data)).encode(&mut footer);
        (digest, header, footer)
    }

    #[test]
    fn header_and_footer_read_back_what_was_written() {
        for len in [1, 4096, 1 << 20, (1 << 20) + 1, 32 << 20] {
            let (digest, header, footer) = pages(len);
            let parsed = Header::parse(&header).unwrap();
            assert_eq!(parsed, Header::raw(digest, len as u64));
            parsed.check(digest, file_len(len as u64)).unwrap();
            let footer = Footer::parse(&footer, digest, len as u64).unwrap();
            assert_eq!(footer.table.digest(), digest);
            assert_eq!(footer.places.len(), len.div_ceil(1 << 20));
        }
    }

    #[test]
    fn any_flipped_bit_in_header_or_footer_is_found() {
        let len = 3 << 20;
        let (digest, header, footer) = pages(len);
        for bit in 0..PAGE_BYTES * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bad).is_err(), "header bit {bit}");
            let mut bad = footer.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::parse(&bad, digest, len as u64).is_err(), "footer bit {bit}");
        }
    }

    #[test]
    fn sealed_nonsense_is_refused_with_a_typed_error() {
        let (digest, header, footer) = pages(5000);
        let changed = |page: &[u8], at: usize, value: u8| {
            let mut page = page.to_vec();
            page[at] = value;
            seal(&mut page);
            page
        };
        assert_eq!(Header::parse(&changed(&header, 8, 9)), Err(FormatError::Version(9)));
        assert_eq!(Header::parse(&changed(&header, 12, 5)), Err(FormatError::Codec(5)));
        let lengths = Header::parse(&changed(&header, 19, 255));
        assert!(matches!(lengths, Err(FormatError::Lengths { .. })));
        assert!(matches!(Header::parse(&header[1..]), Err(FormatError::PageLength { .. })));
        let count = Footer::parse(&changed(&footer, TRAILER_AT, 2), digest, 5000);
        assert_eq!(count, Err(FormatError::BlockCount { got: 2, want: 1 }));
        let place = Footer::parse(&changed(&footer, 33, 0), digest, 5000);
        assert!(matches!(place, Err(FormatError::Place { index: 0, .. })));
        let value = Footer::parse(&changed(&footer, 0, footer[0] ^ 1), digest, 5000);
        assert!(matches!(value, Err(FormatError::Table(_))));
        let header = Header::parse(&header).unwrap();
        let other = SegmentDigest([0; 32]);
        assert!(matches!(header.check(other, 16384), Err(FormatError::OtherSegment { .. })));
        assert!(matches!(header.check(digest, 1), Err(FormatError::FileLength { .. })));
        assert!(Footer::parse(&footer, digest, u64::MAX).is_err());
    }
}
