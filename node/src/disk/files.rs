//! The production disk: files below one data directory.
//!
//! Direct IO is switched on after opening (`F_SETFL`). It is switched off again if the file system
//! refuses it, at open or at the first use. The file is then buffered, and its pages are dropped
//! from the cache: after a sync for writes, before and after a read for verification. So a
//! verification reads the medium, and a segment's bytes do not fill the page cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};

use super::buffers::AlignedBuffer;
use super::is_out_of_descriptors;
use super::{DIRECT_ALIGN, Disk, DiskFile, Listed, Open, Space, Standing};

/// Name of the lock file within the data directory.
pub const LOCK_FILE: &str = "lock";

/// A data directory.
pub struct FileDisk {
    root: PathBuf,
}

/// Holds the data directory for this process until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("data directory {} is in use by another process{}", dir.display(), of_process(holder))]
    InUse {
        dir: PathBuf,
        /// Process id of the holder, if it could be read.
        holder: Option<u32>,
    },
    #[error("cannot lock data directory {}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
}

fn of_process(holder: &Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl FileDisk {
    /// Opens the data directory `root`; it must exist.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", root.display()),
            ));
        }
        Ok(Self { root })
    }

    /// Makes the data directory if it is missing, with every directory above it, durably, and opens
    /// it.
    pub fn create(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        for parent in create_all(&root)? {
            sync_directory(&parent)?;
        }
        Self::open(root)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the data directory for this process. Two processes on one directory would each treat
    /// the other's files and votes as their own.
    pub fn lock(&self) -> Result<DirectoryLock, LockError> {
        let failed = |source| LockError::Io { dir: self.root.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.root.join(LOCK_FILE))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The holder's number is only for the error message. A lock file without one is
                // still locked.
                let _ = (&mut file).take(32).read_to_string(&mut text);
                let holder = text.trim().parse().ok();
                return Err(LockError::InUse { dir: self.root.clone(), holder });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(DirectoryLock { _file: file })
    }

    /// Refuses paths that would leave the data directory.
    fn path(&self, path: &str) -> io::Result<PathBuf> {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if inside {
            Ok(self.root.join(path))
        } else {
            let why = format!("path {path:?} is not inside the data directory");
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// Adds the file's mode and owner to the error, so that a person can fix the refused access.
fn with_mode(place: &Path, error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    match fs::symlink_metadata(place) {
        Ok(it) => {
            let (mode, user) = (it.mode() & 0o7777, it.uid());
            io::Error::new(error.kind(), format!("{error}, mode {mode:04o}, owner {user}"))
        }
        Err(_) => error,
    }
}

impl Disk for FileDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read | Open::ReadDirect => {}
            Open::Write => {
                options.write(true);
            }
            Open::Create | Open::CreateDirect => {
                options.write(true).create_new(true);
            }
            Open::CreateSecret => {
                options.write(true).create_new(true).mode(0o600);
            }
        }
        // Opening a FIFO without a writer would otherwise block for ever.
        let mut flags = OFlags::NONBLOCK;
        if path.contains('/') {
            // Files directly in the data directory (such as the log) may be an operator's links. In
            // directories below it only the node makes files.
            flags |= OFlags::NOFOLLOW;
        }
        options.custom_flags(flags.bits() as i32);
        let place = self.path(path)?;
        let opened = options.open(&place).map_err(|error| with_mode(&place, error))?;
        if !opened.metadata()?.is_file() {
            let why = format!("{path} is not a regular file");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let file = OpenFile {
            file: opened,
            past_cache: matches!(how, Open::ReadDirect | Open::CreateDirect),
            direct: AtomicBool::new(false),
        };
        if file.past_cache {
            // Opening with O_DIRECT could leave a created file behind on a file system that refuses
            // it. Setting the flag afterwards cannot.
            file.direct.store(set_direct(&file.file, true).is_ok(), Ordering::Relaxed);
            file.drop_cache();
        }
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path)?)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let path = self.path(path)?;
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        sync_directory(&self.path(path)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in fs::read_dir(self.path(path)?)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed after the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            listed.push(Listed {
                name: entry.file_name().to_string_lossy().into_owned(),
                len: if is_dir { 0 } else { metadata.len() },
                is_dir,
            });
        }
        listed.sort();
        Ok(listed)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.path(path)?.try_exists()
    }

    fn stat(&self, path: &str) -> io::Result<Standing> {
        let found = fs::symlink_metadata(self.path(path)?)?;
        let is_file = found.is_file();
        Ok(Standing { len: if is_file { found.len() } else { 0 }, is_file })
    }

    fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(Space {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            available: found.f_bavail.saturating_mul(found.f_frsize),
            // File systems that make inodes on demand report a count of zero.
            inodes: if found.f_files == 0 { u64::MAX } else { found.f_favail },
        })
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path(path)?)?.ino())
    }
}

