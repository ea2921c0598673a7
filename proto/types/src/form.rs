//! The stored form of a segment: which codec its blocks went through, and how long they are then.
//!
//! ```text
//! Form           codec, raw length, stored length          Stage, the segment's record, file header
//! StoredBlocks   a Form, and the length of each block      put head, get head, file footer
//! Codecs         the codecs a build knows, one row each    whoever encodes, decodes or reads a number
//! ```
//!
//! A segment's digest is always of its raw bytes: whoever takes stored blocks decodes and verifies
//! them (D1, D5). Blocks of 1 MiB are coded one by one, so that a range needs only its own. `raw` is
//! the form that every build reads, and the one all others fall back to (decision 0016).
//!
//! A second codec is a module of its own and a row in [`Codecs::KNOWN`]. Everything else asks the
//! form.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::blocks::{block_count, block_len};
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES_MAX};

/// The number of a codec, on disk and on the wire. Whether a build knows it, [`Codecs`] says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Codec(u32);

/// How a segment is stored, as its record knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    codec: Codec,
    raw_len: u32,
    stored_len: u32,
}

/// A form and the stored length of each of its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlocks {
    form: Form,
    /// `None` where the form is raw: the lengths follow from the segment's.
    lens: Option<Arc<[u32]>>,
}

/// One codec: a row of a table of [`Codecs`].
#[derive(Debug, Clone, Copy)]
pub struct Coding {
    pub codec: Codec,
    /// A Stage in this codec needs a cluster of this feature level.
    pub feature_level: u32,
    /// The stored bytes of a raw block; `None` where they would not be fewer than the raw ones.
    pub encode: fn(raw: &[u8]) -> Option<Vec<u8>>,
    /// Fills `raw`, which has the block's raw length; false for bytes that [`Coding::encode`] never
    /// makes. Must take any bytes at all.
    pub decode: fn(stored: &[u8], raw: &mut [u8]) -> bool,
}

/// The codecs known beside raw.
#[derive(Debug, Clone, Copy)]
pub struct Codecs(&'static [Coding]);

/// A segment in the form in which it is sent and stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    pub blocks: StoredBlocks,
    pub bytes: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A newer build stored or sent it.
    #[error("codec {0} is not one that this build knows")]
    UnknownCodec(u32),
    #[error("segment length {0} is not between 1 byte and 32 MiB")]
    RawLength(u32),
    #[error("{stored} stored bytes cannot stand for {raw} raw ones in codec {codec}")]
    StoredLength { codec: u32, raw: u32, stored: u64 },
    #[error("a segment of {raw} bytes has {want} blocks, got {got} stored lengths")]
    BlockCount { raw: u32, got: usize, want: usize },
    #[error("stored block {index} cannot have {got} bytes, wants 1 to {max}")]
    BlockLength { index: usize, got: u64, max: u64 },
    #[error("stored block {index} has {got} bytes, wants {want}")]
    OtherLength { index: usize, got: u64, want: u64 },
    #[error("stored block {index} is not valid in codec {codec}")]
    Undecodable { index: usize, codec: u32 },
}

impl Codec {
    pub const RAW: Self = Self(0);

    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

impl Form {
    /// The bytes as they are. `raw_len` is checked where it comes in: 1 byte to 32 MiB.
    pub fn raw(raw_len: u32) -> Self {
        Self { codec: Codec::RAW, raw_len, stored_len: raw_len }
    }

    /// A form that came from disk or network, in a codec that this build may not know.
    pub fn told(codec: u32, raw_len: u32, stored_len: u32) -> Result<Self, FormError> {
        check_raw_len(raw_len)?;
        let fits = match Codec(codec) == Codec::RAW {
            true => stored_len == raw_len,
            // One that does not shrink is stored raw. A block has at least one byte.
            false => (block_count(raw_len.into()) as u32..raw_len).contains(&stored_len),
        };
        match fits {
            true => Ok(Self { codec: Codec(codec), raw_len, stored_len }),
            false => {
                let stored = stored_len.into();
                Err(FormError::StoredLength { codec, raw: raw_len, stored })
            }
        }
    }

    pub fn is_raw(&self) -> bool {
        self.codec == Codec::RAW
    }

    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes of the segment itself.
    pub fn raw_len(&self) -> u32 {
        self.raw_len
    }

    /// Bytes of all stored blocks together, without padding.
    pub fn stored_len(&self) -> u32 {
        self.stored_len
    }

    /// Its blocks, where they follow from it: those of a raw segment.
    pub fn blocks(&self) -> Option<StoredBlocks> {
        self.is_raw().then_some(StoredBlocks { form: *self, lens: None })
    }
}

impl fmt::Display for Form {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "codec {} with {} bytes", self.codec.number(), self.stored_len)
    }
}

impl StoredBlocks {
    pub fn raw(raw_len: u32) -> Self {
        Self { form: Form::raw(raw_len), lens: None }
    }

    pub fn form(&self) -> Form {
        self.form
    }

    pub fn is_raw(&self) -> bool {
        self.form.is_raw()
    }

    pub fn raw_len(&self) -> u64 {
        u64::from(self.form.raw_len)
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        block_count(self.raw_len())
    }

