//! The segment file, byte by byte. The drawing is in `proto/README.md`, "Segment file".
//!
//! Every byte of a file is guarded: header and footer by their CRC-32, blocks by the block table
//! (which belongs to the digest), padding by being zero.

use cairn_types::blocks::{BlockError, BlockTable, block_count};
use cairn_types::form::{Codec, Codecs, Form, FormError, StoredBlocks};
use cairn_types::ids::SegmentDigest;
use cairn_types::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};

/// Header, footer and padding fill whole pages, so that every part can be written with direct I/O.
pub const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

const HEADER_MAGIC: [u8; 8] = *b"CAIRNSEG";
const FOOTER_MAGIC: [u8; 8] = *b"CAIRNEND";
/// Version of this format. A file with another version is refused.
pub const FORMAT_VERSION: u32 = 1;

/// Bytes of a block-table entry: value, stored offset, stored length.
const ENTRY_BYTES: usize = 40;
/// Where the footer's trailer starts: block count, codec, stored length, zeros, magic, CRC-32.
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
    #[error("raw length {0} is not between 1 byte and 32 MiB")]
    RawLength(u64),
    #[error("stored length is {got}, wants {want}")]
    StoredLength { got: u64, want: u64 },
    #[error("header and footer tell different forms")]
    TwoForms,
    #[error("file is {got} bytes, wants {want}")]
    FileLength { got: u64, want: u64 },
    #[error("file of segment {named} says it holds {holds}")]
    OtherSegment { named: SegmentDigest, holds: SegmentDigest },
    #[error("footer counts {got} blocks, wants {want}")]
    BlockCount { got: u32, want: usize },
    #[error("block {index} is stored at {got} of the file, wants {want}")]
    Place { index: usize, got: u32, want: u32 },
    #[error("padding is not zero")]
    Padding,
    /// Includes a codec that this build does not know.
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    Table(#[from] BlockError),
}

/// The first page: what the file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub form: Form,
    pub digest: SegmentDigest,
}

/// Where one block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    /// From the start of the file, bytes.
    pub offset: u32,
    pub len: u32,
}

/// The last page: the block table and the stored blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub table: BlockTable,
    pub blocks: StoredBlocks,
}

/// Bytes up to the next page boundary.
pub fn padded(len: u64) -> u64 {
    len.next_multiple_of(PAGE)
}

/// Where the footer of a file with these blocks starts.
pub fn footer_offset(blocks: &StoredBlocks) -> u64 {
    place(blocks, blocks.count()).offset.into()
}

/// Length of the whole file.
pub fn file_len(blocks: &StoredBlocks) -> u64 {
    footer_offset(blocks) + PAGE
}

/// Where block `index` is stored. Each block begins on the next page after the previous block. For
/// the index after the last block this is the place of the footer.
pub fn place(blocks: &StoredBlocks, index: usize) -> BlockPlace {
    let before: u64 = (0..index).map(|index| padded(blocks.stored_len(index))).sum();
    // Lengths were checked when the blocks were made: at most 32 MiB in 32 blocks.
    BlockPlace { offset: (PAGE + before) as u32, len: blocks.stored_len(index) as u32 }
}

impl Header {
    /// Writes the header over `page` (one page).
    pub fn encode(&self, page: &mut [u8]) {
        let form = &self.form;
        page.fill(0);
        page[..8].copy_from_slice(&HEADER_MAGIC);
        page[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&form.codec().number().to_le_bytes());
        page[16..24].copy_from_slice(&u64::from(form.raw_len()).to_le_bytes());
        page[24..32].copy_from_slice(&u64::from(form.stored_len()).to_le_bytes());
        page[32..64].copy_from_slice(&self.digest.0);
        seal(page);
    }

    pub fn parse(page: &[u8], codecs: Codecs) -> Result<Self, FormatError> {
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
        let (raw_len, stored) = (checked_len(u64_at(page, 16))?, u64_at(page, 24));
        // A stored length that does not fit a u32 is above every limit.
        let stored = u32::try_from(stored).unwrap_or(u32::MAX);
        let form = codecs.form(u32_at(page, 12), raw_len, stored)?;
        let digest = SegmentDigest(bytes32_at(page, 32));
        Ok(Self { form, digest })
    }

