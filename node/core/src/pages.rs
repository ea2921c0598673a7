//! Large arrays by segment id that a copy shares with the original, and the segment records in one.
//!
//! Ids are assigned densely, so a record is found by its position. A copy is one pointer. A change
//! after a copy copies only the shared path to the changed record: the list, one chunk, one page
//! and one leaf. So a snapshot or a planner never delays apply, and apply never changes the data
//! they read. A batch of records that are far apart stays cheap.
//!
//! ```text
//!   Paged         list -> chunk (16 pages) -> page: 1,024 segments
//!                  Arc       Arc              Arc
//!   SegmentPages                              page (32 leaves) -> leaf: 32 records
//!                                                                 Arc
//! ```
//!
//! Records are stored in their leaf, not behind pointers. Copying a leaf copies about 3 KiB of
//! adjacent memory. With 32 pointers it would update 32 counters in different places of memory.

use std::sync::Arc;

use cairn_types::ids::SegmentId;
use cairn_types::model::Segment;

/// Number of segments in a page.
pub const PAGE_SEGMENTS: usize = LEAF_SEGMENTS * LEAVES;
const LEAF_SEGMENTS: usize = 32;
const LEAVES: usize = 32;
/// Number of pages in a chunk.
const CHUNK_PAGES: usize = 16;

/// Page number (lineage included) and place of a segment within it.
pub(crate) fn place(id: SegmentId) -> (u64, usize) {
    (id.0 / PAGE_SEGMENTS as u64, (id.0 % PAGE_SEGMENTS as u64) as usize)
}

pub(crate) fn id_at(page: u64, place: usize) -> SegmentId {
    SegmentId(page * PAGE_SEGMENTS as u64 + place as u64)
}

/// Pages by their number. Equal content has equal structure: no chunk is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paged<P> {
    /// Ascending by number.
    chunks: Arc<Vec<(u64, Arc<Chunk<P>>)>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Chunk<P>([Option<Arc<P>>; CHUNK_PAGES]);

impl<P> Clone for Chunk<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> Default for Paged<P> {
    fn default() -> Self {
        Self { chunks: Arc::default() }
    }
}

fn chunk_place(page: u64) -> (u64, usize) {
    (page / CHUNK_PAGES as u64, (page % CHUNK_PAGES as u64) as usize)
}

impl<P> Paged<P> {
    /// The position of a chunk in the list, or the position at which to insert it.
    fn find(&self, chunk: u64) -> Result<usize, usize> {
        // Most lists have no gap.
        let first = self.chunks.first().map_or(0, |(number, _)| *number);
        let at = chunk.wrapping_sub(first) as usize;
        if self.chunks.get(at).is_some_and(|(number, _)| *number == chunk) {
            return Ok(at);
        }
        self.chunks.binary_search_by_key(&chunk, |(number, _)| *number)
    }

    pub fn get(&self, page: u64) -> Option<&P> {
        let (chunk, at) = chunk_place(page);
        self.chunks[self.find(chunk).ok()?].1.0[at].as_deref()
    }

    /// In ascending order of numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &P)> {
        self.iter_from(0)
    }

    /// From page `first` on, in ascending order of numbers.
    pub fn iter_from(&self, first: u64) -> impl Iterator<Item = (u64, &P)> {
        let (chunk, start) = chunk_place(first);
        let (Ok(from) | Err(from)) = self.find(chunk);
        self.chunks[from..].iter().flat_map(move |(number, pages)| {
            let skipped = if *number == chunk { start } else { 0 };
            let numbered = (number * CHUNK_PAGES as u64..).zip(&pages.0).skip(skipped);
            numbered.filter_map(|(number, page)| Some((number, page.as_deref()?)))
        })
    }

    pub fn remove(&mut self, page: u64) {
        let (chunk, at) = chunk_place(page);
        if let Ok(place) = self.find(chunk)
            && self.chunks[place].1.0[at].is_some()
        {
            let chunks = Arc::make_mut(&mut self.chunks);
            let pages = &mut Arc::make_mut(&mut chunks[place].1).0;
            pages[at] = None;
            if pages.iter().all(Option::is_none) {
                chunks.remove(place);
            }
        }
    }
}

impl<P: Clone> Paged<P> {
    /// The page, to be changed. Copies the parts that are shared with a copy.
    pub fn get_mut(&mut self, page: u64) -> Option<&mut P> {
        let (chunk, at) = chunk_place(page);
        let place = self.find(chunk).ok()?;
        // Checked first, so that the path to a missing page is not copied.
        self.chunks[place].1.0[at].as_ref()?;
        let chunk = &mut Arc::make_mut(&mut self.chunks)[place].1;
        Arc::make_mut(chunk).0[at].as_mut().map(Arc::make_mut)
    }

    /// Like `get_mut`, but inserts the page first if it is missing.
    pub fn or_insert_with(&mut self, page: u64, empty: impl FnOnce() -> P) -> &mut P {
        let (chunk, at) = chunk_place(page);
        let found = self.find(chunk);
        let chunks = Arc::make_mut(&mut self.chunks);
        let place = found.unwrap_or_else(|place| {
            chunks.insert(place, (chunk, Arc::new(Chunk([const { None }; CHUNK_PAGES]))));
            place
        });
        let page = &mut Arc::make_mut(&mut chunks[place].1).0[at];
        Arc::make_mut(page.get_or_insert_with(|| Arc::new(empty())))
    }
}

#[derive(Debug, Clone, Default)]
pub struct SegmentPages {
    pages: Paged<Page>,
    len: u64,
}

#[derive(Debug, Clone)]
struct Page {
    /// A leaf is made with its first record and stays as long as the page does.
    leaves: [Option<Arc<Leaf>>; LEAVES],
    occupied: usize,
}

