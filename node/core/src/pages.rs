//! Segment records in dense pages that a copy shares with the living catalogue.
//!
//! Ids are minted densely, so a record is found by its place. A copy is one pointer; the first
//! change after it copies the page list, and each change one page, one leaf (64 pointers each)
//! and one record that are still shared. So a snapshot or a planner never holds up apply, apply
//! never changes what they read, and a batch of records that lie far apart stays cheap.
//!
//! ```text
//!   SegmentPages -> page list -> page (64 leaves) -> leaf (64 places) -> Segment
//!        Arc           Arc             Arc                 Arc
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::ids::SegmentId;
use cairn_types::model::Segment;

/// Segments a page has room for.
pub const PAGE_SEGMENTS: usize = LEAF_SEGMENTS * LEAVES;
const LEAF_SEGMENTS: usize = 64;
const LEAVES: usize = 64;

/// Page number (lineage included) and place of a segment within it.
pub(crate) fn place(id: SegmentId) -> (u64, usize) {
    (id.0 / PAGE_SEGMENTS as u64, (id.0 % PAGE_SEGMENTS as u64) as usize)
}

pub(crate) fn id_at(page: u64, place: usize) -> SegmentId {
    SegmentId(page * PAGE_SEGMENTS as u64 + place as u64)
}

#[derive(Debug, Clone, Default)]
pub struct SegmentPages {
    pages: Arc<BTreeMap<u64, Arc<Page>>>,
    len: u64,
}

#[derive(Debug, Clone, Default)]
struct Page {
    /// Grows to its last leaf, never shrinks.
    leaves: Vec<Arc<Leaf>>,
    occupied: usize,
}

#[derive(Debug, Clone)]
struct Leaf([Option<Arc<Segment>>; LEAF_SEGMENTS]);

impl Page {
    fn get(&self, place: usize) -> Option<&Segment> {
        self.leaves.get(place / LEAF_SEGMENTS)?.0[place % LEAF_SEGMENTS].as_deref()
    }

    /// Makes leaves up to the place's.
    fn place_mut(&mut self, place: usize) -> &mut Option<Arc<Segment>> {
        while self.leaves.len() <= place / LEAF_SEGMENTS {
            self.leaves.push(Arc::new(Leaf([const { None }; LEAF_SEGMENTS])));
        }
        &mut Arc::make_mut(&mut self.leaves[place / LEAF_SEGMENTS]).0[place % LEAF_SEGMENTS]
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
        self.pages.get(&page)?.get(place)
    }

    /// The record to be changed; copies what a snapshot shares with us.
    pub fn get_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.get(id)?;
        let (page, place) = place(id);
        let page = Arc::make_mut(Arc::make_mut(&mut self.pages).get_mut(&page)?);
        page.place_mut(place).as_mut().map(Arc::make_mut)
    }

    /// Puts a record in under its own id; gives back the one it displaced.
    pub fn insert(&mut self, segment: Segment) -> Option<Arc<Segment>> {
        let (page, place) = place(segment.id);
        let page = Arc::make_mut(Arc::make_mut(&mut self.pages).entry(page).or_default());
        let displaced = page.place_mut(place).replace(Arc::new(segment));
        if displaced.is_none() {
            page.occupied += 1;
            self.len += 1;
        }
        displaced
    }

    pub fn remove(&mut self, id: SegmentId) -> Option<Arc<Segment>> {
        self.get(id)?;
        let (number, place) = place(id);
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(pages.get_mut(&number)?);
        let removed = page.place_mut(place).take()?;
        page.occupied -= 1;
        self.len -= 1;
        if page.occupied == 0 {
            pages.remove(&number);
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
        self.pages.range(number..).flat_map(move |(page, content)| {
            let skipped = if *page == number { start } else { 0 };
            let leaves = content.leaves.iter().skip(skipped / LEAF_SEGMENTS);
            let places = leaves.flat_map(|leaf| leaf.0.iter());
            places.skip(skipped % LEAF_SEGMENTS).filter_map(Option::as_deref)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_types::form::Form;
    use cairn_types::ids::SegmentDigest;

    fn segment(id: u64) -> Segment {
        Segment {
            id: SegmentId(id),
            digest: SegmentDigest::of(&id.to_le_bytes()),
            form: Form::raw(1),
            references: Vec::new(),
            reap_after_ms: 0,
            reaped: false,
            slots: Vec::new(),
        }
    }

    #[test]
    fn records_are_found_iterated_and_removed() {
        let mut pages = SegmentPages::default();
        let ids = [1, 2, 4095, 4096, 9000, (1 << 48) + 1];
        for id in ids {
            assert!(pages.insert(segment(id)).is_none());
        }
        assert_eq!(pages.len(), 6);
        assert_eq!(pages.iter().map(|s| s.id.0).collect::<Vec<_>>(), ids);
        assert_eq!(pages.iter_from(SegmentId(4096)).map(|s| s.id.0).next(), Some(4096));
        assert_eq!(pages.iter_from(SegmentId(3)).map(|s| s.id.0).next(), Some(4095));
        assert_eq!(pages.iter_from(SegmentId(2)).map(|s| s.id.0).next(), Some(2));
        assert!(pages.get(SegmentId(3)).is_none());
        for id in ids {
            assert_eq!(pages.remove(SegmentId(id)).unwrap().id.0, id);
            assert!(pages.get_mut(SegmentId(id)).is_none());
        }
        assert!(pages.is_empty() && pages.pages.is_empty(), "empty pages are dropped");
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
        assert!(Arc::ptr_eq(&pages.pages[&1], &snapshot.pages[&1]), "untouched page is shared");
        assert!(!Arc::ptr_eq(&pages.pages[&0], &snapshot.pages[&0]));
        let leaves = |of: &SegmentPages, leaf: usize| Arc::as_ptr(&of.pages[&0].leaves[leaf]);
        assert_ne!(leaves(&pages, 0), leaves(&snapshot, 0));
        assert_eq!(leaves(&pages, 1), leaves(&snapshot, 1), "untouched leaf is shared");
    }
}
