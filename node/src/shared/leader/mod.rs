//! The leader's knowledge in addition to the catalogue: which nodes are alive, which leave, and
//! which cannot join. It is soft state and never in Raft: the next leader learns it anew. A node
//! that does not lead has these fields too and does not use them.

mod hastened;
mod heartbeats;
mod joining;
mod leaving;
mod retention_runs;

pub use self::hastened::Hastened;
pub use self::heartbeats::{Heartbeats, Pulse};
pub use self::joining::Joining;
pub use self::leaving::{Coming, Leaving, MOVE_DEADLINE};
pub use self::retention_runs::RetentionRuns;
use crate::wake::Wake;

#[derive(Default)]
pub struct LeaderState {
    pub heartbeats: Heartbeats,
    /// Checkpoints that clients wait for.
    pub hastened: Hastened,
    /// Nodes whose vote this leader moves because they are being removed.
    pub leaving: Leaving,
    /// Nodes that this leader could not call back.
    pub joining: Joining,
    /// Runs of retention that wait for a confirmation.
    pub retention_runs: RetentionRuns,
    /// Wakes the steward.
    pub steward: Wake,
    /// Wakes the upkeep of Raft membership.
    pub members: Wake,
}