    /// Stored bytes of block `index`; 0 beyond the last one.
    pub fn stored_len(&self, index: usize) -> u64 {
        match &self.lens {
            None => block_len(self.raw_len(), index),
            Some(lens) => lens.get(index).map_or(0, |len| u64::from(*len)),
        }
    }

    /// As they are sent: none where the form is raw.
    pub fn lens_to_wire(&self) -> Vec<u32> {
        self.lens.as_ref().map_or(Vec::new(), |lens| lens.to_vec())
    }
}

impl Encoded {
    /// `raw` as it is. Its length is checked where it comes in.
    pub fn raw(raw: &Bytes) -> Self {
        let blocks = StoredBlocks::raw(u32::try_from(raw.len()).unwrap_or(u32::MAX));
        let block = |index: usize| {
            let start = index * BLOCK_BYTES as usize;
            raw.slice(start..raw.len().min(start + BLOCK_BYTES as usize))
        };
        let bytes = (0..raw.len().div_ceil(BLOCK_BYTES as usize)).map(block).collect();
        Self { blocks, bytes }
    }
}

impl Codecs {
    /// Those of this build.
    pub const KNOWN: Self = Self(&[]);

    pub const fn new(codings: &'static [Coding]) -> Self {
        Self(codings)
    }

    /// Their numbers, without that of raw.
    pub fn numbers(self) -> Vec<u32> {
        self.0.iter().map(|coding| coding.codec.number()).collect()
    }

    /// The codec with this number.
    pub fn codec(self, number: u32) -> Result<Codec, FormError> {
        let codec = Codec(number);
        match codec == Codec::RAW || self.coding(codec).is_some() {
            true => Ok(codec),
            false => Err(FormError::UnknownCodec(number)),
        }
    }

    /// The feature level at which a cluster takes segments in this codec.
    pub fn feature_level(self, codec: Codec) -> u32 {
        self.coding(codec).map_or(1, |coding| coding.feature_level)
    }

    /// As [`Form::told`], in a codec that is known.
    pub fn form(self, codec: u32, raw_len: u32, stored_len: u32) -> Result<Form, FormError> {
        self.codec(codec)?;
        Form::told(codec, raw_len, stored_len)
    }

    /// Stored blocks as disk or network tell them. `lens` has none for raw.
    pub fn blocks(self, codec: u32, raw_len: u32, lens: &[u32]) -> Result<StoredBlocks, FormError> {
        check_raw_len(raw_len)?;
        let (known, want) = (self.codec(codec)?, block_count(raw_len.into()));
        let blocks = if known == Codec::RAW { 0 } else { want };
        if lens.len() != blocks {
            return Err(FormError::BlockCount { raw: raw_len, got: lens.len(), want: blocks });
        }
        if known == Codec::RAW {
            return Ok(StoredBlocks::raw(raw_len));
        }
        for (index, len) in lens.iter().enumerate() {
            let (got, max) = (u64::from(*len), block_len(raw_len.into(), index));
            if !(1..=max).contains(&got) {
                return Err(FormError::BlockLength { index, got, max });
            }
        }
        // Each is at most a block, so their sum is at most a segment.
        let form = self.form(codec, raw_len, lens.iter().sum())?;
        Ok(StoredBlocks { form, lens: Some(lens.into()) })
    }

    /// The raw bytes of a stored block, in `room` unless they are the stored ones. They are what
    /// the codec says, and not verified yet.
    pub fn decode<'a>(
        self,
        blocks: &StoredBlocks,
        index: usize,
        stored: &'a [u8],
        room: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], FormError> {
        let (got, want) = (stored.len() as u64, blocks.stored_len(index));
        if got != want {
            return Err(FormError::OtherLength { index, got, want });
        }
        let raw_len = block_len(blocks.raw_len(), index);
        if blocks.is_raw() || got == raw_len {
            // A block that did not shrink is stored as it is.
            return Ok(stored);
        }
        let codec = blocks.form.codec;
        let coding = self.coding(codec).ok_or(FormError::UnknownCodec(codec.number()))?;
        room.clear();
        room.resize(raw_len as usize, 0);
        match (coding.decode)(stored, room) {
            true => Ok(room),
            false => Err(FormError::Undecodable { index, codec: codec.number() }),
        }
    }

    /// As [`Codecs::decode`], of shared bytes.
    pub fn decode_bytes(
        self,
        blocks: &StoredBlocks,
        index: usize,
        stored: &Bytes,
    ) -> Result<Bytes, FormError> {
        let mut room = Vec::new();
        self.decode(blocks, index, stored, &mut room)?;
        match room.is_empty() {
            true => Ok(stored.clone()),
            false => Ok(room.into()),
        }
    }

    /// A whole segment in `codec`; in raw where that does not make it shorter.
    pub fn encode(self, codec: Codec, raw: &Bytes) -> Result<Encoded, FormError> {
        let raw_len = u32::try_from(raw.len()).unwrap_or(u32::MAX);
        check_raw_len(raw_len)?;
        let as_is = Encoded::raw(raw);
        if codec == Codec::RAW {
            return Ok(as_is);
        }
        let coding = self.coding(codec).ok_or(FormError::UnknownCodec(codec.number()))?;
        let coded = |block: &Bytes| match (coding.encode)(block) {
            Some(stored) if stored.len() < block.len() => Bytes::from(stored),
            _ => block.clone(),
        };
        let bytes: Vec<Bytes> = as_is.bytes.iter().map(coded).collect();
        let lens: Vec<u32> = bytes.iter().map(|block| block.len() as u32).collect();
        match lens.iter().sum::<u32>() < raw_len {
            true => Ok(Encoded { blocks: self.blocks(codec.number(), raw_len, &lens)?, bytes }),
            false => Ok(as_is),
        }
    }

    fn coding(self, codec: Codec) -> Option<&'static Coding> {
        self.0.iter().find(|coding| coding.codec == codec)
    }
}

