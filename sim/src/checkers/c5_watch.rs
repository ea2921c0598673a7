//! C5 over the answers to watchers: what was there at first and the events since then make up the
//! state of the catalogue at each cursor, each change is told once, and in the order of the log.
//!
//! The expected changes are the differences between the catalogues before and after an entry, and
//! not the events that nodes derive while they apply it.
//!
//! ```text
//!   entries, in order ----> Watches: what each one changed, the state behind it
//!                                          |
//!   a watcher's answers --> Follower: its cursor, its own state ----> equal at each cursor?
//! ```
//!
//! A watcher may hear of an entry before a checker sees it, from a node that is starting. So answers
//! are judged once the entry is known. Entries that no checker saw one by one (a *hole*) are judged
//! by the state behind the last of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cairn_client::Watched;
use cairn_core::catalogue::{Catalogue, Checkpoint};
use cairn_types::event::{Event, EventId, Happened};
use cairn_types::ids::{CheckpointId, Namespace, RefName, Step};
use parking_lot::Mutex;

use crate::trace;

/// A committed checkpoint, as far as a watcher knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    namespace: Namespace,
    step: Step,
    is_quarantined: bool,
    /// This and the label of its commit are not told with an undeletion.
    is_full: Option<bool>,
    label_ms: Option<u64>,
}

/// What is there, as a watcher sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct View {
    checkpoints: BTreeMap<CheckpointId, Known>,
    /// With their generations.
    refs: BTreeMap<(Namespace, RefName), (CheckpointId, u64)>,
}

/// A change by an entry, and the label of the commit if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    namespace: Namespace,
    what: Happened,
    label_ms: Option<u64>,
}

/// The catalogue's history. Cheap to clone. All clones are the same.
#[derive(Clone, Default)]
pub struct Watches {
    inner: Arc<Mutex<History>>,
}

#[derive(Default)]
struct History {
    last: u64,
    /// Changes by entry. Most entries change nothing that a watcher is told.
    changes: BTreeMap<u64, Vec<Change>>,
    /// The state from an entry on, where it changed.
    views: BTreeMap<u64, Arc<View>>,
    /// All that were ever committed, and whether they were full then.
    ever_committed: BTreeMap<CheckpointId, bool>,
    /// Behind the first entry of each pair, up to the second one.
    holes: Vec<(u64, u64)>,
}

impl Watches {
    /// A node has applied the entry at `index`, and has this catalogue now.
    pub fn entry(&self, index: u64, catalogue: impl FnOnce() -> Catalogue) {
        let mut history = self.inner.lock();
        if index > history.last {
            history.take(index, &catalogue());
        }
    }
}

impl History {
    fn take(&mut self, index: u64, catalogue: &Catalogue) {
        let view = View::of(catalogue);
        let before = self.views.last_key_value().map(|(_, view)| view.clone()).unwrap_or_default();
        if index == self.last + 1 {
            let changes = self.difference(&before, &view, catalogue);
            if !changes.is_empty() {
                trace::count("checked.events", changes.len() as u64);
                self.changes.insert(index, changes);
            }
        } else {
            self.holes.push((self.last, index));
        }
        let full = view.checkpoints.iter().map(|(id, known)| (*id, known.is_full == Some(true)));
        self.ever_committed.extend(full);
        if *before != view {
            self.views.insert(index, Arc::new(view));
        }
        self.last = index;
    }

