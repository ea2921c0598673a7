//! Segments counted by kind, so that totals walk kinds and not segments.
//!
//! Segments are of one kind if the same nodes hold them durably, they want the same number of
//! replicas, and they have the same use. If n nodes hold three replicas of everything, there are
//! about n^3/6 kinds for each use, independent of the number of segments.
//!
//! ```text
//!   segment id -> cell (number of its kind, length) -> row: kind, segments, bytes
//!                 pages of 1,024, 8 bytes each         persistent map
//! ```
//!
//! Liveness is not part of a kind: a node that goes down changes no kind. A caller applies liveness
//! to each kind (`Catalogue::counting_on`). So the cost of `SetLiveness` does not depend on the
//! amount of data on the node. The durability of one checkpoint is counted from the cells of its
//! segments.
//!
//! Numbers of kinds are reused and may differ between equal catalogues. No replicated data and no
//! answer depends on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pages::{PAGE_SEGMENTS, Paged, place};
use crate::persistent::Map;
use crate::segment_set::SegmentSet;
use cairn_types::ids::{NodeId, SegmentId};
use cairn_types::model::{Segment, SlotState};

/// The use of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    Unreferenced,
    /// Referenced only by uploads, or a leftover of a committed checkpoint.
    Staged,
    Committed,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// Nodes with a Durable replica, ascending.
    pub durable: Vec<NodeId>,
    /// Replicas wanted.
    pub wanted: u32,
    pub used: Use,
}

/// The number of segments, and their raw bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub segments: u64,
    pub bytes: u64,
}

impl Totals {
    fn add(&mut self, len: u32) {
        self.segments += 1;
        self.bytes += u64::from(len);
    }

    /// The totals of one segment.
    fn of(len: u32) -> Self {
        Self { segments: 1, bytes: u64::from(len) }
    }
}

#[derive(Debug, Clone)]
struct Row {
    kind: Arc<Kind>,
    totals: Totals,
}

/// A kind's number, above zero, and the segment's raw bytes. Zeros if there is no segment.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    kind: u32,
    len: u32,
}

#[derive(Debug, Clone)]
struct Page {
    cells: [Cell; PAGE_SEGMENTS],
    occupied: usize,
}

