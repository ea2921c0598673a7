//! What the last look at disk and listener saw (`upkeep::health` looks): whether this node can do its
//! work.

use std::time::Duration;

use cairn_proto::wire::NodeTrouble;
use parking_lot::Mutex;
use tokio::time::Instant;

/// What the last look saw.
#[derive(Debug, Default)]
pub struct Health {
    seen: Mutex<NodeTrouble>,
    /// Since when no connection could be accepted.
    refusing: Mutex<Option<Instant>>,
}

impl Health {
    /// What keeps this node from its work; all zero where nothing does.
    pub fn trouble(&self) -> NodeTrouble {
        *self.seen.lock()
    }

    /// A look has seen this; gives what the last one saw.
    pub fn note(&self, trouble: NodeTrouble) -> NodeTrouble {
        std::mem::replace(&mut *self.seen.lock(), trouble)
    }

    /// Fit for new slots and for leading.
    pub fn is_fit(&self) -> bool {
        self.trouble().is_none()
    }

    /// The listener could not accept a connection, or can again.
    pub fn accepts(&self, accepts: bool) {
        let mut refusing = self.refusing.lock();
        match accepts {
            true => *refusing = None,
            false => drop(refusing.get_or_insert_with(Instant::now)),
        }
    }

    /// For how long no connection could be accepted.
    pub fn refusing_for(&self) -> Duration {
        self.refusing.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}
