//! Files and directory trees of this machine as a source.
//!
//! A tree may change while it is read. Length and modification time of a file are compared before
//! and after each read, and the whole listing with a second one at the end. Files that were
//! changed, removed, renamed or added meanwhile are an error.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_types::limits::MANIFEST_ENTRIES_MAX;
use rustix::io::Errno;

use crate::local_sink;
use crate::source::{Source, SourceDirectory, SourceEntry, SourceError, check_name, shown_name};

/// The handling of symbolic links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Links {
    /// An error names the first one.
    #[default]
    Refuse,
    /// They are left out.
    Skip,
    /// Their targets are taken instead, even outside the tree.
    Follow,
}

/// A predicate over names below an argument.
pub type Exclude = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The selection and names of files of a tree. The default takes everything unchanged.
#[derive(Clone, Default)]
pub struct ScanOptions {
    /// A relative directory that all names are placed below.
    pub prefix: Option<Vec<u8>>,
    pub links: Links,
    /// Files and directories to leave out, by their name below the argument.
    pub exclude: Option<Exclude>,
}

/// Files and directory trees of this machine. A file argument is named by its last component,
/// the files of a directory argument by their path below it.
pub struct LocalSource {
    paths: Vec<PathBuf>,
    options: ScanOptions,
    entries: Vec<SourceEntry>,
    directories: Vec<SourceDirectory>,
    /// One for each entry, in the same order.
    files: Vec<LocalFile>,
}

#[derive(Debug, PartialEq, Eq)]
struct LocalFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl LocalSource {
    /// Lists the files at `paths`. Blocks. No file is opened for reading yet.
    pub fn scan(paths: &[PathBuf]) -> Result<Self, SourceError> {
        Self::scan_with(paths, ScanOptions::default())
    }

    /// [`LocalSource::scan`] with options.
    pub fn scan_with(paths: &[PathBuf], options: ScanOptions) -> Result<Self, SourceError> {
        let found = Scan::new(&options)?.all(paths)?;
        let directories = found
            .directories
            .into_iter()
            .map(|(name, (mode, _))| SourceDirectory { name, mode })
            .collect();
        let (entries, files) = found.files.into_values().unzip();
        Ok(Self { paths: paths.to_vec(), options, entries, directories, files })
    }
}

impl Source for LocalSource {
    fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    fn directories(&self) -> &[SourceDirectory] {
        &self.directories
    }

    /// Lists everything again: an added, removed or renamed file counts as a change, like changed
    /// bytes.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        let now = Scan::new(&self.options)?.all(&self.paths)?;
        for (entry, local) in self.entries.iter().zip(&self.files) {
            let same = now.files.get(&entry.name);
            let same = same.is_some_and(|(other, file)| {
                (other.len, other.mtime_ns) == (entry.len, entry.mtime_ns) && file == local
            });
            if !same {
                return Err(SourceError::Changed { path: shown(&local.path) });
            }
        }
        let known =
            |name: &Vec<u8>| self.entries.binary_search_by_key(&name, |entry| &entry.name).is_ok();
        if let Some((_, (_, file))) = now.files.iter().find(|(name, _)| !known(name)) {
            return Err(SourceError::Appeared { path: shown(&file.path) });
        }
        let known: Vec<&Vec<u8>> = self.directories.iter().map(|it| &it.name).collect();
        let mut others = now.directories.iter();
        if let Some((_, (_, path))) = others.find(|(name, _)| known.binary_search(name).is_err()) {
            return Err(SourceError::Appeared { path: shown(path) });
        }
        match known.into_iter().find(|name| !now.directories.contains_key(*name)) {
            Some(gone) => Err(SourceError::Changed { path: shown_name(gone) }),
            None => Ok(()),
        }
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

/// The result of a scan.
#[derive(Default)]
struct Found {
    files: BTreeMap<Vec<u8>, (SourceEntry, LocalFile)>,
    /// Directories without a file, and their paths.
    directories: BTreeMap<Vec<u8>, (u32, PathBuf)>,
}

/// One walk over all arguments.
struct Scan<'a> {
    options: &'a ScanOptions,
    /// The prefix of every name: empty, or a directory and a slash.
    prefix: Vec<u8>,
    found: Found,
}

/// A directory to be listed.
struct Pending {
    path: PathBuf,
    /// The name below the argument. Empty for the argument itself.
    name: Vec<u8>,
    /// Device and inode of this directory and of those above it. Kept if links are followed.
    above: Vec<(u64, u64)>,
}

impl<'a> Scan<'a> {
    fn new(options: &'a ScanOptions) -> Result<Self, SourceError> {
        let mut prefix = options.prefix.clone().unwrap_or_default();
        while prefix.last() == Some(&b'/') {
            prefix.pop();
        }
        if options.prefix.is_some() {
            check_name(&prefix)?;
            prefix.push(b'/');
        }
        Ok(Self { options, prefix, found: Found::default() })
    }

