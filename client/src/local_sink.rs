//! A download into a directory of this machine.
//!
//! Nothing outside the directory is ever touched: every path is walked from the directory's
//! descriptor, one component at a time, each opened without following links. A file that does
//! not bear its final name yet may be written again; a finished one is only ever replaced whole.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::sink::{FileTarget, Presence, Sink, SinkError, shown};

/// Open directory descriptors kept at most; beyond it they are reopened.
const DIRECTORIES_OPEN_MAX: usize = 64;

#[derive(Debug)]
pub struct LocalSink {
    root: Arc<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: BTreeMap<Vec<u8>, Arc<OwnedFd>>,
    /// Directories that hold names which are not durable yet.
    unsynced: BTreeSet<Vec<u8>>,
}

impl LocalSink {
    /// Opens `directory`, making it if needed. Blocks.
    pub fn open(directory: &Path) -> Result<Self, SinkError> {
        let failed = |error: io::Error| SinkError::Io {
            verb: "open directory",
            name: directory.display().to_string(),
            error,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        Ok(Self { root: Arc::new(root), state: Mutex::default() })
    }

    /// The descriptor of the directory `name` below the root; made where missing if `make`.
    fn directory(&self, name: &[u8], make: bool) -> Result<Arc<OwnedFd>, SinkError> {
        if name.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(open) = self.state.lock().open.get(name) {
            return Ok(open.clone());
        }
        let mut current = self.root.clone();
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
                    self.state.lock().unsynced.insert(trimmed(parent));
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

    fn open_file(&self, file: &[u8], flags: OFlags, verb: &'static str) -> Result<File, SinkError> {
        let (parent, leaf) = split(file);
        check_component(file, leaf)?;
        let directory = self.directory(parent, flags.contains(OFlags::CREATE))?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&directory, leaf, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .map_err(|errno| failed(verb, file, errno))
    }

    /// Length and link count of the plain file `name`; `None` where there is nothing.
    fn describe(&self, name: &[u8]) -> Result<Option<(u64, u64)>, SinkError> {
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        let directory = match self.directory(parent, false) {
            Err(SinkError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            other => other?,
        };
        let stat = match rustix::fs::statat(&directory, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(|errno| failed("look at", name, errno))?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            #[allow(clippy::useless_conversion, reason = "the field's type differs by platform")]
            FileType::RegularFile => Ok(Some((stat.st_size as u64, u64::from(stat.st_nlink)))),
            FileType::Symlink => {
                Err(SinkError::Unsafe { name: shown(name), why: "a symbolic link is there" })
            }
            _ => Err(SinkError::Unsafe { name: shown(name), why: "it is not a plain file" }),
        }
    }
}

impl Sink for LocalSink {
    fn probe(&self, file: &FileTarget) -> Result<Presence, SinkError> {
        match self.describe(&file.name)? {
            Some((len, _)) if len == file.len => return Ok(Presence::Final),
            Some(_) => return Ok(Presence::Other),
            None => {}
        }
        Ok(match self.describe(&file.part_name) {
            // A second link would be written through.
            Ok(Some((len, 1))) if len == file.len => Presence::Part,
            _ => Presence::Absent,
        })
    }

    fn create(&self, file: &FileTarget) -> Result<(), SinkError> {
        let (parent, leaf) = split(&file.part_name);
        check_component(&file.part_name, leaf)?;
        let directory = self.directory(parent, true)?;
        match rustix::fs::unlinkat(&directory, leaf, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("remove", &file.part_name, errno)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let part = self.open_file(&file.part_name, flags, "create")?;
        part.set_len(file.len).map_err(|error| wrapped("set length of", &file.part_name, error))
    }

    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError> {
        let name = if from == Presence::Part { &file.part_name } else { &file.name };
        let opened = self.open_file(name, OFlags::RDONLY, "open")?;
        opened.read_exact_at(buffer, offset).map_err(|error| wrapped("read", name, error))
    }

    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let part = self.open_file(&file.part_name, OFlags::WRONLY, "open")?;
        part.write_all_at(bytes, offset).map_err(|error| wrapped("write", &file.part_name, error))
    }

    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError> {
        let name = &file.part_name;
        let part = self.open_file(name, OFlags::RDWR, "open")?;
        // Set-id bits of another machine's users mean nothing here and are dangerous.
        rustix::fs::fchmod(&part, Mode::from_raw_mode(file.mode & 0o777))
            .map_err(|errno| failed("set mode of", name, errno))?;
        let time = Timespec {
            tv_sec: file.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: file.mtime_ns.rem_euclid(1_000_000_000) as _,
        };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&part, &times).map_err(|errno| failed("set time of", name, errno))?;
        part.sync_all().map_err(|error| wrapped("make durable", name, error))?;
        let (parent, leaf) = split(&file.name);
        let (_, part_leaf) = split(name);
        check_component(&file.name, leaf)?;
        let directory = self.directory(parent, false)?;
        rename(&directory, part_leaf, leaf, replace).map_err(|errno| match errno {
            Errno::EXIST => SinkError::WouldOverwrite { name: file.shown() },
            errno => failed("rename", name, errno),
        })?;
        self.state.lock().unsynced.insert(parent.to_vec());
        Ok(())
    }

    fn make_directory(&self, name: &[u8], mode: u32) -> Result<(), SinkError> {
        let directory = self.directory(name, true)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode & 0o777))
            .map_err(|errno| failed("set mode of", name, errno))
    }

    fn complete(&self) -> Result<(), SinkError> {
        let unsynced = std::mem::take(&mut self.state.lock().unsynced);
        for name in unsynced {
            let directory = self.directory(&name, false)?;
            rustix::fs::fsync(&directory).map_err(|errno| failed("make durable", &name, errno))?;
        }
        Ok(())
    }
}

