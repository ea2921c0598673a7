//! Refs: named pointers of a namespace, moved by compare-and-swap (C5).
//!
//! A removed ref stays as a tombstone: its history is kept and its generation continues. So a slow
//! client cannot mistake a new ref of the same name for the one it knew. If `REFS_MAX` names are in
//! use, the oldest tombstone is removed, and a new ref's generation is above all generations of the
//! namespace. All refs of a namespace are removed with its last checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, SetRef};
use cairn_types::event::Happened;
use cairn_types::ids::{CheckpointId, Namespace, RefName};
use cairn_types::limits::{REF_HISTORY_MAX, REFS_MAX};
use cairn_types::marks::{Ref, RefMove};

use super::{Apply, Catalogue, Checkpoint, Entry, check_text, malformed};

/// The refs of one namespace, including removed ones.
pub type Refs = Arc<BTreeMap<RefName, Ref>>;

impl Apply for SetRef {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.set_ref(entry, self)
    }
}

impl Catalogue {
    fn set_ref(&mut self, entry: Entry, set: &SetRef) -> Result<Reply, Refusal> {
        check_text("a client's name", &set.by)?;
        if let Some(id) = set.checkpoint {
            let record = self.committed(id)?;
            if record.namespace != set.namespace {
                let namespace = &set.namespace;
                return Err(malformed(format!("checkpoint {id} is not one of {namespace}")));
            }
            check_usable(record)?;
        }
        let refs = self.refs.get(&set.namespace);
        let known = refs.and_then(|refs| refs.get(&set.name));
        let is_there = known.is_some_and(|known| known.checkpoint.is_some());
        if let Some(expected) = set.expect {
            let current = known.filter(|_| is_there).map_or(0, |known| known.generation);
            if current != expected && !canary!("ref_moves_blindly") {
                return Err(Refusal::RefMoved { name: set.name.to_string(), expected, current });
            }
        }
        if set.checkpoint.is_none() && !is_there {
            let (namespace, name) = (set.namespace.to_string(), set.name.to_string());
            return Err(Refusal::NoSuchRef { namespace, name });
        }
        if known.is_none() && refs.is_some_and(|refs| live(refs) >= REFS_MAX) {
            return Err(malformed(format!("{} has {REFS_MAX} refs, the limit", set.namespace)));
        }
        let refs = Arc::make_mut(self.refs.or_default(set.namespace.clone()));
        let mut generation = 0;
        if refs.len() >= REFS_MAX && !refs.contains_key(&set.name) {
            // Above the generation of every removed tombstone, because this name may be one of
            // them.
            generation = refs.values().map(|target| target.generation).max().unwrap_or(0);
            forget_oldest_removed(refs);
        }
        let target = refs.entry(set.name.clone()).or_insert_with(|| Ref {
            generation,
            checkpoint: None,
            history: Vec::new(),
        });
        target.generation += 1;
        target.checkpoint = set.checkpoint;
        let moved = RefMove {
            generation: target.generation,
            checkpoint: set.checkpoint,
            by: set.by.clone(),
            wall_ms: entry.wall_ms,
            subject: entry.subject.name().to_owned(),
        };
        let moved_to = target.generation;
        let surplus = (target.history.len() + 1).saturating_sub(REF_HISTORY_MAX);
        target.history.drain(..surplus);
        target.history.push(moved);
        let generation = moved_to;
        *self.retention_inputs.or_default(set.namespace.clone()) += 1;
        let step = set.checkpoint.and_then(|id| self.checkpoint(id)).map(|record| record.step);
        let (name, checkpoint) = (set.name.clone(), set.checkpoint);
        let moved = Happened::RefMoved { name, generation, checkpoint, step };
        self.collected.push(&set.namespace, moved);
        Ok(Reply::Done)
    }

    /// The refs of a namespace by name, including removed ones.
    pub fn refs(&self, namespace: &Namespace) -> impl Iterator<Item = (&RefName, &Ref)> {
        self.refs.get(namespace).into_iter().flat_map(|refs| refs.iter())
    }

    /// The current target of a ref.
    pub fn ref_target(&self, namespace: &Namespace, name: &RefName) -> Option<CheckpointId> {
        self.refs.get(namespace)?.get(name)?.checkpoint
    }

    /// The refs that point to a checkpoint.
    pub fn refs_to(&self, record: &Checkpoint) -> impl Iterator<Item = &RefName> {
        let id = record.id;
        let refs = self.refs(&record.namespace);
        refs.filter(move |(_, target)| target.checkpoint == Some(id)).map(|(name, _)| name)
    }

    /// The committed checkpoint with this id.
    pub(super) fn committed(&self, id: CheckpointId) -> Result<&Arc<Checkpoint>, Refusal> {
        self.checkpoint(id).filter(|it| it.is_committed()).ok_or(Refusal::UnknownCheckpoint(id))
    }
}

/// Refuses a checkpoint in quarantine.
pub(super) fn check_usable(record: &Checkpoint) -> Result<(), Refusal> {
    match &record.quarantine {
        None => Ok(()),
        Some(quarantine) => {
            Err(Refusal::Quarantined { checkpoint: record.id, reason: quarantine.reason.clone() })
        }
    }
}

fn live(refs: &Refs) -> usize {
    refs.values().filter(|target| target.checkpoint.is_some()).count()
}

/// Makes room for a new ref if removed ones fill the table.
fn forget_oldest_removed(refs: &mut BTreeMap<RefName, Ref>) {
    let removed = refs.iter().filter(|(_, target)| target.checkpoint.is_none());
    let age = |target: &Ref| target.history.last().map_or(0, |last| last.wall_ms);
    let oldest = removed.min_by_key(|(_, target)| age(target)).map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        refs.remove(&oldest);
    }
}
