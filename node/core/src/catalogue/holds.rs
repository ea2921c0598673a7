//! Holds, and all other protection of a checkpoint from deletion (D7).
//!
//! A hold ends by itself at its time, or when its owner releases it. An ended hold keeps nothing.
//! Its record is removed when room is needed or when its checkpoint is removed.

use std::ops::Bound;

use cairn_types::canary;
use cairn_types::command::{AddHold, Refusal, ReleaseHold, Reply};
use cairn_types::ids::CheckpointId;
use cairn_types::limits::{HOLDS_MAX, HOLDS_TOTAL_MAX};
use cairn_types::marks::Hold;

use super::{Apply, Catalogue, Checkpoint, Entry, check_text, malformed};

impl Apply for AddHold {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.add_hold(entry, self)
    }
}

impl Apply for ReleaseHold {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        let key = (self.checkpoint, self.owner.clone());
        catalogue.touch_retention(self.checkpoint);
        match catalogue.holds.remove(&key) {
            Some(_) => Ok(Reply::Done),
            None => {
                let (checkpoint, owner) = key;
                Err(Refusal::NoSuchHold { checkpoint, owner })
            }
        }
    }
}

impl Catalogue {
    pub(super) fn add_hold(&mut self, entry: Entry, add: &AddHold) -> Result<Reply, Refusal> {
        self.committed(add.checkpoint)?;
        if add.owner.is_empty() {
            return Err(malformed("a hold without an owner"));
        }
        check_text("an owner", &add.owner)?;
        check_text("a reason", &add.reason)?;
        if add.for_ms == Some(0) {
            return Err(malformed("a hold for no time"));
        }
        let key = (add.checkpoint, add.owner.clone());
        if !self.holds.contains_key(&key) {
            if self.active_holds(add.checkpoint).count() >= HOLDS_MAX {
                let id = add.checkpoint;
                return Err(malformed(format!("checkpoint {id} has {HOLDS_MAX} holds, the limit")));
            }
            self.forget_ended_holds(add.checkpoint);
            if self.holds.len() >= HOLDS_TOTAL_MAX {
                self.forget_all_ended_holds();
            }
            if self.holds.len() >= HOLDS_TOTAL_MAX {
                return Err(malformed(format!(
                    "the cluster has {HOLDS_TOTAL_MAX} holds, the limit"
                )));
            }
        }
        let ends = |from_ms: u64| add.for_ms.map(|for_ms| from_ms.saturating_add(for_ms));
        let hold = Hold {
            owner: add.owner.clone(),
            reason: add.reason.clone(),
            until_ms: ends(self.cluster.clock_ms),
            wall_ms: entry.wall_ms,
            until_wall_ms: ends(entry.wall_ms),
        };
        self.holds.insert(key, hold);
        self.touch_retention(add.checkpoint);
        Ok(Reply::Done)
    }

    /// Refuses if [`Catalogue::add_hold`] could find no room.
    pub(super) fn check_room_for_hold(&self, id: CheckpointId) -> Result<(), Refusal> {
        let most = self.active_holds(id).count();
        if most >= HOLDS_MAX || self.holds.len() >= HOLDS_TOTAL_MAX {
            return Err(malformed(format!("no room for a hold on checkpoint {id}")));
        }
        Ok(())
    }

    /// All holds, including ended ones, ordered by checkpoint and owner, after a given one.
    pub fn holds_after(
        &self,
        after: Option<(CheckpointId, String)>,
    ) -> impl Iterator<Item = (CheckpointId, &Hold)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.holds.range((from, Bound::Unbounded)).map(|((id, _), hold)| (*id, hold))
    }

    fn holds_of(&self, id: CheckpointId) -> impl Iterator<Item = &Hold> {
        let owners = (id, String::new())..(CheckpointId(id.0.saturating_add(1)), String::new());
        self.holds.range(owners).map(|(_, hold)| hold)
    }

    /// Holds that protect a checkpoint now.
    pub fn active_holds(&self, id: CheckpointId) -> impl Iterator<Item = &Hold> {
        let clock_ms = self.cluster.clock_ms;
        self.holds_of(id).filter(move |hold| hold.is_active(clock_ms))
    }

    /// The active holds as text for people.
    pub(super) fn kept_by_holds(&self, id: CheckpointId) -> impl Iterator<Item = String> {
        let holds = self.active_holds(id).map(Hold::shown);
        holds.filter(|_| !canary!("holds_keep_nothing"))
    }

    /// Removes the records of ended holds of one checkpoint.
    fn forget_ended_holds(&mut self, id: CheckpointId) {
        let clock_ms = self.cluster.clock_ms;
        let ended = self.holds_of(id).filter(|hold| !hold.is_active(clock_ms));
        let ended: Vec<String> = ended.map(|hold| hold.owner.clone()).collect();
        for owner in ended {
            self.holds.remove(&(id, owner));
        }
    }

    fn forget_all_ended_holds(&mut self) {
        let clock_ms = self.cluster.clock_ms;
        let ended = self.holds.iter().filter(|(_, hold)| !hold.is_active(clock_ms));
        let ended: Vec<(CheckpointId, String)> = ended.map(|(key, _)| key.clone()).collect();
        for key in ended {
            self.holds.remove(&key);
        }
    }

    /// Removes all holds of a checkpoint whose record is removed.
    pub(super) fn forget_holds(&mut self, id: CheckpointId) {
        let owners: Vec<String> = self.holds_of(id).map(|hold| hold.owner.clone()).collect();
        for owner in owners {
            self.holds.remove(&(id, owner));
        }
    }

    /// Whether a ref or a hold protects a committed checkpoint.
    pub(super) fn is_protected(&self, record: &Checkpoint) -> bool {
        let is_named = !canary!("refs_keep_nothing") && self.refs_to(record).next().is_some();
        record.is_committed() && (is_named || self.kept_by_holds(record.id).next().is_some())
    }

    /// Refuses to delete or replace a checkpoint that refs or holds protect, and names them.
    pub(super) fn check_unprotected(&self, record: &Checkpoint) -> Result<(), Refusal> {
        if !self.is_protected(record) {
            return Ok(());
        }
        let refs = self.refs_to(record).map(|name| format!("ref {name}"));
        let refs = refs.filter(|_| !canary!("refs_keep_nothing"));
        let holds = self.kept_by_holds(record.id);
        let by: Vec<String> = refs.chain(holds).collect();
        Err(Refusal::Protected { checkpoint: record.id, by: by.join(", ") })
    }
}