    fn difference(&self, before: &View, after: &View, catalogue: &Catalogue) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, known) in &after.checkpoints {
            let (checkpoint, step) = (*id, known.step);
            let mut push = |what, label_ms| {
                changes.push(Change { namespace: known.namespace.clone(), what, label_ms });
            };
            let old = before.checkpoints.get(id);
            match old {
                Some(_) => {}
                None if self.ever_committed.contains_key(id) => {
                    push(Happened::Undeleted { checkpoint, step }, None);
                }
                None => push(Happened::Committed { checkpoint, step }, known.label_ms),
            }
            match (old.is_some_and(|old| old.is_quarantined), known.is_quarantined) {
                (false, true) => push(Happened::Quarantined { checkpoint, step }, None),
                (true, false) => push(Happened::Released { checkpoint, step }, None),
                _ => {}
            }
            // It is told once, also if the checkpoint was in the trash since.
            let was_full = self.ever_committed.get(id).copied().unwrap_or(false);
            if known.is_full == Some(true) && !was_full {
                push(Happened::Full { checkpoint, step }, None);
            }
        }
        let gone = before.checkpoints.iter().filter(|(id, _)| !after.checkpoints.contains_key(id));
        for (id, known) in gone {
            let reason = catalogue.checkpoint(*id).and_then(|record| record.deleted_for);
            let deleted = reason.map(|reason| Happened::Deleted {
                checkpoint: *id,
                step: known.step,
                reason,
            });
            let namespace = known.namespace.clone();
            changes.extend(deleted.map(|what| Change { namespace, what, label_ms: None }));
        }
        for namespace in catalogue.namespaces_with_refs() {
            for (name, target) in catalogue.refs(namespace) {
                let key = (namespace.clone(), name.clone());
                let is_same = match before.refs.get(&key) {
                    Some((_, generation)) => *generation == target.generation,
                    // A removed one stays as it was.
                    None => target.checkpoint.is_none(),
                };
                if is_same {
                    continue;
                }
                let (checkpoint, generation) = (target.checkpoint, target.generation);
                let step = checkpoint.and_then(|id| catalogue.checkpoint(id)).map(|it| it.step);
                let what = Happened::RefMoved { name: name.clone(), generation, checkpoint, step };
                changes.push(Change { namespace: namespace.clone(), what, label_ms: None });
            }
        }
        changes
    }

    /// Whether this entry's own effect was not seen.
    fn is_in_hole(&self, index: u64) -> bool {
        self.holes.iter().any(|(from, to)| (*from + 1..=*to).contains(&index))
    }

    /// The state behind an entry, if it is known.
    fn view_at(&self, index: u64) -> Option<Arc<View>> {
        if self.holes.iter().any(|(from, to)| (*from + 1..*to).contains(&index)) {
            return None;
        }
        let known = self.views.range(..=index).next_back();
        Some(known.map(|(_, view)| view.clone()).unwrap_or_default())
    }

    /// The changes of an entry in these namespaces.
    fn changes_of(&self, index: u64, prefix: Option<&Namespace>) -> Vec<Change> {
        let changes = self.changes.get(&index).into_iter().flatten();
        changes.filter(|change| is_wanted(&change.namespace, prefix)).cloned().collect()
    }
}

fn is_wanted(namespace: &Namespace, prefix: Option<&Namespace>) -> bool {
    prefix.is_none_or(|prefix| namespace.is_at_or_below(prefix))
}

impl View {
    fn of(catalogue: &Catalogue) -> Self {
        let known = |record: &Checkpoint| Known {
            namespace: record.namespace.clone(),
            step: record.step,
            is_quarantined: record.quarantine.is_some(),
            is_full: Some(record.full),
            label_ms: record.commit.map(|commit| commit.wall_ms),
        };
        let committed = catalogue.checkpoints().filter(|record| record.is_committed());
        let checkpoints = committed.map(|record| (record.id, known(record))).collect();
        let mut refs = BTreeMap::new();
        for namespace in catalogue.namespaces_with_refs() {
            for (name, target) in catalogue.refs(namespace) {
                let Some(id) = target.checkpoint else { continue };
                refs.insert((namespace.clone(), name.clone()), (id, target.generation));
            }
        }
        Self { checkpoints, refs }
    }

    /// What a watcher of these namespaces sees differently, if it does.
    fn differs(&self, truth: &Self, prefix: Option<&Namespace>) -> Option<String> {
        let is_same = |mine: &Known, its: &Known| {
            let is_full = mine.is_full.or(its.is_full);
            let label_ms = mine.label_ms.or(its.label_ms);
            *its == Known { is_full, label_ms, ..mine.clone() }
        };
        let ids: BTreeSet<_> = self.checkpoints.keys().chain(truth.checkpoints.keys()).collect();
        for id in ids {
            let its = truth.checkpoints.get(id).filter(|it| is_wanted(&it.namespace, prefix));
            match (self.checkpoints.get(id), its) {
                (Some(mine), Some(its)) if is_same(mine, its) => {}
                (None, None) => {}
                (mine, its) => return Some(format!("checkpoint {id} is {mine:?}, not {its:?}")),
            }
        }
        let keys: BTreeSet<_> = self.refs.keys().chain(truth.refs.keys()).collect();
        for key in keys.into_iter().filter(|(namespace, _)| is_wanted(namespace, prefix)) {
            let (mine, its) = (self.refs.get(key), truth.refs.get(key));
            if mine != its {
                return Some(format!("ref {} of {} is {mine:?}, not {its:?}", key.1, key.0));
            }
        }
        None
    }

