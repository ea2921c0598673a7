//! The source of an upload's bytes: a list of files, and reads of any range of them.
//!
//! A source is stable: entries are in ascending name order, and a read returns the bytes of the
//! entry or an error. `local_source.rs` has files of this machine. This file has files in memory.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use cairn_types::manifest::name_problem;

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceEntry {
    /// Relative, `/` separated, no empty, `.` or `..` component.
    pub name: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub len: u64,
}

/// A directory that is not implied by any file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDirectory {
    pub name: Vec<u8>,
    pub mode: u32,
}

/// Files to upload. Reads may block: they are called only on `Lane::Client`.
pub trait Source: Send + Sync + 'static {
    /// Ascending by name, without duplicates.
    fn entries(&self) -> &[SourceEntry];

    fn directories(&self) -> &[SourceDirectory] {
        &[]
    }

    /// Returns an error if the list of files has changed. Called once everything has been read.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Fills all of `buffer` from `offset` of entry `index`, or returns an error.
    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError>;
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    #[error("{path} does not exist")]
    NotFound { path: String },
    #[error("{path} is a symbolic link")]
    Symlink { path: String },
    #[error("{path} is a symbolic link to something that does not exist")]
    DeadLink { path: String },
    #[error("{path} is a link to one of its parent directories")]
    LinkCycle { path: String },
    /// The tree around it is incomplete.
    #[error("{path} belongs to a get that is running or was killed")]
    UnfinishedGet { path: String },
    #[error("{path} is neither a file nor a directory")]
    SpecialFile { path: String },
    #[error("{name} is given twice, as {first} and as {second}")]
    DuplicateName { name: String, first: String, second: String },
    #[error("{path} changed while it was read")]
    Changed { path: String },
    #[error("{path} appeared while the others were read")]
    Appeared { path: String },
    #[error("there is no file to upload")]
    Empty,
    #[error("more than {max} files and directories to upload")]
    TooMany { max: u64 },
    #[error("name {name:?} cannot be kept: {why}")]
    Name { name: String, why: &'static str },
    #[error("read {path}: {error}")]
    Io { path: String, error: io::Error },
}

impl SourceError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Symlink { .. } => "follow links, or leave them out",
            Self::DeadLink { .. } => "remove the link, or leave it out",
            Self::LinkCycle { .. } => "leave the link out",
            Self::UnfinishedGet { .. } => "finish the get, or remove that directory",
            Self::SpecialFile { .. } => "only files and directories can be kept; leave it out",
            Self::DuplicateName { .. } => "put the paths below one directory and give that",
            Self::Changed { .. } | Self::Appeared { .. } => {
                "upload after the writer has closed its files"
            }
            Self::Empty => {
                "is the directory mounted and filled? an upload without files has to be allowed"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Whether a checkpoint can store a file or directory of this name.
pub fn check_name(name: &[u8]) -> Result<(), SourceError> {
    match name_problem(name) {
        None => Ok(()),
        Some(why) => Err(SourceError::Name { name: shown_name(name), why }),
    }
}

pub(crate) fn shown_name(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Files held in memory.
#[derive(Debug, Default)]
pub struct MemorySource {
    entries: Vec<SourceEntry>,
    contents: Vec<Bytes>,
}

impl MemorySource {
    /// Names are checked like those of files on a disk. The mode is 0644 and the modification time
    /// zero.
    pub fn new(files: BTreeMap<Vec<u8>, Bytes>) -> Result<Self, SourceError> {
        let mut source = Self::default();
        for (name, content) in files {
            check_name(&name)?;
            let len = content.len() as u64;
            source.entries.push(SourceEntry { name, mode: 0o644, mtime_ns: 0, len });
            source.contents.push(content);
        }
        Ok(source)
    }
}

impl Source for MemorySource {
    fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = self.contents[index].get(start..start.saturating_add(buffer.len()));
        match range {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(SourceError::Changed {
                path: String::from_utf8_lossy(&self.entries[index].name).into_owned(),
            }),
        }
    }
}
