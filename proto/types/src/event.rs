//! What happens to checkpoints, as those who watch are told. Every node derives the same events, with the
//! same ids, from the log.

use std::fmt;
use std::str::FromStr;

use crate::ids::{CheckpointId, Lineage, Namespace, RefName, Step};
use crate::model::DeletedFor;

/// `LINEAGE/INDEX.N`: the recovery generation, the log entry, and the place among its events. As a cursor
/// it says that all up to it is known. `LINEAGE/INDEX` is behind all events of the entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    pub lineage: Lineage,
    pub index: u64,
    pub place: u32,
}

impl EventId {
    /// Behind all events of an entry.
    pub fn end_of(lineage: Lineage, index: u64) -> Self {
        Self { lineage, index, place: u32::MAX }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.lineage, self.index)?;
        match self.place {
            u32::MAX => Ok(()),
            place => write!(f, ".{place}"),
        }
    }
}

/// Says what a good one looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed cursor: expected LINEAGE/INDEX or LINEAGE/INDEX.PLACE, such as 0/5012.0, as a watcher \
     was given it"
)]
pub struct MalformedCursor;

impl FromStr for EventId {
    type Err = MalformedCursor;

    fn from_str(text: &str) -> Result<Self, MalformedCursor> {
        let read = || {
            let (lineage, rest) = text.split_once('/')?;
            let lineage = Lineage(lineage.parse().ok()?);
            let Some((index, place)) = rest.split_once('.') else {
                return Some(Self::end_of(lineage, rest.parse().ok()?));
            };
            Some(Self { lineage, index: index.parse().ok()?, place: place.parse().ok()? })
        };
        read().ok_or(MalformedCursor)
    }
}

/// One change that somebody may wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    /// The leader's wall clock when the entry was proposed; of a commit its label.
    pub wall_ms: u64,
    pub namespace: Namespace,
    pub what: Happened,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Committed {
        checkpoint: CheckpointId,
        step: Step,
    },
    Deleted {
        checkpoint: CheckpointId,
        step: Step,
        reason: DeletedFor,
    },
    Undeleted {
        checkpoint: CheckpointId,
        step: Step,
    },
    Quarantined {
        checkpoint: CheckpointId,
        step: Step,
    },
    /// Taken out of quarantine.
    Released {
        checkpoint: CheckpointId,
        step: Step,
    },
    /// For the first time, each of its segments has all R replicas.
    Full {
        checkpoint: CheckpointId,
        step: Step,
    },
    /// To a checkpoint, or removed.
    RefMoved {
        name: RefName,
        generation: u64,
        checkpoint: Option<CheckpointId>,
        step: Option<Step>,
    },
}

impl Happened {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Committed { .. } => "committed",
            Self::Deleted { .. } => "deleted",
            Self::Undeleted { .. } => "undeleted",
            Self::Quarantined { .. } => "quarantined",
            Self::Released { .. } => "released",
            Self::Full { .. } => "full",
            Self::RefMoved { .. } => "ref-moved",
        }
    }

    pub fn checkpoint(&self) -> Option<CheckpointId> {
        match self {
            Self::Committed { checkpoint, .. }
            | Self::Deleted { checkpoint, .. }
            | Self::Undeleted { checkpoint, .. }
            | Self::Quarantined { checkpoint, .. }
            | Self::Released { checkpoint, .. }
            | Self::Full { checkpoint, .. } => Some(*checkpoint),
            Self::RefMoved { checkpoint, .. } => *checkpoint,
        }
    }

    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Committed { step, .. }
            | Self::Deleted { step, .. }
            | Self::Undeleted { step, .. }
            | Self::Quarantined { step, .. }
            | Self::Released { step, .. }
            | Self::Full { step, .. } => Some(*step),
            Self::RefMoved { step, .. } => *step,
        }
    }
}

/// A committed checkpoint, as a watch begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedCheckpoint {
    pub id: CheckpointId,
    pub namespace: Namespace,
    pub step: Step,
    pub commit_wall_ms: u64,
    pub is_quarantined: bool,
    /// All replicas of its segments were there once.
    pub is_full: bool,
}

/// A ref, as a watch begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedRef {
    pub namespace: Namespace,
    pub name: RefName,
    pub checkpoint: CheckpointId,
    /// Of the checkpoint, if it is there and the node says so.
    pub step: Option<Step>,
    pub generation: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_printed() {
        for id in [
            EventId { lineage: Lineage(3), index: 5012, place: 7 },
            EventId::end_of(Lineage(0), u64::MAX),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(EventId::end_of(Lineage(0), 57).to_string(), "0/57");
        for bad in ["", "0", "0/", "0.1", "/1.0", "0/1.", "70000/1.0", "0/-1.0", "0/1.0.0"] {
            assert_eq!(bad.parse::<EventId>(), Err(MalformedCursor), "{bad}");
        }
    }
}
