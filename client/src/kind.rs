//! The kinds of errors, by the caller's possible reaction.

use std::io;

use cairn_types::command::Refusal;

use crate::builder::SetupError;
use crate::error::ClientError;
use crate::sink::SinkError;
use crate::source::SourceError;

/// The meaning of an error for the caller. Kinds may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The cluster is busy or changing. The same call may succeed in a moment.
    Retry,
    /// No node answers, or too few for the request.
    Unavailable,
    /// There is no such checkpoint, file, part or node.
    NotFound,
    /// It conflicts with another upload, other content or another rule.
    Conflict,
    /// The key is wrong or missing.
    Denied,
    /// No replica gives the right bytes.
    Damaged,
    /// The call or the client's setup is wrong.
    Invalid,
    /// An error of the caller's own files, disk or code.
    Local,
    /// This side cancelled the work.
    Cancelled,
    /// A node of another version, or a malformed answer.
    Protocol,
}

impl ErrorKind {
    /// Whether the same call may succeed later without a change on this side.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Retry | Self::Unavailable)
    }
}

impl ClientError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => ErrorKind::Unavailable,
            Self::Busy { .. } => ErrorKind::Retry,
            Self::NotACluster { .. } | Self::Incompatible { .. } | Self::Malformed { .. } => {
                ErrorKind::Protocol
            }
            Self::OtherCluster { .. } | Self::UploadOver { .. } | Self::NoSpace { .. } => {
                ErrorKind::Conflict
            }
            Self::Refused(refusal) => kind_of_refusal(refusal),
            Self::NotAllowed { .. } | Self::Key { .. } => ErrorKind::Denied,
            Self::Source(SourceError::Empty | SourceError::Name { .. }) => ErrorKind::Invalid,
            Self::Source(_) => ErrorKind::Local,
            Self::Sink(SinkError::WouldOverwrite { .. } | SinkError::Replaced { .. }) => {
                ErrorKind::Conflict
            }
            Self::Sink(_) | Self::Panicked { .. } => ErrorKind::Local,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Deleted { .. } | Self::NoSuchFile { .. } | Self::NoSuchRecord { .. } => {
                ErrorKind::NotFound
            }
            Self::Setup(SetupError::Threads { .. }) => ErrorKind::Local,
            Self::Setup(_)
            | Self::PartWithoutAttempt
            | Self::UnfinishedFiles { .. }
            | Self::ConflictingParts { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Whether the same call may succeed later without a change on this side. Repeating a put is
    /// safe: durable data is not sent again.
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }
}

fn kind_of_refusal(refusal: &Refusal) -> ErrorKind {
    match refusal {
        Refusal::NoSuchCheckpoint { .. }
        | Refusal::UnknownCheckpoint(_)
        | Refusal::NoSuchRef { .. }
        | Refusal::NoSuchHold { .. }
        | Refusal::UnknownNode(_)
        | Refusal::NodeRemoved(_) => ErrorKind::NotFound,
        Refusal::Malformed(_) | Refusal::NoBestMetric { .. } => ErrorKind::Invalid,
        Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. }
            if shortage.down() > 0 =>
        {
            ErrorKind::Unavailable
        }
        Refusal::BadTargets | Refusal::NotCompared { .. } => ErrorKind::Retry,
        _ => ErrorKind::Conflict,
    }
}

/// For code that reads and writes through tokio's traits. The original error is inside.
impl From<ClientError> for io::Error {
    fn from(error: ClientError) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Damaged => io::ErrorKind::InvalidData,
            ErrorKind::Unavailable => io::ErrorKind::TimedOut,
            ErrorKind::Invalid => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
