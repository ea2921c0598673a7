//! Where an upload's bytes come from: a list of files, and reads of any range of them.
//!
//! A source is stable: entries are in ascending name order, and a read gives the bytes the entry
//! promised or an error. [`LocalSource`] keeps that promise over a changing directory by
//! comparing length and modification time before and after each read.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_core::limits::{PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX};

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

/// A directory that no file's name implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDirectory {
    pub name: Vec<u8>,
    pub mode: u32,
}

/// Files to upload. Reads may block: they are called on `Lane::Client` only.
pub trait Source: Send + Sync + 'static {
    /// Ascending by name, no name twice.
    fn entries(&self) -> &[SourceEntry];

    fn directories(&self) -> &[SourceDirectory] {
        &[]
    }

    /// Fills `buffer` from `offset` of entry `index`, wholly or with an error.
    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError>;
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{path} does not exist")]
    NotFound { path: String },
    #[error("{path} is a symbolic link")]
    Symlink { path: String },
    #[error("{path} is neither a file nor a directory")]
    SpecialFile { path: String },
    #[error("{name} is given twice, as {first} and as {second}")]
    DuplicateName { name: String, first: String, second: String },
    #[error("{path} changed while it was read")]
    Changed { path: String },
    #[error("name {name:?} cannot be kept: {why}")]
    Name { name: String, why: &'static str },
    #[error("read {path}: {error}")]
    Io { path: String, error: io::Error },
}

impl SourceError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Symlink { .. } => "links are not followed; give the path it points to",
            Self::SpecialFile { .. } => "only files and directories can be kept; leave it out",
            Self::DuplicateName { .. } => "put the paths below one directory and give that",
            Self::Changed { .. } => "upload after the writer has closed its files",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Files and directory trees of this machine. A file argument is named by its last component,
/// the files of a directory argument by their path below it.
#[derive(Debug)]
pub struct LocalSource {
    entries: Vec<SourceEntry>,
    directories: Vec<SourceDirectory>,
    /// Of each entry, in the same order.
    files: Vec<LocalFile>,
}

#[derive(Debug)]
struct LocalFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl LocalSource {
    /// Lists what is at `paths`. Blocks; nothing is opened for reading yet.
    pub fn scan(paths: &[PathBuf]) -> Result<Self, SourceError> {
        let mut found = Found::default();
        for path in paths {
            let metadata = describe(path)?;
            if metadata.is_dir() {
                scan_directory(path, b"", &mut found)?;
            } else {
                let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default().to_vec();
                found.add_file(name, path.clone(), &metadata)?;
            }
        }
        let directories = found
            .directories
            .into_iter()
            .map(|(name, mode)| SourceDirectory { name, mode })
            .collect();
        let (entries, files) = found.files.into_values().unzip();
        Ok(Self { entries, directories, files })
    }
}

impl Source for LocalSource {
    fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    fn directories(&self) -> &[SourceDirectory] {
        &self.directories
    }

    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let (entry, local) = (&self.entries[index], &self.files[index]);
        let changed = || SourceError::Changed { path: shown(&local.path) };
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => changed(),
            _ => SourceError::Io { path: shown(&local.path), error },
        };
        let same = |metadata: &Metadata| {
            metadata.dev() == local.device
                && metadata.ino() == local.inode
                && metadata.len() == entry.len
                && mtime_ns(metadata) == entry.mtime_ns
        };
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file: File = fs::OpenOptions::new()
            .read(true)
            .custom_flags(nofollow)
            .open(&local.path)
            .map_err(failed)?;
        if !same(&file.metadata().map_err(failed)?) {
            return Err(changed());
        }
        file.read_exact_at(buffer, offset).map_err(failed)?;
        // A writer in between may have mixed old and new bytes in one read.
        if same(&file.metadata().map_err(failed)?) { Ok(()) } else { Err(changed()) }
    }
}

#[derive(Default)]
struct Found {
    files: BTreeMap<Vec<u8>, (SourceEntry, LocalFile)>,
    directories: BTreeMap<Vec<u8>, u32>,
}

impl Found {
    fn add_file(
        &mut self,
        name: Vec<u8>,
        path: PathBuf,
        metadata: &Metadata,
    ) -> Result<(), SourceError> {
        check_name(&name)?;
        if let Some((_, first)) = self.files.get(&name) {
            return Err(SourceError::DuplicateName {
                name: String::from_utf8_lossy(&name).into_owned(),
                first: shown(&first.path),
                second: shown(&path),
            });
        }
        let entry = SourceEntry {
            name: name.clone(),
            mode: metadata.mode() & 0o7777,
            mtime_ns: mtime_ns(metadata),
            len: metadata.len(),
        };
        let local = LocalFile { path, device: metadata.dev(), inode: metadata.ino() };
        self.files.insert(name, (entry, local));
        Ok(())
    }
}

