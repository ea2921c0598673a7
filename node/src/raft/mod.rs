//! Consensus: everything that touches openraft, behind [`Consensus`].
//!
//! ```text
//!  shell -> Consensus -> openraft -> log: LogStore -> memory, file (redb)     one commit per batch
//!                            |  \-> StateMachine -> snapshot: store, files      apply, snapshot, restore
//!                            |  \-> peers: Network/Link -> other nodes           calls
//!  other nodes -> peers: RaftService -+                                         handlers, detached
//! ```
//!
//! Promises: a command that [`Consensus::propose`] acknowledged survives the loss of any minority.
//! The index that [`Consensus::read_index`] returns covers every write acknowledged before the
//! call. An IO error in log or snapshots stops the node through the fatal hook. Only this module is
//! generic over openraft's runtime; [`Consensus`] itself is not.

mod applied;
mod codec;
mod config;
mod consensus;
mod group;
mod leadership;
mod log;
mod machine;
mod peers;
mod read_index;
mod settings;
mod snapshot;
mod ticker;
mod types;

pub use applied::Applied;
pub use config::{
    ChangeError, ConsensusConfig, Hooks, OpenError, ProposeError, RaftStatus, RaftTimings,
    ReadError,
};
pub use consensus::{Consensus, Engine};
pub use leadership::{Contact, Leadership, LeadershipWatch};
pub use log::file::{LogError, LogSummary, inspect as inspect_log};
pub use machine::{CatalogueMachine, Check, Decode, Encode};
pub use peers::network::{NodeAddresses, Resolve};
pub use peers::papers::Papers;
pub use peers::promises::Promise;
pub use peers::refusals::RefusalCounts;
pub use peers::service::{Admit, Identity, RaftService};
pub use snapshot::files::{SnapshotError, inspect as inspect_snapshots};

/// Approximate bytes of an entry in addition to its payload.
const ENVELOPE_BYTES: usize = 64;

/// Approximate memory of an entry. Queues and reads are limited by it.
fn entry_bytes(entry: &types::Entry) -> usize {
    const MEMBERSHIP_BYTES: usize = 16 << 10;
    match &entry.payload {
        openraft::EntryPayload::Blank => ENVELOPE_BYTES,
        openraft::EntryPayload::Normal(command) => ENVELOPE_BYTES + command.0.len(),
        openraft::EntryPayload::Membership(_) => ENVELOPE_BYTES + MEMBERSHIP_BYTES,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
