//! Why a call to a member failed.

use std::time::Duration;

use cairn_host::envelope::Reason;
use tonic::Status;

use crate::raft::codec::Malformed;
use crate::raft::peers::plausible::Implausible;
use crate::raft::peers::promises::Behind;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(in crate::raft) enum CallError {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("{}", .0.message())]
    Status(Status),
    /// The answer cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The answer comes from an older process.
    #[error(transparent)]
    Behind(#[from] Behind),
    /// The answer cannot be true.
    #[error(transparent)]
    Implausible(#[from] Implausible),
}

impl CallError {
    /// The member refuses this node's message as implausible.
    pub fn is_implausible(&self) -> bool {
        matches!(self, Self::Status(status) if is_implausible(status))
    }
}

pub(in crate::raft) fn is_implausible(status: &Status) -> bool {
    Reason::of(status) == Some(Reason::Implausible)
}