#[derive(Debug, Clone)]
struct Leaf([Option<Segment>; LEAF_SEGMENTS]);

impl Page {
    fn empty() -> Self {
        Self { leaves: [const { None }; LEAVES], occupied: 0 }
    }

    fn get(&self, place: usize) -> Option<&Segment> {
        self.leaves[place / LEAF_SEGMENTS].as_ref()?.0[place % LEAF_SEGMENTS].as_ref()
    }

    fn place_mut(&mut self, place: usize) -> &mut Option<Segment> {
        let empty = || Arc::new(Leaf([const { None }; LEAF_SEGMENTS]));
        let leaf = self.leaves[place / LEAF_SEGMENTS].get_or_insert_with(empty);
        &mut Arc::make_mut(leaf).0[place % LEAF_SEGMENTS]
    }

    fn iter_from(&self, place: usize) -> impl Iterator<Item = &Segment> {
        let leaves = self.leaves.iter().enumerate().skip(place / LEAF_SEGMENTS);
        leaves.flat_map(move |(number, leaf)| {
            let skipped = place.saturating_sub(number * LEAF_SEGMENTS);
            let records = leaf.iter().flat_map(move |leaf| leaf.0.iter().skip(skipped));
            records.filter_map(Option::as_ref)
        })
    }
}

impl SegmentPages {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get(&self, id: SegmentId) -> Option<&Segment> {
        let (page, place) = place(id);
        self.pages.get(page)?.get(place)
    }

    /// The record, to be changed. Copies the parts that are shared with a snapshot.
    pub fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.get(id)?;
        let (page, place) = place(id);
        self.pages.get_mut(page)?.place_mut(place).as_mut()
    }

    /// Inserts a record under its own id. Returns the record that it replaced.
    pub fn insert(&mut self, segment: Segment) -> Option<Segment> {
        let (page, place) = place(segment.id);
        let page = self.pages.or_insert_with(page, Page::empty);
        let displaced = page.place_mut(place).replace(segment);
        if displaced.is_none() {
            page.occupied += 1;
            self.len += 1;
        }
        displaced
    }

    pub fn remove(&mut self, id: SegmentId) -> Option<Segment> {
        self.get(id)?;
        let (number, place) = place(id);
        let page = self.pages.get_mut(number)?;
        let removed = page.place_mut(place).take()?;
        page.occupied -= 1;
        self.len -= 1;
        if page.occupied == 0 {
            self.pages.remove(number);
        }
        Some(removed)
    }

    /// In ascending order of ids.
    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.iter_from(SegmentId(0))
    }

    /// From `first` on, in ascending order of ids.
    pub fn iter_from(&self, first: SegmentId) -> impl Iterator<Item = &Segment> {
        let (number, start) = place(first);
        let pages = self.pages.iter_from(number);
        pages.flat_map(move |(page, content)| {
            content.iter_from(if page == number { start } else { 0 })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::form::Form;
    use cairn_types::ids::SegmentDigest;
    use cairn_types::slots::{References, Slots};

    fn segment(id: u64) -> Segment {
        Segment {
            id: SegmentId(id),
            digest: SegmentDigest::of(&id.to_le_bytes()),
            form: Form::raw(1),
            references: References::new(),
            reap_after_ms: 0,
            reaped: false,
            slots: Slots::new(),
        }
    }

    #[test]
    fn records_are_found_iterated_and_removed() {
        let mut pages = SegmentPages::default();
        let ids = [1, 2, 40, 1023, 1024, 9000, 70_000, (1 << 48) + 1];
        for id in ids {
            assert!(pages.insert(segment(id)).is_none());
        }
        assert_eq!(pages.len(), 8);
        assert_eq!(pages.iter().map(|s| s.id.0).collect::<Vec<_>>(), ids);
        for from in (0..1100).chain([9000, 9001, 70_000, 70_001, 1 << 49]) {
            let from_there = ids.iter().filter(|id| **id >= from).copied();
            assert!(pages.iter_from(SegmentId(from)).map(|s| s.id.0).eq(from_there), "{from}");
        }
        assert!(pages.get(SegmentId(3)).is_none());
        for id in ids {
            assert_eq!(pages.remove(SegmentId(id)).unwrap().id.0, id);
            assert!(pages.get_mut(SegmentId(id)).is_none());
        }
        assert!(pages.is_empty() && pages.pages.chunks.is_empty(), "empty pages are dropped");
    }

    #[test]
    fn a_copy_never_sees_later_changes_and_shares_what_is_untouched() {
        let mut pages = SegmentPages::default();
        for id in [1, 70, 5000] {
            pages.insert(segment(id));
        }
        let snapshot = pages.clone();
        pages.get_mut(SegmentId(1)).unwrap().reaped = true;
        pages.insert(segment(2));
        assert!(!snapshot.get(SegmentId(1)).unwrap().reaped);
        assert!(snapshot.get(SegmentId(2)).is_none());
        let page = |of: &SegmentPages, page| std::ptr::from_ref(of.pages.get(page).unwrap());
        assert_eq!(page(&pages, 4), page(&snapshot, 4), "untouched page is shared");
        assert_ne!(page(&pages, 0), page(&snapshot, 0));
        let leaf = |of: &SegmentPages, leaf: usize| {
            Arc::as_ptr(of.pages.get(0).unwrap().leaves[leaf].as_ref().unwrap())
        };
        assert_ne!(leaf(&pages, 0), leaf(&snapshot, 0));
        assert_eq!(leaf(&pages, 2), leaf(&snapshot, 2), "untouched leaf is shared");
    }
}
