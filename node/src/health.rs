//! The result of the last look at disk and listener: whether this node can do its work.
//! `upkeep::health` looks.

use std::time::Duration;

use cairn_proto::wire::NodeTrouble;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The result of the last look.
#[derive(Debug, Default)]
pub struct Health {
    seen: Mutex<NodeTrouble>,
    /// The time since which no connection could be accepted.
    refusing: Mutex<Option<Instant>>,
}

impl Health {
    /// The reasons why this node cannot do its work. All zero if there are none.
    pub fn trouble(&self) -> NodeTrouble {
        *self.seen.lock()
    }

    /// Stores the result of a look and returns the previous one.
    pub fn note(&self, trouble: NodeTrouble) -> NodeTrouble {
        std::mem::replace(&mut *self.seen.lock(), trouble)
    }

    /// Whether the node is fit for new slots and for leading.
    pub fn is_fit(&self) -> bool {
        self.trouble().is_none()
    }

    /// Notes whether the listener could accept a connection.
    pub fn accepts(&self, accepts: bool) {
        let mut refusing = self.refusing.lock();
        match accepts {
            true => *refusing = None,
            false => drop(refusing.get_or_insert_with(Instant::now)),
        }
    }

    /// How long no connection could be accepted.
    pub fn refusing_for(&self) -> Duration {
        self.refusing.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}
