//! Wall-clock labels of commits. In a namespace they never decrease from one commit to the next. An
//! operator can take them back after a wrong clock.
//!
//! ```text
//!   commits by log index    t1  t2  t3 | F1  F2 .. Fn       labels, F later than `to`
//!   RepairTime(to, after)   t1  t2  t3 | to  to .. Fn       from the oldest on, some per entry
//! ```
//!
//! Labels never decrease, so the labels that are too late are the newest. The oldest of them is
//! changed first. The namespace remembers its newest label until the last one is changed. So labels
//! do not decrease after any entry, even with commits in between.

use std::ops::Bound;
use std::sync::Arc;

use super::{Apply, Catalogue, Checkpoint, Entry, malformed};
use cairn_types::command::{Refusal, RepairTime, Reply};
use cairn_types::ids::{CheckpointId, Namespace};
use cairn_types::limits::{REPAIR_COMMITS_MAX, REPAIR_LABELS_MAX, REPAIR_NAMED_MAX};

/// The labels of a namespace that are later than a given time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Later {
    /// The newest label that the namespace remembers. Its commit may be deleted by now. The next
    /// commits get at least this label.
    pub newest_ms: u64,
    pub commits: u64,
    /// The newest `REPAIR_NAMED_MAX` of these commits.
    pub newest: Vec<Arc<Checkpoint>>,
}

impl Entry<'_> {
    /// The label of a commit made by this entry. It never decreases in a namespace.
    pub(super) fn wall_after(&self, last_wall_ms: u64) -> u64 {
        self.wall_ms.max(last_wall_ms)
    }
}

impl Apply for RepairTime {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.repair_time(&self.namespace, self.to_ms, self.after)
    }
}

impl Catalogue {
    pub(super) fn repair_time(
        &mut self,
        namespace: &Namespace,
        to_ms: u64,
        after: u64,
    ) -> Result<Reply, Refusal> {
        if !self.namespaces.contains_key(namespace) {
            return Err(no_commit(namespace));
        }
        let names = self.index.namespaces.get(namespace).cloned().unwrap_or_default();
        let before = names.commits.range(..=after).next_back();
        if before.is_some_and(|(_, id)| self.label_ms(*id) > to_ms) {
            let text = format!("log index {after} is behind a commit labelled later than {to_ms}");
            return Err(malformed(text));
        }
        let behind = |index: u64| names.commits.range((Bound::Excluded(index), Bound::Unbounded));
        let (mut changed, mut looked_at) = (0, after);
        for (index, id) in behind(after).take(REPAIR_COMMITS_MAX) {
            if changed == REPAIR_LABELS_MAX {
                break;
            }
            changed += usize::from(self.take_label_back(*id, to_ms));
            looked_at = *index;
        }
        let is_left = behind(looked_at).next().is_some();
        if !is_left && let Some(record) = self.namespaces.get_mut(namespace) {
            record.last_wall_ms = record.last_wall_ms.min(to_ms);
        }
        Ok(Reply::TimeRepaired { changed: changed as u32, next: is_left.then_some(looked_at) })
    }

    /// Takes the label back. Returns whether it was later.
    fn take_label_back(&mut self, id: CheckpointId, to_ms: u64) -> bool {
        if self.label_ms(id) <= to_ms {
            return false;
        }
        // No index depends on a label.
        let Some(record) = self.checkpoints.get_mut(&id).map(Arc::make_mut) else { return false };
        record.commit.iter_mut().for_each(|commit| commit.wall_ms = to_ms);
        record.began.wall_ms = record.began.wall_ms.min(to_ms);
        let namespace = record.namespace.clone();
        *self.retention_inputs.or_default(namespace) += 1;
        self.note_change(id);
        true
    }

    fn label_ms(&self, id: CheckpointId) -> u64 {
        let commit = self.checkpoints.get(&id).and_then(|record| record.commit);
        commit.map_or(0, |commit| commit.wall_ms)
    }

    /// The total change that `RepairTime` would make with all its entries. Costs a walk over the
    /// namespace.
    pub fn labelled_later(&self, namespace: &Namespace, to_ms: u64) -> Result<Later, Refusal> {
        let record = self.namespace(namespace).ok_or_else(|| no_commit(namespace))?;
        let is_late = |record: &&Arc<Checkpoint>| self.label_ms(record.id) > to_ms;
        let mut later = Later { newest_ms: record.last_wall_ms, ..Later::default() };
        for record in self.commits(namespace).take_while(is_late) {
            later.commits += 1;
            if later.newest.len() < REPAIR_NAMED_MAX {
                later.newest.push(record.clone());
            }
        }
        Ok(later)
    }
}

fn no_commit(namespace: &Namespace) -> Refusal {
    Refusal::NoSuchCheckpoint { namespace: namespace.to_string(), selector: "latest".to_owned() }
}
