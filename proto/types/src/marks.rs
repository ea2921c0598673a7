//! What people and jobs say of checkpoints: refs, holds, quarantine (DESIGN section 12). Plain data;
//! the rules live in the catalogue.

use crate::ids::{CheckpointId, RefName};

/// A named pointer of a namespace. It moves by compare-and-swap on its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// 1 with the first move (more where the namespace has had many refs), then one more with each.
    /// It does not start again after a removal as long as the namespace has checkpoints.
    pub generation: u64,
    /// Where it points; `None` once it is removed.
    pub checkpoint: Option<CheckpointId>,
    /// The last `REF_HISTORY_MAX` moves, the newest last; the newest is how it stands.
    pub history: Vec<RefMove>,
}

/// One move of a ref.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefMove {
    pub generation: u64,
    /// Where it went; `None` for a removal.
    pub checkpoint: Option<CheckpointId>,
    /// The client that moved it, as it named itself.
    pub by: String,
    /// Wall-clock label, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Whose token moved it; empty where none did.
    pub subject: String,
}

/// A ref with its name, as a client lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRef {
    pub name: RefName,
    pub target: Ref,
}

/// Keeps one checkpoint from deletion. A checkpoint has one hold of an owner at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// A person or a job.
    pub owner: String,
    pub reason: String,
    /// Cluster time from which it keeps nothing; `None`: until it is released.
    pub until_ms: Option<u64>,
    /// Wall-clock label of its begin, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The same for its end, for people.
    pub until_wall_ms: Option<u64>,
}

impl Hold {
    /// Whether it keeps its checkpoint at this cluster time.
    pub fn is_active(&self, clock_ms: u64) -> bool {
        self.until_ms.is_none_or(|until_ms| clock_ms < until_ms)
    }
}

impl Hold {
    /// As a refusal names it.
    pub fn shown(&self) -> String {
        match self.reason.as_str() {
            "" => format!("a hold of {}", self.owner),
            reason => format!("a hold of {} ({reason})", self.owner),
        }
    }
}

/// A checkpoint that must not be used: `latest` and times pass it over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub reason: String,
    /// The client that said so, as it named itself.
    pub by: String,
    /// Wall-clock label, milliseconds since the Unix epoch.
    pub wall_ms: u64,
}