fn scan_directory(root: &Path, prefix: &[u8], found: &mut Found) -> Result<(), SourceError> {
    // An explicit stack: the depth of a tree is the user's choice, that of ours is not.
    let mut pending = vec![(root.to_path_buf(), prefix.to_vec())];
    while let Some((directory, prefix)) = pending.pop() {
        let io = |error| SourceError::Io { path: shown(&directory), error };
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io)? {
            names.push(entry.map_err(io)?.file_name().into_vec());
        }
        names.sort();
        if names.is_empty() && !prefix.is_empty() {
            let mode = describe(&directory)?.mode() & 0o7777;
            found.directories.insert(prefix.clone(), mode);
        }
        for component in names {
            let path = directory.join(std::ffi::OsStr::from_bytes(&component));
            let mut name = prefix.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(&component);
            let metadata = describe(&path)?;
            if metadata.is_dir() {
                check_name(&name)?;
                pending.push((path, name));
            } else {
                found.add_file(name, path, &metadata)?;
            }
        }
    }
    Ok(())
}

/// What is at `path` itself, if it is something a checkpoint can keep.
fn describe(path: &Path) -> Result<Metadata, SourceError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::NotFound { path: shown(path) },
        _ => SourceError::Io { path: shown(path), error },
    })?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        return Err(SourceError::Symlink { path: shown(path) });
    }
    if !kind.is_file() && !kind.is_dir() {
        return Err(SourceError::SpecialFile { path: shown(path) });
    }
    Ok(metadata)
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn check_name(name: &[u8]) -> Result<(), SourceError> {
    let refuse =
        |why| Err(SourceError::Name { name: String::from_utf8_lossy(name).into_owned(), why });
    if name.len() > PATH_BYTES_MAX {
        return refuse("a path has at most 4096 bytes");
    }
    for component in name.split(|byte| *byte == b'/') {
        if component.is_empty() || component == b"." || component == b".." {
            return refuse("it has an empty, '.' or '..' component");
        }
        if component.len() > PATH_COMPONENT_BYTES_MAX {
            return refuse("a component has at most 255 bytes");
        }
        if component.contains(&0) {
            return refuse("it contains a NUL byte");
        }
    }
    Ok(())
}

/// Files held in memory.
#[derive(Debug, Default)]
pub struct MemorySource {
    entries: Vec<SourceEntry>,
    contents: Vec<Bytes>,
}

impl MemorySource {
    /// Names are checked as for files of a disk; mode is 0644 and the modification time zero.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(path: &Path) -> Result<LocalSource, SourceError> {
        LocalSource::scan(&[path.to_path_buf()])
    }

    fn names(source: &LocalSource) -> Vec<String> {
        let text = |entry: &SourceEntry| String::from_utf8(entry.name.clone()).unwrap();
        source.entries().iter().map(text).collect()
    }

    #[test]
    fn a_tree_is_listed_in_name_order_with_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        let long = "n".repeat(255);
        fs::create_dir_all(dir.path().join("b/empty")).unwrap();
        for name in ["b/two words", "b/Ünï", "a", "b.c", &long] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let source = scan(dir.path()).unwrap();
        assert_eq!(names(&source), ["a", "b.c", "b/two words", "b/Ünï", &long]);
        assert_eq!(source.directories()[0].name, b"b/empty");
        let mut buffer = [0; 3];
        source.read_at(2, 2, &mut buffer).unwrap();
        assert_eq!(&buffer, b"two");
    }

    #[test]
    fn links_and_special_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(
            matches!(scan(dir.path()), Err(SourceError::Symlink { path }) if path == shown(&link))
        );
        fs::remove_file(&link).unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(scan(dir.path()), Err(SourceError::SpecialFile { .. })));
        assert!(matches!(scan(&dir.path().join("gone")), Err(SourceError::NotFound { .. })));
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            fs::write(dir.path().join("model"), "x").unwrap();
        }
        let paths = [one.path().to_path_buf(), two.path().join("model")];
        assert!(matches!(LocalSource::scan(&paths), Err(SourceError::DuplicateName { .. })));
    }

    #[test]
    fn a_file_that_changes_or_vanishes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        fs::write(&path, "before").unwrap();
        let source = scan(&path).unwrap();
        fs::write(&path, "afterwards").unwrap();
        let mut buffer = [0; 6];
        let error = source.read_at(0, 0, &mut buffer).unwrap_err();
        assert!(matches!(error, SourceError::Changed { .. }));
        fs::remove_file(&path).unwrap();
        let error = source.read_at(0, 0, &mut buffer).unwrap_err();
        assert!(matches!(error, SourceError::Changed { .. }));
    }
}