fn open_directory(parent: &impl AsFd, component: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, component, flags, Mode::empty())
}

fn rename(directory: &OwnedFd, from: &[u8], to: &[u8], replace: bool) -> Result<(), Errno> {
    if replace {
        return rustix::fs::renameat(directory, from, directory, to);
    }
    match rustix::fs::renameat_with(directory, from, directory, to, RenameFlags::NOREPLACE) {
        // Some network file systems lack the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::statat(directory, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => rustix::fs::renameat(directory, from, directory, to),
                Ok(_) => Err(Errno::EXIST),
                Err(errno) => Err(errno),
            }
        }
        other => other,
    }
}

/// Parent directory and last component.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

fn trimmed(name: &[u8]) -> Vec<u8> {
    name.strip_suffix(b"/").unwrap_or(name).to_vec()
}

/// Names come from a checked manifest; this is the second lock on the door.
fn check_component(name: &[u8], component: &[u8]) -> Result<(), SinkError> {
    if matches!(component, b"" | b"." | b"..") || component.iter().any(|b| matches!(b, b'/' | 0)) {
        return Err(SinkError::Unsafe { name: shown(name), why: "it leaves the directory" });
    }
    Ok(())
}

fn failed(verb: &'static str, name: &[u8], errno: Errno) -> SinkError {
    match errno {
        Errno::LOOP => SinkError::Unsafe { name: shown(name), why: "a symbolic link is there" },
        // A link opened as a directory without following says so this way.
        Errno::NOTDIR => {
            SinkError::Unsafe { name: shown(name), why: "a directory on its path is none" }
        }
        errno => SinkError::Io { verb, name: shown(name), error: errno.into() },
    }
}

fn wrapped(verb: &'static str, name: &[u8], error: io::Error) -> SinkError {
    SinkError::Io { verb, name: shown(name), error }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn target(name: &str, len: u64) -> FileTarget {
        FileTarget {
            name: name.as_bytes().to_vec(),
            part_name: format!("{name}.cairn-part").into_bytes(),
            mode: 0o4640,
            mtime_ns: 1_700_000_000_123_456_789,
            len,
            extents: vec![],
        }
    }

    #[test]
    fn a_file_gets_its_name_mode_and_time_only_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let sink = LocalSink::open(&dir.path().join("out")).unwrap();
        let file = target("a/b/model", 6);
        assert_eq!(sink.probe(&file).unwrap(), Presence::Absent);
        sink.create(&file).unwrap();
        sink.write_at(&file, 3, b"def").unwrap();
        sink.write_at(&file, 0, b"abc").unwrap();
        assert_eq!(sink.probe(&file).unwrap(), Presence::Part);
        let path = dir.path().join("out/a/b/model");
        assert!(!path.exists());
        sink.finish(&file, false).unwrap();
        sink.complete().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640, "set-id bits are dropped");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 123_456_789));
        assert_eq!(sink.probe(&file).unwrap(), Presence::Final);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("victim"), "safe!!").unwrap();
        let sink = LocalSink::open(dir.path()).unwrap();

        symlink(outside.path(), dir.path().join("a")).unwrap();
        let through = target("a/victim", 6);
        assert!(matches!(sink.probe(&through), Err(SinkError::Unsafe { .. })));
        assert!(matches!(sink.create(&through), Err(SinkError::Unsafe { .. })));

        symlink(outside.path().join("victim"), dir.path().join("m.cairn-part")).unwrap();
        let file = target("m", 6);
        assert_eq!(sink.probe(&file).unwrap(), Presence::Absent);
        assert!(matches!(sink.write_at(&file, 0, b"xxxxxx"), Err(SinkError::Unsafe { .. })));
        sink.create(&file).unwrap();
        sink.write_at(&file, 0, b"xxxxxx").unwrap();

        fs::hard_link(outside.path().join("victim"), dir.path().join("h.cairn-part")).unwrap();
        assert_eq!(sink.probe(&target("h", 6)).unwrap(), Presence::Absent, "shared with another");

        symlink(outside.path().join("victim"), dir.path().join("f")).unwrap();
        assert!(matches!(sink.probe(&target("f", 6)), Err(SinkError::Unsafe { .. })));
        assert!(matches!(sink.create(&target("../up", 6)), Err(SinkError::Unsafe { .. })));
        assert_eq!(fs::read(outside.path().join("victim")).unwrap(), b"safe!!");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_is_replaced_only_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m"), "old").unwrap();
        let sink = LocalSink::open(dir.path()).unwrap();
        let file = target("m", 6);
        assert_eq!(sink.probe(&file).unwrap(), Presence::Other);
        sink.create(&file).unwrap();
        sink.write_at(&file, 0, b"newnew").unwrap();
        assert!(matches!(sink.finish(&file, false), Err(SinkError::WouldOverwrite { .. })));
        assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"old");
        sink.finish(&file, true).unwrap();
        assert_eq!(fs::read(dir.path().join("m")).unwrap(), b"newnew");
    }

    #[test]
    fn many_directories_and_long_names_work() {
        let dir = tempfile::tempdir().unwrap();
        let sink = LocalSink::open(dir.path()).unwrap();
        for index in 0..200 {
            let mut file = target(&format!("d{index}/{}", "n".repeat(255)), 1);
            file.part_name = format!("d{index}/.part").into_bytes();
            sink.create(&file).unwrap();
            sink.write_at(&file, 0, b"x").unwrap();
            sink.finish(&file, false).unwrap();
        }
        sink.make_directory(b"empty/deep", 0o700).unwrap();
        sink.complete().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 201);
    }
}