    fn all(mut self, paths: &[PathBuf]) -> Result<Found, SourceError> {
        for path in paths {
            let Some((real, metadata)) = self.look(path)? else { continue };
            let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
            if metadata.is_dir() {
                let above = vec![(metadata.dev(), metadata.ino())];
                self.tree(Pending { path: real, name: Vec::new(), above })?;
            } else if !self.is_excluded(name) {
                self.add_file(name, real, &metadata)?;
            }
        }
        Ok(self.found)
    }

    fn tree(&mut self, root: Pending) -> Result<(), SourceError> {
        // Uses an explicit stack, because the user's tree may be deeper than the program's stack
        // allows.
        let mut pending = vec![root];
        while let Some(directory) = pending.pop() {
            let io = |error| SourceError::Io { path: shown(&directory.path), error };
            let mut components = Vec::new();
            for entry in fs::read_dir(&directory.path).map_err(io)? {
                components.push(entry.map_err(io)?.file_name().into_vec());
            }
            components.sort();
            let mut is_empty = true;
            for component in components {
                is_empty &= !self.child(&directory, &component, &mut pending)?;
            }
            if is_empty && !directory.name.is_empty() {
                let mode = fs::metadata(&directory.path).map_err(io)?.mode() & 0o7777;
                let name = [&self.prefix[..], &directory.name].concat();
                check_name(&name)?;
                self.found.directories.insert(name, (mode, directory.path));
                self.check_count()?;
            }
        }
        Ok(())
    }

    /// Takes one entry of a directory. Returns whether it was taken.
    fn child(
        &mut self,
        directory: &Pending,
        component: &[u8],
        pending: &mut Vec<Pending>,
    ) -> Result<bool, SourceError> {
        let path = directory.path.join(std::ffi::OsStr::from_bytes(component));
        let mut name = directory.name.clone();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(component);
        if self.is_excluded(&name) {
            return Ok(false);
        }
        let Some((real, metadata)) = self.look(&path)? else { return Ok(false) };
        if !metadata.is_dir() {
            self.add_file(&name, real, &metadata)?;
            return Ok(true);
        }
        if local_sink::is_left_by_a_get(&real, component) {
            return Err(SourceError::UnfinishedGet { path: shown(&path) });
        }
        check_name(&[&self.prefix[..], &name].concat())?;
        let mut above = Vec::new();
        if self.options.links == Links::Follow {
            let own = (metadata.dev(), metadata.ino());
            if directory.above.contains(&own) {
                return Err(SourceError::LinkCycle { path: shown(&path) });
            }
            above.clone_from(&directory.above);
            above.push(own);
        }
        pending.push(Pending { path: real, name, above });
        Ok(true)
    }

    fn is_excluded(&self, name: &[u8]) -> bool {
        self.options.exclude.as_ref().is_some_and(|exclude| exclude(name))
    }