/// Number of attempts, and the pause between them, to open a directory when descriptors are short.
/// A burst of connections ends in this time, unless the limit on connections is broken.
const OPEN_TRIES_MAX: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Makes a directory and the missing ones above it. Returns the directories that got a new entry,
/// outermost first. The new names are durable once these are synced.
fn create_all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|it| !it.as_os_str().is_empty() && !it.exists()).collect();
    fs::create_dir_all(path)?;
    // The data directory's own name is included, because another process may have just made it.
    let made = if missing.is_empty() { vec![path] } else { missing };
    let parents = made.into_iter().rev().filter_map(Path::parent).map(|parent| {
        let here = parent.as_os_str().is_empty();
        if here { PathBuf::from(".") } else { parent.to_owned() }
    });
    Ok(parents.collect())
}

/// A failed sync means that names may be lost, and stops the node. A directory that cannot be
/// opened for lack of descriptors does not mean this, so the open is tried again.
fn sync_directory(path: &Path) -> io::Result<()> {
    let mut tries = 0;
    let directory = loop {
        match File::open(path) {
            Err(error) if is_out_of_descriptors(&error) && tries < OPEN_TRIES_MAX => {
                tries += 1;
                #[allow(clippy::disallowed_methods, reason = "a blocking job of the real disk")]
                std::thread::sleep(OPEN_PAUSE);
            }
            opened => break opened?,
        }
    };
    directory.sync_all()
}

struct OpenFile {
    file: File,
    /// Opened to bypass the page cache: with direct IO or, if that fails, by dropping pages.
    past_cache: bool,
    /// Whether `O_DIRECT` is on. It is switched off for good when the file system refuses it.
    direct: AtomicBool,
}

impl OpenFile {
    fn drop_cache(&self) {
        if self.past_cache && !self.direct.load(Ordering::Relaxed) {
            let whole: Option<NonZeroU64> = None;
            // This is only advice to the kernel. Nothing depends on it.
            let _ = rustix::fs::fadvise(&self.file, 0, whole, Advice::DontNeed);
        }
    }

    /// Runs `transfer`. Runs it once more without direct IO if the file system refuses direct IO
    /// only now.
    fn transfer<T>(&self, mut transfer: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match transfer() {
            // `direct` is not checked here: another thread may have switched it off after this
            // attempt began.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.past_cache => {
                self.direct.store(false, Ordering::Relaxed);
                set_direct(&self.file, false)?;
                transfer()
            }
            result => result,
        }
    }

    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.transfer(|| self.file.read_exact_at(buf, offset))
    }

    /// Direct IO reads whole pages into page-aligned memory. This reads the pages around the range
    /// into such memory and copies the range out.
    fn read_unaligned(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let align = DIRECT_ALIGN as u64;
        let start = offset - offset % align;
        let skip = (offset - start) as usize;
        let mut pages = AlignedBuffer::zeroed((skip + buf.len()).next_multiple_of(DIRECT_ALIGN));
        let mut filled = 0;
        // A short read happens only at the end of the file, which may be in the middle of a page.
        while filled < skip + buf.len() {
            let place = start + filled as u64;
            match self.transfer(|| self.file.read_at(&mut pages[filled..], place)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buf.copy_from_slice(&pages[skip..skip + buf.len()]);
        Ok(())
    }
}

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if self.direct.load(Ordering::Relaxed) && !is_aligned(offset, buf) {
            return self.read_unaligned(offset, buf);
        }
        self.read_exact(offset, buf)?;
        self.drop_cache();
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(
            !self.direct.load(Ordering::Relaxed) || is_aligned(offset, bytes),
            "unaligned direct write"
        );
        self.transfer(|| self.file.write_all_at(bytes, offset))
    }

    /// Growing a file that bypasses the page cache also allocates it in one piece. So a full disk
    /// is noticed before the bytes have crossed the network.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let held = self.file.metadata()?.len();
        if self.past_cache && len > held {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), held, len - held) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.drop_cache();
        Ok(())
    }
}

fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
    offset.is_multiple_of(DIRECT_ALIGN as u64)
        && bytes.len().is_multiple_of(DIRECT_ALIGN)
        && bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_refused_access_names_mode_and_owner() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("file");
        fs::write(&place, "x").unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o040)).unwrap();
        let owner = fs::metadata(&place).unwrap().uid();
        let said = with_mode(&place, io::Error::from_raw_os_error(13));
        assert_eq!(said.kind(), io::ErrorKind::PermissionDenied);
        assert!(said.to_string().ends_with(&format!(", mode 0040, owner {owner}")), "{said}");
        let other = with_mode(&place, io::Error::from_raw_os_error(5));
        assert_eq!(other.raw_os_error(), Some(5), "what is told apart by number keeps it");
    }
}