impl Page {
    fn empty() -> Self {
        Self { cells: [Cell { kind: 0, len: 0 }; PAGE_SEGMENTS], occupied: 0 }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Kinds {
    pages: Paged<Page>,
    rows: Map<u32, Row>,
    numbers: Map<Arc<Kind>, u32>,
    /// Numbers up to `most` that no row has.
    unused: Map<u32, ()>,
    /// The highest number so far.
    most: u32,
}

/// A checkpoint with at least this number of segments is counted in a list of all kinds.
const DENSE_SEGMENTS: u64 = 4096;

impl Kinds {
    /// Notes the segment's current kind and replaces the earlier one.
    pub fn classify(&mut self, segment: &Segment, is_committed: bool) {
        let used = match is_committed {
            true => Use::Committed,
            false if segment.is_referenced() => Use::Staged,
            false => Use::Unreferenced,
        };
        let durable = || {
            let slots = segment.slots.iter().filter(|slot| slot.state == SlotState::Durable);
            slots.map(|slot| slot.node)
        };
        let wanted = segment.replicas_wanted();
        let old = self.cell(segment.id);
        if let Some(row) = self.rows.get(&old.kind)
            && row.kind.used == used
            && row.kind.wanted == wanted
            && row.kind.durable.iter().copied().eq(durable())
        {
            return;
        }
        let kind = self.number_of(Kind { durable: durable().collect(), wanted, used });
        if let Some(row) = self.rows.get_mut(&kind) {
            row.totals.add(segment.form.raw_len());
        }
        self.put(segment.id, Cell { kind, len: segment.form.raw_len() });
        self.leave(old.kind, Totals::of(old.len));
    }

    /// Notes that a checkpoint has committed these segments. The rest of their kind is unchanged.
    pub fn commit(&mut self, ids: &SegmentSet) {
        // Works by kind, because a checkpoint has millions of segments but few kinds.
        let mut becomes = BTreeMap::<u32, (u32, Totals)>::new();
        let mut pages = std::mem::take(&mut self.pages);
        for (number, places) in ids.places() {
            let Some(page) = pages.get_mut(number) else { continue };
            for place in places {
                let cell = &mut page.cells[place];
                let known = match becomes.get_mut(&cell.kind) {
                    Some(known) => known,
                    None => {
                        let Some(kind) = self.committed_kind(cell.kind) else { continue };
                        becomes.entry(cell.kind).or_insert((kind, Totals::default()))
                    }
                };
                known.1.add(cell.len);
                cell.kind = known.0;
            }
        }
        self.pages = pages;
        for (old, (kind, totals)) in becomes {
            if let Some(row) = self.rows.get_mut(&kind) {
                row.totals.segments += totals.segments;
                row.totals.bytes += totals.bytes;
            }
            self.leave(old, totals);
        }
    }

    /// The kind that a commit turns a kind into. `None` if the commit does not change it.
    fn committed_kind(&mut self, number: u32) -> Option<u32> {
        let row = self.rows.get(&number).filter(|row| row.kind.used != Use::Committed)?;
        let kind = Kind { used: Use::Committed, ..(*row.kind).clone() };
        Some(self.number_of(kind))
    }

    /// The segment is removed.
    pub fn forget(&mut self, id: SegmentId) {
        let old = self.cell(id);
        if old.kind != 0 {
            self.put(id, Cell::default());
            self.leave(old.kind, Totals::of(old.len));
        }
    }

    /// Every kind with its totals.
    pub fn iter(&self) -> impl Iterator<Item = (&Kind, Totals)> {
        self.rows.values().map(|row| (&*row.kind, row.totals))
    }

    /// The kinds of these segments, with their totals. `count` is their approximate number.
    pub fn of(&self, ids: impl Iterator<Item = SegmentId>, count: u64) -> Vec<(&Kind, Totals)> {
        let totals: Vec<(u32, Totals)> = if count < DENSE_SEGMENTS {
            let mut totals = BTreeMap::<u32, Totals>::new();
            self.each_cell(ids, |cell| totals.entry(cell.kind).or_default().add(cell.len));
            totals.into_iter().collect()
        } else {
            let mut totals = vec![Totals::default(); self.most as usize + 1];
            self.each_cell(ids, |cell| totals[cell.kind as usize].add(cell.len));
            (0..).zip(totals).filter(|(_, totals)| totals.segments > 0).collect()
        };
        let rows = totals.into_iter();
        rows.filter_map(|(kind, totals)| Some((&*self.rows.get(&kind)?.kind, totals))).collect()
    }

    fn each_cell(&self, ids: impl Iterator<Item = SegmentId>, mut each: impl FnMut(Cell)) {
        let mut last: Option<(u64, &Page)> = None;
        for id in ids {
            let (number, place) = place(id);
            let page = match last {
                Some((known, page)) if known == number => page,
                _ => match self.pages.get(number) {
                    Some(page) => page,
                    None => continue,
                },
            };
            last = Some((number, page));
            if page.cells[place].kind != 0 {
                each(page.cells[place]);
            }
        }
    }

    fn cell(&self, id: SegmentId) -> Cell {
        let (page, place) = place(id);
        self.pages.get(page).map_or_else(Cell::default, |page| page.cells[place])
    }

    fn put(&mut self, id: SegmentId, cell: Cell) {
        let (number, place) = place(id);
        let page = self.pages.or_insert_with(number, Page::empty);
        page.occupied -= usize::from(page.cells[place].kind != 0);
        page.occupied += usize::from(cell.kind != 0);
        page.cells[place] = cell;
        if page.occupied == 0 {
            self.pages.remove(number);
        }
    }

    fn number_of(&mut self, kind: Kind) -> u32 {
        if let Some(number) = self.numbers.get(&kind) {
            return *number;
        }
        let number = self.unused.keys().next().copied().unwrap_or_else(|| {
            self.most += 1;
            self.most
        });
        self.unused.remove(&number);
        let kind = Arc::new(kind);
        self.numbers.insert(Arc::clone(&kind), number);
        self.rows.insert(number, Row { kind, totals: Totals::default() });
        number
    }

    /// Subtracts these totals from the kind.
    fn leave(&mut self, number: u32, totals: Totals) {
        let Some(row) = self.rows.get_mut(&number) else { return };
        row.totals.segments -= totals.segments;
        row.totals.bytes -= totals.bytes;
        if row.totals.segments == 0 {
            let kind = Arc::clone(&row.kind);
            self.rows.remove(&number);
            self.numbers.remove(&kind);
            self.unused.insert(number, ());
        }
    }
}

/// Two values are equal if the same segments have equal kinds. The numbers of the kinds may differ.
impl PartialEq for Kinds {
    fn eq(&self, other: &Self) -> bool {
        let cells_are_equal = |ours: &Page, theirs: &Page| {
            let kind = |of: &Self, cell: &Cell| of.rows.get(&cell.kind).map(|row| row.kind.clone());
            ours.cells
                .iter()
                .zip(&theirs.cells)
                .all(|(our, their)| our.len == their.len && kind(self, our) == kind(other, their))
        };
        let totals = |of: &Self| -> BTreeMap<Kind, Totals> {
            of.iter().map(|(kind, totals)| (kind.clone(), totals)).collect()
        };
        self.pages.iter().map(|(number, _)| number).eq(other.pages.iter().map(|(it, _)| it))
            && self.pages.iter().zip(other.pages.iter()).all(|(a, b)| cells_are_equal(a.1, b.1))
            && totals(self) == totals(other)
    }
}

impl Eq for Kinds {}
