//! Consensus: everything that touches openraft, behind [`Consensus`].
//!
//! ```text
//!  shell -> Consensus -> openraft -> LogStore --> log_memory, log_file (redb)  one commit per batch
//!                            |  \-> StateMachine -> snapshot_files     apply, snapshot, restore
//!                            |  \-> Network/Link -> peers              calls
//!  peers -> RaftService -----+                                         handlers, detached
//! ```
//!
//! Promises: what [`Consensus::propose`] acknowledged survives any minority; what
//! [`Consensus::read_index`] gives covers every write acknowledged before the call; an IO error
//! in log or snapshots stops the node through the fatal hook. Only this module is generic over
//! openraft's runtime; [`Consensus`] itself is not.

mod applied;
mod codec;
mod consensus;
mod group;
mod leadership;
mod log_file;
mod log_memory;
mod log_store;
mod machine;
mod network;
mod promises;
mod read_index;
mod service;
mod snapshot_files;
mod snapshot_receive;
mod snapshot_send;
mod types;

use std::sync::Arc;

pub use consensus::{
    ChangeError, Consensus, ConsensusConfig, Engine, Hooks, OpenError, ProposeError, RaftStatus,
    ReadError, Timings,
};
pub use leadership::{Leadership, LeadershipWatch};
pub use log_file::{LogError, LogSummary, inspect as inspect_log};
pub use machine::{CatalogueMachine, Encode};
pub use network::{Resolve, Whereabouts};
pub use promises::Promise;
pub use service::{Admit, Identity, RaftService};
pub use snapshot_files::{SnapshotError, inspect as inspect_snapshots};

/// Told why this node must stop; possibly more than once, as one failure brings others. It is
/// called from storage tasks and must not block.
pub type FatalHook = Arc<dyn Fn(String) + Send + Sync>;

/// Memory an entry takes, roughly: what queues and reads are bounded by.
fn entry_bytes(entry: &types::Entry) -> usize {
    const ENVELOPE_BYTES: usize = 64;
    const MEMBERSHIP_BYTES: usize = 16 << 10;
    match &entry.payload {
        openraft::EntryPayload::Blank => ENVELOPE_BYTES,
        openraft::EntryPayload::Normal(command) => ENVELOPE_BYTES + command.0.len(),
        openraft::EntryPayload::Membership(_) => ENVELOPE_BYTES + MEMBERSHIP_BYTES,
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
