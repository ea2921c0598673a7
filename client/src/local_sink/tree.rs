//! The target directory. It is walked from its descriptor one component at a time, each opened
//! without following links. So nothing outside it is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Stat};
use rustix::io::Errno;

use crate::sink::{SinkError, shown};

/// Open directory descriptors kept at most. Others are reopened.
const DIRECTORIES_OPEN_MAX: usize = 64;
/// The mode bits that the owner needs to list a directory and to write in it.
const OWNER_ALL: RawMode = 0o700;

/// The identity of a file behind a descriptor or a name: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    pub device: u64,
    inode: u64,
}

impl FileId {
    #[allow(clippy::unnecessary_cast, reason = "the fields' types differ by platform")]
    pub fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

/// A directory, its name below the root, and the file system it is on.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub directory: Arc<OwnedFd>,
    pub name: Vec<u8>,
    pub device: u64,
}

#[derive(Debug)]
pub(super) struct Tree {
    root: Place,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Vec<u8>, Arc<OwnedFd>>,
    /// Directories with names that are not durable yet.
    unsynced: BTreeSet<Vec<u8>>,
}

impl Tree {
    pub fn new(root: OwnedFd) -> Result<Self, SinkError> {
        let stat = rustix::fs::fstat(&root).map_err(|errno| failed("look at", b".", errno))?;
        let device = FileId::of(&stat).device;
        let root = Place { directory: Arc::new(root), name: Vec::new(), device };
        Ok(Self { root, state: Mutex::default() })
    }

    pub fn root(&self) -> &Place {
        &self.root
    }

    /// The descriptor of the directory `name`. If it is missing and `make` is true, makes it.
    pub fn directory(&self, name: &[u8], make: bool) -> Result<Arc<OwnedFd>, SinkError> {
        if name.is_empty() {
            return Ok(self.root.directory.clone());
        }
        if let Some(open) = self.state.lock().open.get(name) {
            return Ok(open.clone());
        }
        let mut current = self.root.directory.clone();
        let mut end = 0;
        for component in name.split(|byte| *byte == b'/') {
            check_component(name, component)?;
            let parent = &name[..end];
            end += component.len() + usize::from(end > 0);
            current = Arc::new(match open_directory(&current, component) {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&current, component, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(failed("make directory", name, errno)),
                    }
                    self.changed(trimmed(parent));
                    open_directory(&current, component)
                        .map_err(|errno| failed("open directory", name, errno))?
                }
                other => other.map_err(|errno| failed("open directory", name, errno))?,
            });
        }
        let mut state = self.state.lock();
        if state.open.len() >= DIRECTORIES_OPEN_MAX {
            state.open.clear();
        }
        state.open.insert(name.to_vec(), current.clone());
        Ok(current)
    }

    /// The topmost directory on the file system of a file below `parent`. A file in it can be
    /// renamed into `parent`.
    pub fn home(&self, parent: &[u8]) -> Result<Place, SinkError> {
        let mut home = self.root.clone();
        let ends = parent.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = ends.map(|(end, _)| end).chain([parent.len()]);
        for end in ends.filter(|end| *end > 0) {
            let name = &parent[..end];
            let directory = match self.directory(name, false) {
                Err(error) if is_missing(&error) => break,
                other => other?,
            };
            let stat = rustix::fs::fstat(&directory);
            let device = FileId::of(&stat.map_err(|errno| failed("look at", name, errno))?).device;
            if device != home.device {
                home = Place { directory, name: name.to_vec(), device };
            }
        }
        Ok(home)
    }

    /// The plain file `name`. `None` if it does not exist.
    pub fn describe(&self, name: &[u8]) -> Result<Option<Stat>, SinkError> {
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        let directory = match self.directory(parent, false) {
            Err(error) if is_missing(&error) => return Ok(None),
            other => other?,
        };
        let stat = match rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|errno| failed("look at", name, errno))?,
        };
        let unsafe_as = |why| Err(SinkError::Unsafe { name: shown(name), why });
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Some(stat)),
            FileType::Symlink => unsafe_as("a symbolic link is there"),
            FileType::Directory => unsafe_as("a directory is there"),
            _ => unsafe_as("it is not a plain file"),
        }
    }

    /// Opens the plain file `name` for reading.
    pub fn open(&self, name: &[u8]) -> Result<File, SinkError> {
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.directory(parent, false)?, leaf, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| failed("open", name, errno))
    }

    /// Makes the directory `name` if it is missing, and gives its owner access below it. A mode
    /// that forbids access is set after all files are written.
    pub fn make_directory(&self, name: &[u8]) -> Result<(), SinkError> {
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        if let Ok(directory) = self.directory(parent, false) {
            let found = rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW);
            if let Ok(stat) = found
                && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && stat.st_mode & OWNER_ALL != OWNER_ALL
            {
                let mode = (stat.st_mode & 0o777) | OWNER_ALL;
                // A directory of another user is not changed. Writing there succeeds or gives the
                // error.
                let _ = set_mode(&directory, leaf, mode);
            }
        }
        self.directory(name, true).map(|_| ())
    }

    /// Sets the mode of the directory `name`.
    pub fn set_directory_mode(&self, name: &[u8], mode: u32) -> Result<(), SinkError> {
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        let directory = self.directory(parent, false)?;
        set_mode(&directory, leaf, mode & 0o777).map_err(|errno| failed("set mode of", name, errno))
    }

    /// Notes that the directory `name` holds a name that is not durable yet.
    pub fn changed(&self, name: &[u8]) {
        self.state.lock().unsynced.insert(name.to_vec());
    }

    /// Makes all names durable.
    pub fn sync(&self) -> Result<(), SinkError> {
        let unsynced = std::mem::take(&mut self.state.lock().unsynced);
        for name in unsynced {
            let directory = self.directory(&name, false)?;
            rustix::fs::fsync(&directory).map_err(|errno| failed("make durable", &name, errno))?;
        }
        Ok(())
    }
}