fn check_raw_len(raw_len: u32) -> Result<(), FormError> {
    match (1..=SEGMENT_BYTES_MAX).contains(&u64::from(raw_len)) {
        true => Ok(()),
        false => Err(FormError::RawLength(raw_len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A block of equal bytes becomes that byte.
    const SAME: Coding = Coding {
        codec: Codec::new(9),
        feature_level: 5,
        encode: |raw| raw.iter().all(|byte| *byte == raw[0]).then(|| vec![raw[0]]),
        decode: |stored, raw| {
            raw.fill(*stored.first().unwrap_or(&0));
            stored.len() == 1
        },
    };
    const CODECS: Codecs = Codecs::new(&[SAME]);

    #[test]
    fn a_segment_comes_back_from_its_form_block_by_block() {
        let mut raw = vec![7; 3 * MIB + 5];
        raw[MIB + 1] = 8;
        let raw = Bytes::from(raw);
        for (codec, lens) in [(Codec::RAW, [MIB, MIB, MIB, 5]), (SAME.codec, [1, MIB, 1, 1])] {
            let Encoded { blocks, bytes } = CODECS.encode(codec, &raw).unwrap();
            assert_eq!(bytes.iter().map(Bytes::len).collect::<Vec<_>>(), lens);
            assert_eq!(blocks.form().stored_len() as usize, lens.iter().sum::<usize>());
            let told = blocks.lens_to_wire();
            assert_eq!(CODECS.blocks(codec.number(), raw.len() as u32, &told), Ok(blocks.clone()));
            let back = bytes.iter().enumerate();
            let back = back.map(|(at, it)| CODECS.decode_bytes(&blocks, at, it).unwrap());
            assert_eq!(back.collect::<Vec<_>>().concat(), raw, "{codec:?}");
        }
    }

    #[test]
    fn what_does_not_shrink_is_raw() {
        let raw: Bytes = (0..MIB + 9).map(|at| at as u8).collect();
        assert!(CODECS.encode(SAME.codec, &raw).unwrap().blocks.is_raw());
    }

    #[test]
    fn nonsense_is_refused_with_a_typed_error() {
        let number = SAME.codec.number();
        let len = 2 * MIB as u32;
        assert_eq!(Codecs::KNOWN.codec(number), Err(FormError::UnknownCodec(number)));
        assert_eq!(CODECS.form(8, len, len), Err(FormError::UnknownCodec(8)));
        assert_eq!(CODECS.form(0, 0, 0), Err(FormError::RawLength(0)));
        assert_eq!(CODECS.form(0, len * 32, len), Err(FormError::RawLength(len * 32)));
        let stored = |codec, stored| CODECS.form(codec, len, stored).map(|form| form.stored_len());
        for (codec, bad) in [(0, len - 1), (number, len), (number, 1)] {
            let error = FormError::StoredLength { codec, raw: len, stored: bad.into() };
            assert_eq!(stored(codec, bad), Err(error));
        }
        assert_eq!((stored(0, len), stored(number, 2)), (Ok(len), Ok(2)));
        let blocks = |codec, lens: &[u32]| CODECS.blocks(codec, len, lens).map(drop);
        let count = |got, want| Err(FormError::BlockCount { raw: len, got, want });
        assert_eq!((blocks(number, &[1]), blocks(0, &[1, 1])), (count(1, 2), count(2, 0)));
        let max = MIB as u64;
        let length = |index, got| Err(FormError::BlockLength { index, got, max });
        assert_eq!(blocks(number, &[1, 0]), length(1, 0));
        assert_eq!(blocks(number, &[MIB as u32 + 1, 1]), length(0, max + 1));
        let right = CODECS.blocks(number, len, &[1, 2]).unwrap();
        let decoded = |index, bytes: &'static [u8]| {
            CODECS.decode_bytes(&right, index, &Bytes::from_static(bytes)).map(drop)
        };
        assert_eq!(decoded(0, b"xy"), Err(FormError::OtherLength { index: 0, got: 2, want: 1 }));
        assert_eq!(decoded(1, b"xy"), Err(FormError::Undecodable { index: 1, codec: number }));
        assert_eq!((CODECS.feature_level(SAME.codec), CODECS.feature_level(Codec::RAW)), (5, 1));
    }
}
