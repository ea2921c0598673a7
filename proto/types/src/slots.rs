//! The lists in a segment's record, in few bytes: a cluster has millions of them.
//!
//! Owns their form in memory. The usual content lies in the record itself, the rest in a box:
//!
//! ```text
//!   Slots        three replicas of one Stage    24 bytes   else a box, 32 bytes a slot
//!   References   one wanted number of replicas  16 bytes   else a box, 8 bytes each
//! ```
//!
//! Equal lists have equal forms, so that records can be compared as they are.

use std::fmt;
use std::ops::{Deref, Range};

use crate::ids::{Epoch, NodeId};
use crate::model::{Slot, SlotState};

/// Slots that fit a record: as many as the default policy wants.
const FEW: usize = 3;

/// The slots of a segment. Keeps the order that it is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Slots(SlotsForm);

#[derive(Clone, PartialEq, Eq)]
enum SlotsForm {
    /// At most three on nodes with small numbers, of one epoch, and all that are Assigned until the
    /// same time. What is not used is zero.
    Few {
        /// Bits 0 and 1: how many. Two bits more for the state of each.
        packed: u8,
        nodes: [u16; FEW],
        epoch: Epoch,
        until_ms: u64,
    },
    Many(Box<[Slot]>),
}

const NONE: SlotsForm = SlotsForm::Few { packed: 0, nodes: [0; FEW], epoch: Epoch(0), until_ms: 0 };

impl SlotsForm {
    fn of(slots: &[Slot]) -> Self {
        Self::few(slots).unwrap_or_else(|| Self::Many(slots.into()))
    }

    fn few(slots: &[Slot]) -> Option<Self> {
        if slots.len() > FEW {
            return None;
        }
        let mut few = NONE;
        let Self::Few { packed, nodes, epoch, until_ms } = &mut few else { return None };
        *packed = slots.len() as u8;
        *epoch = slots.first().map_or(Epoch(0), |slot| slot.epoch);
        let is_assigned = |slot: &&Slot| slot.state == SlotState::Assigned;
        *until_ms = slots.iter().find(is_assigned).map_or(0, |slot| slot.until_ms);
        for (at, slot) in slots.iter().enumerate() {
            let until_of_state_ms = if is_assigned(&slot) { *until_ms } else { 0 };
            if slot.epoch != *epoch || slot.until_ms != until_of_state_ms {
                return None;
            }
            nodes[at] = u16::try_from(slot.node.0).ok()?;
            let state = match slot.state {
                SlotState::Assigned => 0,
                SlotState::Durable => 1,
                SlotState::Released => 2,
            };
            *packed |= state << (2 + 2 * at);
        }
        Some(few)
    }
}

impl Slots {
    pub const fn new() -> Self {
        Self(NONE)
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            SlotsForm::Few { packed, .. } => usize::from(packed & 3),
            SlotsForm::Many(slots) => slots.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, at: usize) -> Option<Slot> {
        match &self.0 {
            SlotsForm::Few { packed, nodes, epoch, until_ms } if at < self.len() => {
                let state = match packed >> (2 + 2 * at) & 3 {
                    0 => SlotState::Assigned,
                    1 => SlotState::Durable,
                    _ => SlotState::Released,
                };
                let until_ms = if state == SlotState::Assigned { *until_ms } else { 0 };
                let node = NodeId(nodes[at].into());
                Some(Slot { node, epoch: *epoch, state, until_ms })
            }
            SlotsForm::Few { .. } => None,
            SlotsForm::Many(slots) => slots.get(at).copied(),
        }
    }

    pub fn iter(&self) -> SlotsIter<'_> {
        SlotsIter { slots: self, left: 0..self.len() }
    }

    /// Changes the list as a whole.
    pub fn edit<T>(&mut self, change: impl FnOnce(&mut Vec<Slot>) -> T) -> T {
        let mut slots: Vec<Slot> = self.iter().collect();
        let answer = change(&mut slots);
        self.0 = SlotsForm::of(&slots);
        answer
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let slots: Vec<Slot> = slots.into_iter().collect();
        Self(SlotsForm::of(&slots))
    }
}

impl<'a> IntoIterator for &'a Slots {
    type Item = Slot;
    type IntoIter = SlotsIter<'a>;

    fn into_iter(self) -> SlotsIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self).finish()
    }
}

/// The slots of a list, in its order.
#[derive(Clone)]
pub struct SlotsIter<'a> {
    slots: &'a Slots,
    left: Range<usize>,
}

