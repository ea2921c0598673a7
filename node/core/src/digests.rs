//! Finds the segment of a digest. The index does not store digests; the records do.
//!
//! Digests spread evenly. Their first 16 bits select a short list, and the next 32 bits an entry in
//! it, of 12 bytes. With 4 million segments a list has 61 entries. Digests that share all of these
//! 48 bits are adjacent, and the records distinguish them. A copy shares the lists
//! ([`crate::pages`]).
//!
//! ```text
//!   digest -> list (first 16 bits) -> (next 32 bits, segment id) -> record: is it this digest?
//! ```

use crate::pages::{Paged, SegmentPages};
use cairn_types::ids::{SegmentDigest, SegmentId};

/// Entries by which a full list grows. Doubled lists would be half empty.
const ROOM: usize = 8;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DigestIndex {
    lists: Paged<List>,
}

/// Ascending.
#[derive(Debug, Default, PartialEq, Eq)]
struct List(Vec<Entry>);

impl Clone for List {
    /// Has extra room, because a list is copied in order to add to it.
    fn clone(&self) -> Self {
        let mut entries = Vec::with_capacity(self.0.len() + ROOM);
        entries.extend_from_slice(&self.0);
        Self(entries)
    }
}

/// A part of the digest, and the two halves of the id, the high one first. In this form it takes 12
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    part: u32,
    id: [u32; 2],
}

/// The list of a digest, and the part of the digest in its entry.
fn split(digest: &SegmentDigest) -> (u64, u32) {
    let [a, b, c, d, e, f, ..] = digest.0;
    (u16::from_be_bytes([a, b]).into(), u32::from_be_bytes([c, d, e, f]))
}

impl Entry {
    fn new(part: u32, id: SegmentId) -> Self {
        Self { part, id: [(id.0 >> 32) as u32, id.0 as u32] }
    }

    fn id(self) -> SegmentId {
        SegmentId(u64::from(self.id[0]) << 32 | u64::from(self.id[1]))
    }
}

impl DigestIndex {
    /// The segment of this digest among `records`.
    pub fn get(&self, digest: &SegmentDigest, records: &SegmentPages) -> Option<SegmentId> {
        let (list, part) = split(digest);
        let List(entries) = self.lists.get(list)?;
        let first = entries.partition_point(|entry| entry.part < part);
        let alike = entries[first..].iter().take_while(|entry| entry.part == part);
        let is_it = |id: &SegmentId| records.get(*id).is_some_and(|it| it.digest == *digest);
        alike.map(|entry| entry.id()).find(is_it)
    }

    /// Inserts a segment. No other segment may have its digest.
    pub fn insert(&mut self, digest: &SegmentDigest, id: SegmentId) {
        let (list, part) = split(digest);
        let List(entries) = self.lists.or_insert_with(list, List::default);
        let entry = Entry::new(part, id);
        if let Err(at) = entries.binary_search(&entry) {
            if entries.len() == entries.capacity() {
                entries.reserve_exact(ROOM.min(entries.len() + 1));
            }
            entries.insert(at, entry);
        }
    }

    pub fn remove(&mut self, digest: &SegmentDigest, id: SegmentId) {
        let (list, part) = split(digest);
        let Some(List(entries)) = self.lists.get_mut(list) else { return };
        if let Ok(at) = entries.binary_search(&Entry::new(part, id)) {
            entries.remove(at);
        }
        if entries.is_empty() {
            self.lists.remove(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::form::Form;
    use cairn_types::model::Segment;
    use cairn_types::slots::{References, Slots};

    /// Many share a list, and every three share the part in their entries.
    fn digest(number: u64) -> SegmentDigest {
        let mut digest = SegmentDigest([0; 32]);
        digest.0[1] = (number / 3 % 7) as u8;
        digest.0[2..6].copy_from_slice(&(number as u32 / 3 * 0x1001).to_be_bytes());
        digest.0[24..].copy_from_slice(&number.to_be_bytes());
        digest
    }

    fn record(number: u64) -> Segment {
        Segment {
            id: SegmentId(number << 30),
            digest: digest(number),
            form: Form::raw(1),
            references: References::new(),
            reap_after_ms: 0,
            reaped: false,
            slots: Slots::new(),
        }
    }

    #[test]
    fn segments_are_found_by_all_of_their_digest_and_copies_never_change() {
        let (mut index, mut records) = (DigestIndex::default(), SegmentPages::default());
        for number in 0..1000 {
            assert_eq!(index.get(&digest(number), &records), None);
            index.insert(&digest(number), record(number).id);
            records.insert(record(number));
        }
        let (copy, known) = (index.clone(), records.clone());
        for number in 0..1000 {
            assert_eq!(index.get(&digest(number), &records), Some(record(number).id));
            index.remove(&digest(number), record(number).id);
            records.remove(record(number).id);
            assert_eq!(index.get(&digest(number), &records), None);
        }
        assert_eq!(index, DigestIndex::default(), "what is empty is dropped");
        assert!((0..1000).all(|it| copy.get(&digest(it), &known) == Some(record(it).id)));
        assert_eq!(copy.get(&digest(1000), &known), None);
    }
}
