//! A sorted, immutable set of segment ids in few bytes.
//!
//! Owns the coding: the differences between neighbours as LEB128 varints, the first id as its
//! difference from zero. Ids are minted densely, so a checkpoint of a million segments takes
//! little more than a megabyte. Equal sets have equal bytes: [`IdSet::decode`] refuses every
//! other way of writing the same set, so the bytes can be hashed and stored as they are.

use std::fmt;

use bytes::Bytes;

use crate::ids::SegmentId;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct IdSet {
    len: u64,
    encoded: Bytes,
}

/// Bytes that are not an id set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdSetError {
    #[error("id set is cut short or malformed at byte {0}")]
    Malformed(usize),
    #[error("id set does not ascend at byte {0}")]
    NotAscending(usize),
    #[error("id set has {got} ids, its record says {want}")]
    WrongLength { got: u64, want: u64 },
}

impl IdSet {
    /// Makes a set from ascending ids. A repeated or descending id is our own bug; it is left out.
    pub fn from_sorted(ids: impl IntoIterator<Item = SegmentId>) -> Self {
        let mut encoded = Vec::new();
        let mut len = 0;
        let mut last = None;
        for SegmentId(id) in ids {
            let delta = match last {
                None => id,
                Some(last) if id > last => id - last,
                Some(last) => {
                    debug_assert!(false, "ids do not ascend: {id} after {last}");
                    continue;
                }
            };
            put_varint(&mut encoded, delta);
            last = Some(id);
            len += 1;
        }
        Self { len, encoded: encoded.into() }
    }

    /// Reads a set back, checking every byte; `len` is what the record says beside it.
    pub fn decode(encoded: Bytes, len: u64) -> Result<Self, IdSetError> {
        let (mut at, mut got, mut last) = (0, 0, None::<u64>);
        while at < encoded.len() {
            let (delta, next) = get_varint(&encoded, at).ok_or(IdSetError::Malformed(at))?;
            let id = match last {
                None => delta,
                Some(_) if delta == 0 => return Err(IdSetError::NotAscending(at)),
                Some(last) => last.checked_add(delta).ok_or(IdSetError::NotAscending(at))?,
            };
            last = Some(id);
            got += 1;
            at = next;
        }
        if got == len {
            Ok(Self { len, encoded })
        } else {
            Err(IdSetError::WrongLength { got, want: len })
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The coded form; [`IdSet::decode`] reads it.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// In ascending order.
    pub fn iter(&self) -> Ids<'_> {
        Ids { encoded: &self.encoded, at: 0, last: 0 }
    }

    /// Takes time linear in the set.
    pub fn contains(&self, id: SegmentId) -> bool {
        self.iter().take_while(|other| *other <= id).last() == Some(id)
    }
}

impl fmt::Debug for IdSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|id| id.0)).finish()
    }
}

/// The ids of an [`IdSet`], ascending.
pub struct Ids<'a> {
    encoded: &'a [u8],
    at: usize,
    last: u64,
}

impl Iterator for Ids<'_> {
    type Item = SegmentId;

    fn next(&mut self) -> Option<SegmentId> {
        let (delta, next) = match self.encoded.get(self.at) {
            // Neighbours, as most are.
            Some(delta) if *delta < 0x80 => (u64::from(*delta), self.at + 1),
            _ => get_varint(self.encoded, self.at)?,
        };
        self.at = next;
        self.last += delta;
        Some(SegmentId(self.last))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The value at `at` and where the next one starts; `None` at the end, and for a value that is cut
/// short, longer than need be, or beyond 64 bits.
fn get_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (count, byte) in bytes.get(at..)?.iter().enumerate().take(10) {
        let low = u64::from(byte & 0x7f);
        if count == 9 && low > 1 {
            return None;
        }
        value |= low << (7 * count);
        if byte & 0x80 == 0 {
            let overlong = *byte == 0 && count > 0;
            return (!overlong).then_some((value, at + count + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> IdSet {
        IdSet::from_sorted(ids.iter().copied().map(SegmentId))
    }

    #[test]
    fn a_set_reads_back_what_it_was_made_of() {
        let lineage = 1 << 48;
        for ids in [
            &[][..],
            &[0],
            &[1, 2, 3, 127, 128, 300, 70_000],
            &[5, lineage + 1, lineage + 2, u64::MAX],
        ] {
            let made = set(ids);
            let back = IdSet::decode(made.encoded().clone(), ids.len() as u64).unwrap();
            assert_eq!(back, made);
            assert_eq!(back.iter().map(|id| id.0).collect::<Vec<_>>(), ids);
            for id in ids {
                assert!(made.contains(SegmentId(*id)));
            }
            assert!(!made.contains(SegmentId(4)));
        }
    }

    #[test]
    fn dense_ids_take_one_byte_each() {
        assert_eq!(IdSet::from_sorted((1..=1000).map(SegmentId)).encoded().len(), 1000);
    }

    #[test]
    fn every_other_spelling_is_refused() {
        let decode = |bytes: &[u8], len| IdSet::decode(Bytes::copy_from_slice(bytes), len);
        assert_eq!(decode(&[1, 0], 2), Err(IdSetError::NotAscending(1)));
        assert_eq!(decode(&[1, 0x80], 2), Err(IdSetError::Malformed(1)));
        assert_eq!(decode(&[0x81, 0x00], 1), Err(IdSetError::Malformed(0)));
        assert_eq!(decode(&[0xff; 11], 1), Err(IdSetError::Malformed(0)));
        assert_eq!(decode(&[1, 1], 3), Err(IdSetError::WrongLength { got: 2, want: 3 }));
        let mut over = set(&[u64::MAX]).encoded().to_vec();
        over.push(1);
        assert_eq!(decode(&over, 2), Err(IdSetError::NotAscending(10)));
    }
}