    fn change(&mut self, event: &Event) {
        let Event { namespace, what, wall_ms, .. } = event;
        let known = |is_full, label_ms, step| Known {
            namespace: namespace.clone(),
            step,
            is_quarantined: false,
            is_full,
            label_ms,
        };
        let mut edit = |id: &CheckpointId, edit: fn(&mut Known)| {
            self.checkpoints.get_mut(id).into_iter().for_each(edit);
        };
        match what {
            Happened::Committed { checkpoint, step } => {
                self.checkpoints.insert(*checkpoint, known(Some(false), Some(*wall_ms), *step));
            }
            Happened::Undeleted { checkpoint, step } => {
                self.checkpoints.insert(*checkpoint, known(None, None, *step));
            }
            Happened::Deleted { checkpoint, .. } => drop(self.checkpoints.remove(checkpoint)),
            Happened::Quarantined { checkpoint, .. } => {
                edit(checkpoint, |known| known.is_quarantined = true);
            }
            Happened::Released { checkpoint, .. } => {
                edit(checkpoint, |known| known.is_quarantined = false);
            }
            Happened::Full { checkpoint, .. } => {
                edit(checkpoint, |known| known.is_full = Some(true))
            }
            Happened::RefMoved { name, generation, checkpoint, .. } => {
                let key = (namespace.clone(), name.clone());
                match checkpoint {
                    Some(id) => drop(self.refs.insert(key, (*id, *generation))),
                    None => drop(self.refs.remove(&key)),
                }
            }
        }
    }
}

/// One watcher, over all of its streams.
#[derive(Default)]
pub struct Follower {
    prefix: Option<Namespace>,
    /// What it was told and what is not judged yet.
    queue: VecDeque<Watched>,
    /// The cursor of what it was told last. `None` before a seam.
    cursor: Option<EventId>,
    /// The cursor up to which it is judged, and the changes that it was told of this entry.
    judged: Option<EventId>,
    told: Vec<Change>,
    view: View,
}

impl Follower {
    pub fn new(prefix: Option<Namespace>) -> Self {
        Self { prefix, ..Self::default() }
    }

    pub fn prefix(&self) -> Option<Namespace> {
        self.prefix.clone()
    }

    /// From where it goes on.
    pub fn cursor(&self) -> Option<EventId> {
        self.cursor
    }

    /// It begins with what is there, because its cursor is too old.
    pub fn forget(&mut self) {
        self.cursor = None;
    }

    /// Takes an answer and judges all that can be judged now.
    ///
    /// # Errors
    /// The broken promise.
    pub fn take(&mut self, told: Watched, watches: &Watches) -> Result<(), String> {
        match told {
            Watched::Begins => self.cursor = None,
            _ => self.cursor = told.cursor().or(self.cursor),
        }
        self.queue.push_back(told);
        self.judge(watches)
    }

    /// Whether it knows all up to this entry, and was found right.
    ///
    /// # Errors
    /// The broken promise.
    pub fn has_reached(&mut self, index: u64, watches: &Watches) -> Result<bool, String> {
        self.judge(watches)?;
        let judged = self.judged.filter(|_| self.queue.is_empty());
        Ok(judged.is_some_and(|judged| judged >= EventId::end_of(judged.lineage, index)))
    }

