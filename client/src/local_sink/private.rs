//! The private directory of one run. It holds its part files, and no other run writes there.
//!
//! ```text
//! target/.cairn-get-0/     made by this run, mode 0700
//!          lock            locked while the run lives
//!          3f09c1...       one part file each, named by the hash of the final name
//! target/.cairn-get-1/     another run's: not touched while its lock is held
//! ```
//!
//! A directory is made only by `mkdir`, so two runs never make the same one. A free lock means that
//! the run is dead. The run that gets the lock may move part files into its own directory, or
//! remove everything. If the file system has no locks, the name shows that, and no run takes the
//! directory over.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::tree::{FileId, Place, failed, open_directory};
use crate::sink::SinkError;

/// The start of a private directory's name. A number follows.
const PREFIX: &[u8] = b".cairn-get-";
/// Follows the number if the file system has no locks.
const UNLOCKED: &[u8] = b"-unlocked";
const LOCK: &[u8] = b"lock";
/// Most private directories in one directory. One disk cannot serve more runs at once.
const RUNS_MAX: usize = 1024;
/// Most dead directories looked at by one run. Each is an open descriptor.
const DEAD_MAX: usize = 32;
/// A later run removes part files of a dead run once they are this much older than the later run.
/// Until then the killed command may be repeated.
const DEAD_AGE_MAX_S: i64 = 24 * 60 * 60;

#[derive(Debug)]
pub(super) struct PrivateDirectory {
    place: Place,
    name: Vec<u8>,
    directory: OwnedFd,
    /// `None` if the file system has no locks.
    lock: Option<OwnedFd>,
    /// The process's user as this file system sees it.
    owner: u32,
    made_s: i64,
}

enum Locked {
    Ours(OwnedFd),
    /// Another run has the lock, or the directory is gone.
    No,
    Unsupported,
}

impl PrivateDirectory {
    /// Makes one in `place`. Names in `reserved` belong to the checkpoint and are not used.
    pub fn make(place: &Place, reserved: &BTreeSet<Vec<u8>>) -> Result<Self, SinkError> {
        for number in 0..RUNS_MAX {
            let name = [PREFIX, number.to_string().as_bytes()].concat();
            if reserved.contains(&name) {
                continue;
            }
            let shown = [&place.name[..], b"/", &name].concat();
            let failed = |errno| failed("make directory", &shown, errno);
            match rustix::fs::mkdirat(&place.directory, &name, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(failed(errno)),
            }
            if let Some(made) = Self::settle(place, name).map_err(failed)? {
                return Ok(made);
            }
        }
        Err(SinkError::Unsafe {
            name: crate::sink::shown(&place.name),
            why: "too many .cairn-get-* directories of other runs are there",
        })
    }

    /// Locks the directory just made. `None` if another run took it over first as a dead one.
    fn settle(place: &Place, name: Vec<u8>) -> Result<Option<Self>, Errno> {
        let Ok(directory) = open_directory(&place.directory, &name) else { return Ok(None) };
        let stat = rustix::fs::fstat(&directory)?;
        let (lock, name) = match lock(&directory, OFlags::EXCL)? {
            Locked::Ours(lock) => (Some(lock), name),
            Locked::No => return Ok(None),
            Locked::Unsupported => {
                let unlocked = [&name[..], UNLOCKED].concat();
                let renamed =
                    rustix::fs::renameat(&place.directory, &name, &place.directory, &unlocked);
                if renamed.is_err() {
                    return Ok(None);
                }
                (None, unlocked)
            }
        };
        let place = place.clone();
        let made_s = lock.as_ref().map_or(stat.st_mtime, modified_s);
        Ok(Some(Self { place, name, directory, lock, owner: stat.st_uid, made_s }))
    }

    /// The directories of dead runs in the same place, locked. Those of other users are not
    /// touched: the other users could still change files that they keep open.
    pub fn dead(&self, reserved: &BTreeSet<Vec<u8>>) -> Vec<Self> {
        let owner = self.lock.is_some().then_some(self.owner);
        let Some(owner) = owner else { return Vec::new() };
        find_dead(&self.place, owner, reserved)
    }

    /// Whether `stat` is a plain file that belongs to this user and has one name.
    fn is_own(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_nlink == 1
            && stat.st_uid == self.owner
    }

    /// Moves the part file of the final name `file` from a dead directory to this one, if it exists
    /// with the length `len`.
    pub fn adopt(&self, dead: &Self, file: &[u8], len: u64) -> Option<FileId> {
        let name = part_name(file);
        let stat = rustix::fs::statat(&dead.directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if !self.is_own(&stat) || u64::try_from(stat.st_size).ok() != Some(len) {
            return None;
        }
        rustix::fs::renameat(&dead.directory, &name, &self.directory, &name).ok()?;
        // A run that was killed in its last step may have set a mode that forbids writing.
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::chmodat(&self.directory, &name, mode, AtFlags::empty()).ok()?;
        Some(FileId::of(&stat))
    }

    /// Opens the part file of `file`.
    pub fn open(&self, file: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.directory, part_name(file), flags, Mode::from_raw_mode(0o600))
    }