    /// Checks that this header belongs to the file of `digest`. If the form alone tells the file
    /// length, also checks that a file of `len` bytes is complete. For other forms
    /// [`Footer::check`] checks the length.
    pub fn check(&self, digest: SegmentDigest, len: u64) -> Result<(), FormatError> {
        if self.digest != digest {
            return Err(FormatError::OtherSegment { named: digest, holds: self.digest });
        }
        match self.form.blocks() {
            Some(blocks) => check_file_len(&blocks, len),
            None => Ok(()),
        }
    }
}

impl Footer {
    /// Writes the footer over `page` (one page).
    pub fn encode(&self, page: &mut [u8]) {
        page.fill(0);
        let form = self.blocks.form();
        for (index, value) in self.table.values().iter().enumerate() {
            let place = place(&self.blocks, index);
            let entry = &mut page[index * ENTRY_BYTES..][..ENTRY_BYTES];
            entry[..32].copy_from_slice(value);
            entry[32..36].copy_from_slice(&place.offset.to_le_bytes());
            entry[36..].copy_from_slice(&place.len.to_le_bytes());
        }
        let trailer = &mut page[TRAILER_AT..];
        trailer[..4].copy_from_slice(&(self.blocks.count() as u32).to_le_bytes());
        trailer[4..8].copy_from_slice(&form.codec().number().to_le_bytes());
        trailer[8..16].copy_from_slice(&u64::from(form.stored_len()).to_le_bytes());
        trailer[20..28].copy_from_slice(&FOOTER_MAGIC);
        seal(page);
    }

    /// Reads the footer of a segment of `raw_len` bytes. Checks the table against `digest`. Checks
    /// the place of each block: blocks do not overlap, and no stored block is longer than its raw
    /// block.
    pub fn parse(
        page: &[u8],
        digest: SegmentDigest,
        raw_len: u64,
        codecs: Codecs,
    ) -> Result<Self, FormatError> {
        let part = "footer";
        if page.len() != PAGE_BYTES {
            return Err(FormatError::PageLength { part, got: page.len() });
        }
        if page[TRAILER_AT + 20..TRAILER_AT + 28] != FOOTER_MAGIC {
            return Err(FormatError::Magic { part });
        }
        check_seal(page, part)?;
        let raw = checked_len(raw_len)?;
        let (count, want) = (u32_at(page, TRAILER_AT), block_count(raw_len));
        if count as usize != want {
            return Err(FormatError::BlockCount { got: count, want });
        }
        let entries = || (0..want).map(|index| index * ENTRY_BYTES);
        let lens: Vec<u32> = entries().map(|at| u32_at(page, at + 36)).collect();
        let codec = codecs.codec(u32_at(page, TRAILER_AT + 4))?;
        let blocks = match codec == Codec::RAW {
            true => StoredBlocks::raw(raw),
            false => codecs.blocks(codec.number(), raw, &lens)?,
        };
        let (got, stored) = (u64_at(page, TRAILER_AT + 8), u64::from(blocks.form().stored_len()));
        if got != stored {
            return Err(FormatError::StoredLength { got, want: stored });
        }
        for (index, at) in entries().enumerate() {
            let BlockPlace { offset, len } = place(&blocks, index);
            if lens[index] != len {
                let (got, want) = (lens[index].into(), len.into());
                return Err(FormError::OtherLength { index, got, want }.into());
            }
            let got = u32_at(page, at + 32);
            if got != offset {
                return Err(FormatError::Place { index, got, want: offset });
            }
        }
        let values = entries().map(|at| bytes32_at(page, at)).collect();
        let table = BlockTable::checked(digest, raw_len, values)?;
        Ok(Self { table, blocks })
    }

    /// Checks that this footer belongs to the file of `header`, which is `len` bytes long.
    pub fn check(&self, header: &Header, len: u64) -> Result<(), FormatError> {
        if self.blocks.form() != header.form {
            return Err(FormatError::TwoForms);
        }
        check_file_len(&self.blocks, len)
    }
}

