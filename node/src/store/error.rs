//! What can go wrong with a segment, one variant for each thing a caller does differently.

use std::io;

use cairn_types::blocks::BlockError;
use cairn_types::form::FormError;
use cairn_types::ids::SegmentDigest;

use super::format::FormatError;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Ask another node. Never means that the segment does not exist.
    #[error("segment {0} is not held here")]
    NotHeld(SegmentDigest),
    #[error("segment {digest} cannot have {len} bytes: wants 1 byte to 32 MiB")]
    SegmentLength { digest: SegmentDigest, len: u64 },
    /// The sender's bytes are not the segment it named; nothing became visible.
    #[error("the bytes received are not segment {0}")]
    WrongDigest(SegmentDigest),
    /// The sender's bytes are not in the form it named; nothing became visible.
    #[error(transparent)]
    Form(#[from] FormError),
    /// Both lengths are in stored bytes.
    #[error("segment {digest} has {want} bytes, received {got}")]
    WrongLength { digest: SegmentDigest, want: u64, got: u64 },
    /// The caller's condition was false just before the file was to become visible. The file is
    /// removed.
    #[error("segment {0} is not wanted here any more")]
    NotWanted(SegmentDigest),
    /// Data is refused below the reserve, so that the log and deletions continue to work.
    #[error("no space for {needed} bytes: {available} available above a reserve of {reserve}")]
    NoSpace { needed: u64, available: u64, reserve: u64 },
    /// The file system can make no more files, even if it has free space.
    #[error("no inodes left for segment files on the file system of the data directory")]
    NoInodes,
    /// Try again later, or elsewhere.
    #[error("{writers} segments are being received already")]
    Busy { writers: usize },
    /// The replica here is bad: give it up and fetch another.
    #[error("segment {digest} is damaged: {damage}")]
    Damaged { digest: SegmentDigest, damage: Damage },
    #[error("segment {digest} has {count} blocks, asked for {start}..{end}")]
    BlockRange { digest: SegmentDigest, start: usize, end: usize, count: usize },
    /// An earlier call on this writer failed. The caller can only drop the writer.
    #[error("receiving segment {0} failed before")]
    WriterFailed(SegmentDigest),
    #[error("data directory is not formatted: {0} is missing")]
    NotFormatted(String),
    /// The owner or the mode of a file denies this process access. An operator has to change it.
    #[error("cannot {action} {path}: {source}; give the user of this node access to it")]
    NoAccess { action: &'static str, path: String, source: io::Error },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: String, source: io::Error },
    /// The durable state is no longer known: the node stops. The fatal hook has been called.
    #[error("cannot {action} {path}, the node must stop: {source}")]
    Fatal { action: &'static str, path: String, source: io::Error },
    /// A fatal error happened before; nothing is acknowledged any more.
    #[error("the segment store stopped after a fatal disk error")]
    Stopped,
}

/// How a stored segment is bad.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("cannot read it: {0}")]
    Io(#[from] io::Error),
}

impl StoreError {
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal { .. } | Self::Stopped)
    }
}

/// Whether the file system or a quota is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
