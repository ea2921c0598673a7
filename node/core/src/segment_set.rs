//! Mutable sets of segment ids, and counts by segment id, that are cheap to clone.
//!
//! Both are paged like the records ([`crate::pages`]): one bit or one number per segment, behind
//! `Arc`. Equal content has equal structure (empty pages are removed). So an index can be compared
//! with one rebuilt from scratch.

use std::fmt;

use crate::pages::{PAGE_SEGMENTS, Paged, id_at, place};
use cairn_types::id_set::IdSet;
use cairn_types::ids::SegmentId;

const WORDS: usize = PAGE_SEGMENTS / 64;

/// A set of segment ids, ordered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SegmentSet {
    pages: Paged<Bits>,
    len: u64,
}

#[derive(Clone, PartialEq, Eq)]
struct Bits {
    words: [u64; WORDS],
    count: usize,
}

impl Bits {
    fn empty() -> Self {
        Self { words: [0; WORDS], count: 0 }
    }

    fn set_words(&mut self, becomes: impl Fn(usize, u64) -> u64) {
        for (at, word) in self.words.iter_mut().enumerate() {
            *word = becomes(at, *word);
        }
        self.count = self.words.iter().map(|word| word.count_ones() as usize).sum();
    }
}

impl SegmentSet {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn contains(&self, id: SegmentId) -> bool {
        let (page, place) = place(id);
        self.pages.get(page).is_some_and(|bits| bits.words[place / 64] >> (place % 64) & 1 == 1)
    }

    /// Returns whether the id is new.
    pub fn insert(&mut self, id: SegmentId) -> bool {
        if self.contains(id) {
            return false;
        }
        let (page, place) = place(id);
        let bits = self.pages.or_insert_with(page, Bits::empty);
        bits.words[place / 64] |= 1 << (place % 64);
        bits.count += 1;
        self.len += 1;
        true
    }

    /// Returns whether the id was in the set.
    pub fn remove(&mut self, id: SegmentId) -> bool {
        if !self.contains(id) {
            return false;
        }
        let (page, place) = place(id);
        if let Some(bits) = self.pages.get_mut(page) {
            bits.words[place / 64] &= !(1 << (place % 64));
            bits.count -= 1;
            if bits.count == 0 {
                self.pages.remove(page);
            }
            self.len -= 1;
        }
        true
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = SegmentId> {
        self.pages.iter().flat_map(|(page, bits)| {
            let words = bits.words.iter().enumerate();
            words.flat_map(move |(at, word)| ids_of_word(page, at, *word))
        })
    }

    /// The ids in both sets, in ascending order. The time depends on the number of this set's
    /// pages.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = SegmentId> {
        let pages = self.pages.iter();
        let both = pages.filter_map(|(page, ours)| Some((page, ours, other.pages.get(page)?)));
        both.flat_map(|(page, ours, theirs)| {
            let words = ours.words.iter().zip(&theirs.words).enumerate();
            words.flat_map(move |(at, (our, their))| ids_of_word(page, at, our & their))
        })
    }

    /// Adds the ids of the other set, page by page.
    pub fn unite(&mut self, other: &Self) {
        if self.is_empty() {
            *self = other.clone();
            return;
        }
        for (page, theirs) in other.pages.iter() {
            let ours = self.pages.or_insert_with(page, Bits::empty);
            let before = ours.count;
            ours.set_words(|at, word| word | theirs.words[at]);
            self.len += (ours.count - before) as u64;
        }
    }

    /// Removes the ids of the other set, page by page.
    pub fn subtract(&mut self, other: &Self) {
        for (page, theirs) in other.pages.iter() {
            let Some(ours) = self.pages.get_mut(page) else { continue };
            let before = ours.count;
            ours.set_words(|at, word| word & !theirs.words[at]);
            self.len -= (before - ours.count) as u64;
            if ours.count == 0 {
                self.pages.remove(page);
            }
        }
    }

    /// The positions of its ids in each page, in ascending order.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, impl Iterator<Item = usize>)> {
        self.pages.iter().map(|(page, bits)| {
            let words = bits.words.iter().enumerate();
            (page, words.flat_map(|(at, word)| ones(*word).map(move |bit| at * 64 + bit as usize)))
        })
    }

    /// The same set in its encoded, immutable form.
    pub fn to_id_set(&self) -> IdSet {
        IdSet::from_sorted(self.iter())
    }
}

fn ids_of_word(page: u64, at: usize, word: u64) -> impl Iterator<Item = SegmentId> {
    ones(word).map(move |bit| id_at(page, at * 64 + bit as usize))
}

fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

impl Extend<SegmentId> for SegmentSet {
    fn extend<I: IntoIterator<Item = SegmentId>>(&mut self, ids: I) {
        for id in ids {
            self.insert(id);
        }
    }
}