/// Sets a directory's mode, even if its owner may not open it.
fn set_mode(parent: &impl AsFd, leaf: &[u8], mode: RawMode) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match open_directory(parent, leaf) {
        Ok(directory) => rustix::fs::fchmod(&directory, mode),
        Err(Errno::ACCESS) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(parent, leaf, flags, Mode::empty())?;
            // A path descriptor does not follow links, and this is the only way to change the mode
            // through it.
            rustix::fs::chmod(format!("/proc/self/fd/{}", directory.as_raw_fd()), mode)
        }
        Err(errno) => Err(errno),
    }
}

pub(super) fn open_directory(parent: &impl AsFd, component: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, component, flags, Mode::empty())
}

/// Parent directory and last component.
pub(super) fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

fn trimmed(name: &[u8]) -> &[u8] {
    name.strip_suffix(b"/").unwrap_or(name)
}

fn is_missing(error: &SinkError) -> bool {
    matches!(error, SinkError::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
}

/// Names come from a checked manifest. They are checked here again as a second defence.
pub(super) fn check_component(name: &[u8], component: &[u8]) -> Result<(), SinkError> {
    if matches!(component, b"" | b"." | b"..") || component.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(SinkError::Unsafe { name: shown(name), why: "it leaves the directory" });
    }
    Ok(())
}

pub(super) fn failed(verb: &'static str, name: &[u8], errno: Errno) -> SinkError {
    match errno {
        Errno::LOOP => SinkError::Unsafe { name: shown(name), why: "a symbolic link is there" },
        // The error for a link that is opened as a directory without following links.
        Errno::NOTDIR => SinkError::Unsafe {
            name: shown(name),
            why: "a component of its path is not a directory",
        },
        errno => SinkError::Io { verb, name: shown(name), error: errno.into() },
    }
}

pub(super) fn wrapped(verb: &'static str, name: &[u8], error: io::Error) -> SinkError {
    SinkError::Io { verb, name: shown(name), error }
}