    fn judge(&mut self, watches: &Watches) -> Result<(), String> {
        let history = watches.inner.lock();
        while let Some(next) = self.queue.front() {
            if next.cursor().is_some_and(|cursor| cursor.index > history.last) {
                return Ok(());
            }
            if let Some(next) = self.queue.pop_front() {
                self.one(next, &history)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, told: Watched, history: &History) -> Result<(), String> {
        trace::count("checked.watched", 1);
        match told {
            Watched::Begins => {
                (self.judged, self.view) = (None, View::default());
                self.told.clear();
                Ok(())
            }
            Watched::Checkpoint(it) => {
                let known = Known {
                    namespace: it.namespace,
                    step: it.step,
                    is_quarantined: it.is_quarantined,
                    is_full: Some(it.is_full),
                    label_ms: Some(it.commit_wall_ms),
                };
                let twice = self.view.checkpoints.insert(it.id, known);
                self.of_snapshot(twice.is_some(), &format!("checkpoint {}", it.id))
            }
            Watched::Ref(it) => {
                let what = format!("ref {} of {}", it.name, it.namespace);
                let key = (it.namespace, it.name);
                let twice = self.view.refs.insert(key, (it.checkpoint, it.generation));
                self.of_snapshot(twice.is_some(), &what)
            }
            Watched::Seam(cursor) => {
                trace::count("checked.seams", 1);
                if let Some(judged) = self.judged {
                    return Err(format!("a seam at {cursor}, behind {judged}"));
                }
                self.judged = Some(cursor);
                self.is_right(cursor, history)
            }
            Watched::Event(event) => self.event(event, history),
            Watched::Cursor(cursor) => {
                self.passes(cursor, history)?;
                self.judged = Some(cursor);
                self.is_right(cursor, history)
            }
            other => Err(format!("unknown to this checker: {other:?}")),
        }
    }

    fn of_snapshot(&self, twice: bool, what: &str) -> Result<(), String> {
        match (twice, self.judged) {
            (true, _) => Err(format!("{what} is told twice before the seam")),
            (_, Some(judged)) => Err(format!("{what} as of what is there, behind {judged}")),
            _ => Ok(()),
        }
    }

    fn event(&mut self, event: Event, history: &History) -> Result<(), String> {
        let judged = self.judged.ok_or_else(|| format!("{event:?} before the seam"))?;
        if event.id <= judged {
            return Err(format!("{event:?} behind {judged}"));
        }
        if event.id.index > judged.index {
            // All of the entries before this one.
            self.passes(EventId::end_of(event.id.lineage, event.id.index - 1), history)?;
            self.told.clear();
        }
        let label_ms =
            Some(event.wall_ms).filter(|_| matches!(event.what, Happened::Committed { .. }));
        let (namespace, what) = (event.namespace.clone(), event.what.clone());
        let change = Change { namespace, what, label_ms };
        let expected = history.changes_of(event.id.index, self.prefix.as_ref());
        if !history.is_in_hole(event.id.index)
            && (!expected.contains(&change) || self.told.contains(&change))
        {
            let told = &self.told;
            return Err(format!("{event:?} is none of {expected:?}, told before: {told:?}"));
        }
        self.told.push(change);
        self.view.change(&event);
        self.judged = Some(event.id);
        Ok(())
    }

    /// It was told all that happened behind `judged` up to `cursor`, which is the end of an entry.
    fn passes(&self, cursor: EventId, history: &History) -> Result<(), String> {
        let judged = self.judged.ok_or_else(|| format!("cursor {cursor} before the seam"))?;
        if cursor < judged {
            return Err(format!("cursor {cursor} behind {judged}"));
        }
        let prefix = self.prefix.as_ref();
        // A cursor inside of an entry does not come from a node whose batches are larger than all
        // entries here.
        let begun = (judged.place != u32::MAX).then_some(judged.index);
        for index in begun.into_iter().chain(judged.index + 1..=cursor.index) {
            let told = if Some(index) == begun { self.told.as_slice() } else { &[] };
            let mut expected = history.changes_of(index, prefix);
            expected.retain(|change| !told.contains(change));
            if let Some(lacking) = expected.first().filter(|_| !history.is_in_hole(index)) {
                return Err(format!("{lacking:?} of entry {index} is untold at {cursor}"));
            }
        }
        Ok(())
    }

    fn is_right(&self, cursor: EventId, history: &History) -> Result<(), String> {
        let Some(truth) = history.view_at(cursor.index) else { return Ok(()) };
        trace::count("checked.views", 1);
        match self.view.differs(&truth, self.prefix.as_ref()) {
            Some(text) => Err(format!("at {cursor} {text}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
