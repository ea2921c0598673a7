//! What a leader knows beside the catalogue: who is alive, who leaves, who cannot come in. Soft, and
//! never in Raft: the next leader learns it anew. A node that does not lead has it too, and does
//! not use it.

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
    /// Nodes whose vote this leader moves because they are to be removed.
    pub leaving: Leaving,
    /// Nodes that this leader could not call back.
    pub joining: Joining,
    /// Runs of retention that wait for a confirmation.
    pub retention_runs: RetentionRuns,
    /// Wakes the steward.
    pub steward: Wake,
    /// Wakes the care for Raft membership.
    pub members: Wake,
}