impl FromIterator<SegmentId> for SegmentSet {
    fn from_iter<I: IntoIterator<Item = SegmentId>>(ids: I) -> Self {
        let mut set = Self::default();
        set.extend(ids);
        set
    }
}

impl fmt::Debug for SegmentSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|id| id.0)).finish()
    }
}

/// A number for each segment. Zero if nothing was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    pages: Paged<Counts>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    numbers: [u32; PAGE_SEGMENTS],
    above_zero: usize,
}

impl Counts {
    fn empty() -> Self {
        Self { numbers: [0; PAGE_SEGMENTS], above_zero: 0 }
    }
}

impl SegmentCounts {
    pub fn get(&self, id: SegmentId) -> u32 {
        let (page, place) = place(id);
        self.pages.get(page).map_or(0, |counts| counts.numbers[place])
    }

    pub fn add(&mut self, id: SegmentId) {
        let (page, place) = place(id);
        let counts = self.pages.or_insert_with(page, Counts::empty);
        counts.above_zero += usize::from(counts.numbers[place] == 0);
        counts.numbers[place] += 1;
    }

    /// Adds one to the count of each of these.
    pub fn add_all(&mut self, ids: &SegmentSet) {
        for (page, places) in ids.places() {
            let counts = self.pages.or_insert_with(page, Counts::empty);
            for place in places {
                counts.above_zero += usize::from(counts.numbers[place] == 0);
                counts.numbers[place] += 1;
            }
        }
    }

    /// Takes one from the count of each of these.
    pub fn subtract_all(&mut self, ids: &SegmentSet) {
        for id in ids.iter() {
            self.subtract(id);
        }
    }

    pub fn subtract(&mut self, id: SegmentId) {
        if self.get(id) == 0 {
            debug_assert!(false, "count of segment {id} is below zero");
            return;
        }
        let (page, place) = place(id);
        if let Some(counts) = self.pages.get_mut(page) {
            counts.numbers[place] -= 1;
            counts.above_zero -= usize::from(counts.numbers[place] == 0);
            if counts.above_zero == 0 {
                self.pages.remove(page);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_inserted_in_order() {
        let ids = [0, 63, 64, 4095, 4096, (1 << 48) + 7].map(SegmentId);
        let mut set: SegmentSet = ids.into_iter().rev().collect();
        assert!(!set.insert(ids[2]));
        assert_eq!(set.iter().collect::<Vec<_>>(), ids);
        assert_eq!(set.to_id_set().iter().collect::<Vec<_>>(), ids);
        let shared = set.clone();
        for id in ids {
            assert!(set.remove(id) && !set.remove(id));
        }
        assert_eq!(set, SegmentSet::default());
        assert_eq!(shared.len(), 6);
    }

    #[test]
    fn whole_sets_are_combined_as_their_ids_would_be() {
        let ids = |numbers: &[u64]| -> Vec<SegmentId> {
            numbers.iter().copied().map(SegmentId).collect()
        };
        let lists = [
            ids(&[]),
            ids(&[0, 1, 63, 64, 1023, 1024, 90_000]),
            ids(&[1, 64, 1024, 1025, 5000]),
            ids(&[1024, (1 << 48) + 7]),
        ];
        for (one, other) in lists.iter().flat_map(|one| lists.iter().map(move |it| (one, it))) {
            let [a, b] = [one, other].map(|list| list.iter().copied().collect::<SegmentSet>());
            let (mut united, mut left) = (a.clone(), a.clone());
            united.unite(&b);
            left.subtract(&b);
            assert_eq!(united, one.iter().chain(other).copied().collect());
            assert_eq!(united.len(), united.iter().count() as u64);
            assert_eq!(left, one.iter().filter(|id| !other.contains(id)).copied().collect());
            assert_eq!(left.len(), left.iter().count() as u64);
            assert!(a.common(&b).eq(one.iter().filter(|id| other.contains(id)).copied()));
            let (mut together, mut single) = (SegmentCounts::default(), SegmentCounts::default());
            for set in [&a, &b] {
                together.add_all(set);
                set.iter().for_each(|id| single.add(id));
            }
            assert_eq!(together, single);
        }
    }

    #[test]
    fn counts_that_return_to_zero_leave_nothing() {
        let mut counts = SegmentCounts::default();
        for id in [3, 3, 5000] {
            counts.add(SegmentId(id));
        }
        assert_eq!((counts.get(SegmentId(3)), counts.get(SegmentId(4))), (2, 0));
        for id in [3, 3, 5000] {
            counts.subtract(SegmentId(id));
        }
        assert_eq!(counts, SegmentCounts::default());
    }
}