    /// Removes the part file of `file`, if there is one.
    pub fn discard(&self, file: &[u8]) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.directory, part_name(file), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.directory
    }

    /// Names of part files.
    fn parts(&self) -> Vec<Vec<u8>> {
        entries(&self.directory).into_iter().filter(|name| name != LOCK).collect()
    }

    /// Removes part files that another run has finished.
    pub fn discard_all(&self, names: &BTreeSet<Vec<u8>>) {
        for name in self.parts().iter().filter(|name| names.contains(*name)) {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }

    /// Removes a dead directory if all its part files are too old, or if it has none.
    pub fn remove_if_old(self, than: &Self) {
        let is_old = |name: &Vec<u8>| {
            let stat = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);
            stat.is_ok_and(|stat| stat.st_mtime.saturating_add(DEAD_AGE_MAX_S) < than.made_s)
        };
        if self.parts().iter().all(is_old) {
            self.remove();
        }
    }

    /// Removes the directory if it has no part file.
    pub fn remove_if_empty(self) {
        if self.parts().is_empty() {
            self.remove();
        }
    }

    /// Removes the directory with all part files. After an error the rest is left for a later run,
    /// and this run continues.
    pub fn remove(self) {
        for name in self.parts() {
            let _ = rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty());
        }
        let _ = rustix::fs::unlinkat(&self.directory, LOCK, AtFlags::empty());
        // NFS keeps an open file under another name, so the lock is closed first. From here on
        // another run may lock the directory as a dead one. The directory is then not empty and
        // stays.
        let Self { place, name, directory, lock, .. } = self;
        drop(lock);
        drop(directory);
        let _ = rustix::fs::unlinkat(&place.directory, &name, AtFlags::REMOVEDIR);
    }
}

/// The name of the part file of `file`. No file has its final name in the same directory.
pub(super) fn part_name(file: &[u8]) -> Vec<u8> {
    blake3::hash(file).to_hex().as_bytes()[..32].to_vec()
}

/// The private names that a checkpoint's own names use, in any of its directories.
pub(super) fn reserved<'a>(names: impl Iterator<Item = &'a [u8]>) -> BTreeSet<Vec<u8>> {
    names
        .flat_map(|name| name.split(|byte| *byte == b'/'))
        .filter(|component| component.starts_with(PREFIX))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Whether the directory at `path`, called `name`, is a run's private one.
pub(crate) fn is_left_by_a_get(path: &std::path::Path, name: &[u8]) -> bool {
    let lock = path.join(std::ffi::OsStr::from_bytes(LOCK));
    is_private(name.strip_suffix(UNLOCKED).unwrap_or(name)) && lock.symlink_metadata().is_ok()
}

/// Whether there is a private directory of any run in `place`.
pub(super) fn any(place: &Place) -> bool {
    entries(&place.directory).iter().any(|name| is_private(name))
}

fn is_private(name: &[u8]) -> bool {
    let number = name.strip_prefix(PREFIX);
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

fn find_dead(place: &Place, owner: u32, reserved: &BTreeSet<Vec<u8>>) -> Vec<PrivateDirectory> {
    let mut names = entries(&place.directory);
    names.retain(|name| is_private(name) && !reserved.contains(name));
    names.sort_unstable();
    let dead = names.into_iter().filter_map(|name| {
        let directory = open_directory(&place.directory, &name).ok()?;
        let stat = rustix::fs::fstat(&directory).ok()?;
        if stat.st_uid != owner || stat.st_mode & 0o077 != 0 {
            return None;
        }
        let Ok(Locked::Ours(lock)) = lock(&directory, OFlags::empty()) else { return None };
        let made_s = modified_s(&lock);
        let place = place.clone();
        Some(PrivateDirectory { place, name, directory, lock: Some(lock), owner, made_s })
    });
    dead.take(DEAD_MAX).collect()
}

/// Locks `directory` through its lock file, without waiting.
fn lock(directory: &OwnedFd, extra: OFlags) -> Result<Locked, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open =
        |extra| rustix::fs::openat(directory, LOCK, flags | extra, Mode::from_raw_mode(0o600));
    let file = match open(OFlags::CREATE | extra) {
        // Removed meanwhile, or made first by a run that takes this directory for a dead one.
        Err(Errno::NOENT | Errno::EXIST) => return Ok(Locked::No),
        other => other?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK | Errno::ACCESS) => return Ok(Locked::No),
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => {
            return Ok(Locked::Unsupported);
        }
        Err(errno) => return Err(errno),
    }
    // A run that removed the directory meanwhile has unlinked the file that is locked now. The name
    // is opened and not only looked up, because on NFS only an open asks the server.
    let Ok(named) = open(OFlags::empty()) else { return Ok(Locked::No) };
    let id = |file: &OwnedFd| rustix::fs::fstat(file).map(|stat| FileId::of(&stat));
    Ok(if id(&named)? == id(&file)? { Locked::Ours(file) } else { Locked::No })
}

fn modified_s(file: &OwnedFd) -> i64 {
    rustix::fs::fstat(file).map_or(0, |stat| stat.st_mtime)
}

/// Names in a directory. Empty if it cannot be read.
fn entries(directory: &impl AsFd) -> Vec<Vec<u8>> {
    let Ok(listing) = rustix::fs::Dir::read_from(directory) else { return Vec::new() };
    listing
        .filter_map(|entry| Some(entry.ok()?.file_name().to_bytes().to_vec()))
        .filter(|name| name != b"." && name != b"..")
        .collect()
}