impl Iterator for SlotsIter<'_> {
    type Item = Slot;

    fn next(&mut self) -> Option<Slot> {
        self.slots.get(self.left.next()?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for SlotsIter<'_> {}

/// How many references want how many replicas: (R, count), ascending, no zero counts.
#[derive(Clone, PartialEq, Eq)]
pub struct References(ReferencesForm);

#[derive(Clone, PartialEq, Eq)]
enum ReferencesForm {
    None,
    One([(u32, u32); 1]),
    /// Two at least. A box of a list is half as wide as a list.
    #[allow(clippy::box_collection, reason = "a list in its place widens each record by 16 bytes")]
    Many(Box<Vec<(u32, u32)>>),
}

impl References {
    pub const fn new() -> Self {
        Self(ReferencesForm::None)
    }

    /// Counts one more reference that wants `replicas`.
    pub fn add(&mut self, replicas: u32) {
        match &mut self.0 {
            ReferencesForm::One([(wanted, count)]) if *wanted == replicas => *count += 1,
            _ => self.edit(|references| {
                match references.binary_search_by_key(&replicas, |(wanted, _)| *wanted) {
                    Ok(at) => references[at].1 += 1,
                    Err(at) => references.insert(at, (replicas, 1)),
                }
            }),
        }
    }

    /// Counts one reference less; false if there is none that wants `replicas`.
    pub fn subtract(&mut self, replicas: u32) -> bool {
        let Ok(at) = self.binary_search_by_key(&replicas, |(wanted, _)| *wanted) else {
            return false;
        };
        self.edit(|references| {
            references[at].1 -= 1;
            references.retain(|(_, count)| *count > 0);
        });
        true
    }

    /// Changes the list as a whole.
    pub fn edit<T>(&mut self, change: impl FnOnce(&mut Vec<(u32, u32)>) -> T) -> T {
        let mut references = self.to_vec();
        let answer = change(&mut references);
        self.0 = match references[..] {
            [] => ReferencesForm::None,
            [one] => ReferencesForm::One([one]),
            _ => ReferencesForm::Many(Box::new(references)),
        };
        answer
    }
}

impl Default for References {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for References {
    type Target = [(u32, u32)];

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            ReferencesForm::None => &[],
            ReferencesForm::One(one) => one,
            ReferencesForm::Many(many) => many,
        }
    }
}

impl FromIterator<(u32, u32)> for References {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(references: I) -> Self {
        let mut list = Self::new();
        list.edit(|content| content.extend(references));
        list
    }
}

impl fmt::Debug for References {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(node: u64, epoch: u64, state: SlotState, until_ms: u64) -> Slot {
        Slot { node: NodeId(node), epoch: Epoch(epoch), state, until_ms }
    }

    #[test]
    fn lists_of_slots_come_back_as_they_were_given() {
        use SlotState::{Assigned, Durable, Released};
        let few: [&[Slot]; 5] = [
            &[],
            &[slot(9, 5, Durable, 0)],
            &[slot(1, u64::MAX, Assigned, 70), slot(65_535, u64::MAX, Assigned, 70)],
            &[slot(3, 5, Released, 0), slot(2, 5, Assigned, 7), slot(1, 5, Durable, 0)],
            &[slot(1, 5, Assigned, 0), slot(2, 5, Assigned, 0), slot(3, 5, Assigned, 0)],
        ];
        let many: [&[Slot]; 6] = [
            &[slot(65_536, 5, Durable, 0)],
            &[slot(1, 5, Durable, 0), slot(2, 6, Durable, 0)],
            &[slot(1, 5, Assigned, 7), slot(2, 5, Assigned, 8)],
            // Declined by one of two nodes.
            &[slot(1, 5, Assigned, 7), slot(2, 5, Assigned, 0)],
            // What no sound record has comes back too, to be refused.
            &[slot(1, 5, Durable, 7)],
            &[slot(1, 5, Durable, 0); 4],
        ];
        for (slots, is_few) in
            few.map(|it| (it, true)).into_iter().chain(many.map(|it| (it, false)))
        {
            let list: Slots = slots.iter().copied().collect();
            assert_eq!(matches!(list.0, SlotsForm::Few { .. }), is_few, "{slots:?}");
            assert_eq!(list.iter().collect::<Vec<_>>(), slots);
            assert_eq!((list.len(), list.get(slots.len())), (slots.len(), None));
            assert_eq!(format!("{list:?}"), format!("{slots:?}"));
        }
    }

    #[test]
    fn equal_lists_are_equal_however_they_came_about() {
        let [one, two] = [1, 2].map(|node| slot(node, 5, SlotState::Durable, 0));
        let mut list: Slots = [one, slot(2, 6, SlotState::Durable, 0)].into_iter().collect();
        list.edit(|slots| slots[1] = two);
        assert_eq!(list, [one, two].into_iter().collect());
        list.edit(Vec::clear);
        assert_eq!(list, Slots::new());

        let mut references = References::new();
        for replicas in [3, 2, 3] {
            references.add(replicas);
        }
        assert_eq!(references[..], [(2, 1), (3, 2)]);
        assert!(references.subtract(2) && !references.subtract(2) && references.subtract(3));
        assert_eq!(references, References::from_iter([(3, 1)]));
        assert!(references.subtract(3));
        assert_eq!(references, References::new());
    }

    #[test]
    fn a_record_stays_small() {
        assert_eq!((size_of::<Slots>(), size_of::<References>()), (24, 16));
        assert_eq!(size_of::<Option<crate::model::Segment>>(), 104);
    }
}