fn checked_len(raw_len: u64) -> Result<u32, FormatError> {
    match u32::try_from(raw_len) {
        Ok(len) if (1..=SEGMENT_BYTES_MAX).contains(&raw_len) => Ok(len),
        _ => Err(FormatError::RawLength(raw_len)),
    }
}

fn check_file_len(blocks: &StoredBlocks, got: u64) -> Result<(), FormatError> {
    let want = file_len(blocks);
    if got == want { Ok(()) } else { Err(FormatError::FileLength { got, want }) }
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

// The callers have checked that the page is complete, so these offsets are inside it.

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

    const KNOWN: Codecs = Codecs::KNOWN;

    fn pages(len: usize) -> (SegmentDigest, Vec<u8>, Vec<u8>) {
        let data = vec![7; len];
        let digest = SegmentDigest::of(&data);
        let (mut header, mut footer) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        let blocks = StoredBlocks::raw(len as u32);
        Header { form: blocks.form(), digest }.encode(&mut header);
        Footer { table: BlockTable::of(&data), blocks }.encode(&mut footer);
        (digest, header, footer)
    }

    #[test]
    fn header_and_footer_read_back_what_was_written() {
        for len in [1, 4096, 1 << 20, (1 << 20) + 1, 32 << 20] {
            let (digest, header, footer) = pages(len);
            let parsed = Header::parse(&header, KNOWN).unwrap();
            assert_eq!(parsed, Header { form: Form::raw(len as u32), digest });
            let file_len = file_len(&StoredBlocks::raw(len as u32));
            assert_eq!(file_len, 8192 + len.next_multiple_of(4096) as u64);
            parsed.check(digest, file_len).unwrap();
            let footer = Footer::parse(&footer, digest, len as u64, KNOWN).unwrap();
            footer.check(&parsed, file_len).unwrap();
            assert_eq!(footer.table.digest(), digest);
            assert_eq!(footer.blocks.count(), len.div_ceil(1 << 20));
        }
    }

    #[test]
    fn any_flipped_bit_in_header_or_footer_is_found() {
        let len = 3 << 20;
        let (digest, header, footer) = pages(len);
        for bit in 0..PAGE_BYTES * 8 {
            let mut bad = header.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&bad, KNOWN).is_err(), "header bit {bit}");
            let mut bad = footer.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::parse(&bad, digest, len as u64, KNOWN).is_err(), "footer bit {bit}");
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
        let head = |at, value| Header::parse(&changed(&header, at, value), KNOWN).unwrap_err();
        let foot = |at, value| {
            Footer::parse(&changed(&footer, at, value), digest, 5000, KNOWN).unwrap_err()
        };
        let unknown = |number| FormatError::Form(FormError::UnknownCodec(number));
        assert_eq!(head(8, 9), FormatError::Version(9));
        assert_eq!((head(12, 5), foot(TRAILER_AT + 4, 5)), (unknown(5), unknown(5)));
        assert!(matches!(head(19, 255), FormatError::RawLength(_)));
        let stored = FormError::StoredLength { codec: 0, raw: 5000, stored: 5001 };
        assert_eq!(head(24, 0x89), FormatError::Form(stored));
        assert!(matches!(Header::parse(&header[1..], KNOWN), Err(FormatError::PageLength { .. })));
        assert_eq!(foot(TRAILER_AT, 2), FormatError::BlockCount { got: 2, want: 1 });
        assert_eq!(foot(TRAILER_AT + 8, 0x89), FormatError::StoredLength { got: 5001, want: 5000 });
        assert_eq!(foot(33, 0), FormatError::Place { index: 0, got: 0, want: 4096 });
        let length = FormError::OtherLength { index: 0, got: 5001, want: 5000 };
        assert_eq!(foot(36, 0x89), FormatError::Form(length));
        assert!(matches!(foot(0, footer[0] ^ 1), FormatError::Table(_)));
        let header = Header::parse(&header, KNOWN).unwrap();
        let other = SegmentDigest([0; 32]);
        assert!(matches!(header.check(other, 16384), Err(FormatError::OtherSegment { .. })));
        assert!(matches!(header.check(digest, 1), Err(FormatError::FileLength { .. })));
        assert!(Footer::parse(&footer, digest, u64::MAX, KNOWN).is_err());
    }
}