    /// The object at `path`, and its real path. `None` for a link that is left out.
    fn look(&self, path: &Path) -> Result<Option<(PathBuf, Metadata)>, SourceError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => SourceError::NotFound { path: shown(path) },
            _ => SourceError::Io { path: shown(path), error },
        };
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let (real, metadata) = match (metadata.is_symlink(), self.options.links) {
            (false, _) => (path.to_path_buf(), metadata),
            (true, Links::Refuse) => return Err(SourceError::Symlink { path: shown(path) }),
            (true, Links::Skip) => return Ok(None),
            (true, Links::Follow) => {
                let dead = |error: io::Error| match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => SourceError::DeadLink { path: shown(path) },
                    Some(Errno::LOOP) => SourceError::LinkCycle { path: shown(path) },
                    _ => SourceError::Io { path: shown(path), error },
                };
                let real = fs::canonicalize(path).map_err(dead)?;
                let metadata = fs::metadata(&real).map_err(dead)?;
                (real, metadata)
            }
        };
        let kind = metadata.file_type();
        match kind.is_file() || kind.is_dir() {
            true => Ok(Some((real, metadata))),
            false => Err(SourceError::SpecialFile { path: shown(path) }),
        }
    }

    fn add_file(
        &mut self,
        name: &[u8],
        path: PathBuf,
        metadata: &Metadata,
    ) -> Result<(), SourceError> {
        let name = [&self.prefix[..], name].concat();
        check_name(&name)?;
        if let Some((_, first)) = self.found.files.get(&name) {
            return Err(SourceError::DuplicateName {
                name: shown_name(&name),
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
        self.found.files.insert(name, (entry, local));
        self.check_count()
    }

    /// Links to directories can multiply a small tree without limit.
    fn check_count(&self) -> Result<(), SourceError> {
        let count = self.found.files.len() + self.found.directories.len();
        match count as u64 > MANIFEST_ENTRIES_MAX {
            true => Err(SourceError::TooMany { max: MANIFEST_ENTRIES_MAX }),
            false => Ok(()),
        }
    }
}

fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
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

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        dir
    }

    fn link(to: &str, at: PathBuf) {
        std::os::unix::fs::symlink(to, at).unwrap();
    }

    fn scan_with(path: &Path, options: ScanOptions) -> Result<LocalSource, SourceError> {
        LocalSource::scan_with(&[path.to_path_buf()], options)
    }

    fn links(links: Links) -> ScanOptions {
        ScanOptions { links, ..ScanOptions::default() }
    }

    #[test]
    fn what_is_added_removed_or_renamed_during_an_upload_is_an_error() {
        let names = ["a", "d/e/f", "g"];
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("appeared", |root| fs::write(root.join("d/e/new"), "x").unwrap()),
            ("appeared", |root| fs::create_dir(root.join("d/empty")).unwrap()),
            ("changed", |root| fs::remove_file(root.join("g")).unwrap()),
            ("changed", |root| fs::rename(root.join("a"), root.join("b")).unwrap()),
            ("changed", |root| fs::remove_dir(root.join("hollow")).unwrap()),
            ("changed", |root| {
                fs::write(root.join("x"), "g").unwrap();
                fs::rename(root.join("x"), root.join("g")).unwrap();
            }),
        ];
        for (at, (said, change)) in changes.into_iter().enumerate() {
            let dir = tree(&names);
            fs::create_dir(dir.path().join("hollow")).unwrap();
            let source = scan(dir.path()).unwrap();
            source.check_unchanged().unwrap();
            change(dir.path());
            let error = source.check_unchanged().unwrap_err();
            assert!(error.to_string().contains(said), "change {at}: {error}");
        }
    }

    #[test]
    fn a_prefix_stands_before_every_name() {
        let dir = tree(&["a", "d/b"]);
        fs::create_dir(dir.path().join("hollow")).unwrap();
        let with = |prefix: &str| {
            let prefix = Some(prefix.as_bytes().to_vec());
            scan_with(dir.path(), ScanOptions { prefix, ..ScanOptions::default() })
        };
        let source = with("rank0/").unwrap();
        assert_eq!(names(&source), ["rank0/a", "rank0/d/b"]);
        assert_eq!(source.directories()[0].name, b"rank0/hollow");
        source.check_unchanged().unwrap();
        for prefix in ["", "/", "/rank0", "../x", "a//b", "."] {
            assert!(matches!(with(prefix), Err(SourceError::Name { .. })), "{prefix:?}");
        }
    }

    #[test]
    fn links_are_followed_or_left_out_on_demand() {
        // As in the Hugging Face cache: names are links to blobs elsewhere.
        let dir = tree(&["blobs/1f", "blobs/2f", "snapshots/rev/own"]);
        let snapshot = dir.path().join("snapshots/rev");
        link("../../blobs/1f", snapshot.join("config.json"));
        link("../../blobs/2f", snapshot.join("model.safetensors"));
        link("../../blobs", snapshot.join("all"));
        link("rev", dir.path().join("snapshots/main"));
        let source = scan_with(&snapshot, links(Links::Follow)).unwrap();
        let all = ["all/1f", "all/2f", "config.json", "model.safetensors", "own"];
        assert_eq!(names(&source), all);
        let mut buffer = [0; 8];
        source.read_at(3, 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"blobs/2f");
        source.check_unchanged().unwrap();
        let by_link = scan_with(&dir.path().join("snapshots/main"), links(Links::Follow)).unwrap();
        assert_eq!(names(&by_link), all);
        assert_eq!(names(&scan_with(&snapshot, links(Links::Skip)).unwrap()), ["own"]);
        assert!(scan_with(&snapshot.join("all"), links(Links::Skip)).unwrap().entries().is_empty());
        // The link is changed while the upload runs.
        fs::remove_file(snapshot.join("config.json")).unwrap();
        link("../../blobs/2f", snapshot.join("config.json"));
        assert!(matches!(source.check_unchanged(), Err(SourceError::Changed { .. })));
    }

    #[test]
    fn links_that_lead_back_or_nowhere_are_named() {
        let dir = tree(&["a/b/c"]);
        let back = dir.path().join("a/b/back");
        link("../../a", back.clone());
        let error = scan_with(dir.path(), links(Links::Follow)).err().unwrap();
        assert!(matches!(&error, SourceError::LinkCycle { path } if *path == shown(&back)));
        fs::remove_file(&back).unwrap();
        link("back", back.clone());
        let error = scan_with(dir.path(), links(Links::Follow)).err().unwrap();
        assert!(matches!(error, SourceError::LinkCycle { .. }), "{error}");
        fs::remove_file(&back).unwrap();
        link("nothing", back.clone());
        let error = scan_with(dir.path(), links(Links::Follow)).err().unwrap();
        assert!(matches!(error, SourceError::DeadLink { .. }), "{error}");
    }

    #[test]
    fn what_is_excluded_is_not_even_looked_at() {
        let dir = tree(&["a", "tmp/x", "d/tmp", "d/y"]);
        link("nothing", dir.path().join("d/lock"));
        let exclude: Exclude =
            Arc::new(|name| name == b"tmp" || name.ends_with(b"/tmp") || name.ends_with(b"lock"));
        let options = ScanOptions { exclude: Some(exclude), ..ScanOptions::default() };
        assert_eq!(names(&scan_with(dir.path(), options).unwrap()), ["a", "d/y"]);
    }
}
