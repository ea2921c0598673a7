//! A download into a directory of this machine.
//!
//! ```text
//! create      .cairn-get-0/PART     a file with a name that only this run uses
//! write_at    through a descriptor, which is kept or, after a reopen, compared
//! finish      fsync, rename to the final name, compare the name with the descriptor
//! complete    fsync directories, compare all names again, set modes of directories
//! ```
//!
//! A file has its final name only if this run wrote or verified each byte of that same inode. So
//! any number of runs may work in one directory. Part files of a killed run are taken over by one
//! run only, and only if they belong to this user; [`private`] describes how.

mod private;
mod rename;
mod sparse;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

pub(crate) use self::private::is_left_by_a_get;
use self::private::{PrivateDirectory, part_name};
use self::rename::rename;
use self::tree::{FileId, Tree, check_component, failed, split, wrapped};
use crate::sink::{FileTarget, Plan, Presence, Sink, SinkError, shown};

/// File descriptors kept open between blocks. Files above this limit are reopened.
const FILES_OPEN_MAX: usize = 64;
/// Bytes compared at a time with a file that another run finished first.
const COMPARE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub struct LocalSink {
    path: PathBuf,
    tree: OnceLock<Tree>,
    /// This run made the directory and has not completed.
    made: AtomicBool,
    run: Mutex<Run>,
}

#[derive(Debug, Default)]
struct Run {
    /// Private names that the checkpoint itself uses.
    reserved: BTreeSet<Vec<u8>>,
    /// Names of part files of this run.
    part_names: BTreeSet<Vec<u8>>,
    directories: Vec<(Vec<u8>, u32)>,
    /// By file system, because a rename works only within one.
    privates: BTreeMap<u64, Arc<PrivateDirectory>>,
    parts: BTreeMap<Vec<u8>, Part>,
    /// Files under their final name: those that this run reads, and those that it has finished.
    finals: BTreeMap<Vec<u8>, FileId>,
    open: OpenFiles,
}

#[derive(Debug, Clone)]
struct Part {
    private: Arc<PrivateDirectory>,
    id: FileId,
    /// Made by this run, so its unwritten bytes are zero.
    is_fresh: bool,
}

/// The last used descriptors, by name and by whether it is the part file.
#[derive(Debug, Default)]
struct OpenFiles {
    files: BTreeMap<(Vec<u8>, bool), (Arc<File>, u64)>,
    uses: u64,
}

impl OpenFiles {
    fn get(&mut self, key: &(Vec<u8>, bool)) -> Option<Arc<File>> {
        self.uses += 1;
        let (file, used) = self.files.get_mut(key)?;
        *used = self.uses;
        Some(file.clone())
    }

    fn keep(&mut self, key: (Vec<u8>, bool), file: &Arc<File>) {
        if self.files.len() >= FILES_OPEN_MAX {
            let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.files.remove(&oldest);
            }
        }
        self.files.insert(key, (file.clone(), self.uses));
    }
}

impl LocalSink {
    /// A sink for `directory`, which is made when a download begins. Blocks.
    pub fn open(directory: &Path) -> Result<Self, SinkError> {
        let sink = Self {
            path: directory.to_owned(),
            tree: OnceLock::new(),
            made: AtomicBool::new(false),
            run: Mutex::default(),
        };
        match sink.open_root() {
            Err(SinkError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        Ok(sink)
    }

    fn open_root(&self) -> Result<(), SinkError> {
        if self.tree.get().is_none() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(&self.path, flags, Mode::empty())
                .map_err(|errno| self.root_failed("open directory", errno.into()))?;
            let _ = self.tree.set(Tree::new(root)?);
        }
        Ok(())
    }

    fn root_failed(&self, verb: &'static str, error: io::Error) -> SinkError {
        SinkError::Io { verb, name: self.path.display().to_string(), error }
    }

    fn tree(&self) -> Result<&Tree, SinkError> {
        let missing = || self.root_failed("open directory", io::ErrorKind::NotFound.into());
        self.tree.get().ok_or_else(missing)
    }

    fn make_root(&self) -> Result<(), SinkError> {
        if self.tree.get().is_none() {
            std::fs::create_dir_all(&self.path)
                .map_err(|error| self.root_failed("make directory", error))?;
            self.made.store(true, Ordering::Relaxed);
            self.open_root()?;
        }
        Ok(())
    }

    /// The objects under the final names. Changes nothing.
    fn presences(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        let Some(tree) = self.tree.get() else {
            return Ok(vec![Presence::Absent; plan.files.len()]);
        };
        let presence = |file: &FileTarget| match tree.describe(&file.name)? {
            None => Ok(Presence::Absent),
            Some(stat) if u64::try_from(stat.st_size).ok() == Some(file.len) => Ok(Presence::Final),
            Some(_) if plan.replace => Ok(Presence::Other),
            Some(_) => Err(SinkError::WouldOverwrite { name: file.shown() }),
        };
        plan.files.iter().map(presence).collect()
    }

    /// Takes over part files of dead runs, for files that are absent or will be replaced.
    fn adopt(&self, files: &[FileTarget], presences: &mut [Presence]) -> Result<(), SinkError> {
        let mut dead: BTreeMap<u64, Vec<PrivateDirectory>> = BTreeMap::new();
        for (file, presence) in files.iter().zip(presences) {
            if !matches!(presence, Presence::Absent | Presence::Other) {
                continue;
            }
            let (device, private) = self.private(file)?;
            let dead = dead.entry(device).or_insert_with(|| {
                let reserved = self.run.lock().reserved.clone();
                private.dead(&reserved)
            });
            let id = dead.iter().find_map(|dead| private.adopt(dead, &file.name, file.len));
            if let Some(id) = id {
                let part = Part { private, id, is_fresh: false };
                self.run.lock().parts.insert(file.name.clone(), part);
                *presence = Presence::Part;
            }
        }
        dead.into_values().flatten().for_each(PrivateDirectory::remove_if_empty);
        Ok(())
    }

    /// The private directory from which a file can be renamed to its place, and its device.
    fn private(&self, file: &FileTarget) -> Result<(u64, Arc<PrivateDirectory>), SinkError> {
        let home = self.tree()?.home(split(&file.name).0)?;
        let mut run = self.run.lock();
        if let Some(private) = run.privates.get(&home.device) {
            return Ok((home.device, private.clone()));
        }
        let private = Arc::new(PrivateDirectory::make(&home, &run.reserved)?);
        run.privates.insert(home.device, private.clone());
        Ok((home.device, private))
    }

    fn part(&self, file: &FileTarget) -> Result<Part, SinkError> {
        let part = self.run.lock().parts.get(&file.name).cloned();
        part.ok_or_else(|| wrapped("open the part of", &file.name, io::ErrorKind::NotFound.into()))
    }

    fn open_part(&self, file: &FileTarget) -> Result<(Arc<File>, Part), SinkError> {
        let part = self.part(file)?;
        let key = (file.name.clone(), true);
        if let Some(open) = self.run.lock().open.get(&key) {
            return Ok((open, part));
        }
        let opened = part.private.open(&file.name, OFlags::RDWR);
        let opened = opened.map_err(|errno| failed("open the part of", &file.name, errno))?;
        if file_id(&opened, &file.name)? != part.id {
            return Err(SinkError::Replaced { name: file.shown() });
        }
        let opened = Arc::new(File::from(opened));
        self.run.lock().open.keep(key, &opened);
        Ok((opened, part))
    }

    /// Opens a file under its final name. It must be the same file as the first time.
    fn open_final(&self, file: &FileTarget) -> Result<Arc<File>, SinkError> {
        let key = (file.name.clone(), false);
        if let Some(open) = self.run.lock().open.get(&key) {
            return Ok(open);
        }
        let opened = Arc::new(self.tree()?.open(&file.name)?);
        let id = file_id(&*opened, &file.name)?;
        let mut run = self.run.lock();
        if *run.finals.entry(file.name.clone()).or_insert(id) != id {
            return Err(SinkError::Replaced { name: file.shown() });
        }
        run.open.keep(key, &opened);
        Ok(opened)
    }

    /// Called after a rename, or if a file was in the way. The final name must be the part file, or
    /// a file with the same bytes that another run has finished.
    fn settle(
        &self,
        file: &FileTarget,
        part: &File,
        id: FileId,
        replace: bool,
    ) -> Result<FileId, SinkError> {
        let tree = self.tree()?;
        let found = tree.describe(&file.name)?;
        if found.is_some_and(|stat| FileId::of(&stat) == id) {
            return Ok(id);
        }
        let other = tree.open(&file.name)?;
        if !same_bytes(part, &other, file)? {
            let name = file.shown();
            return Err(match replace {
                true => SinkError::Replaced { name },
                false => SinkError::WouldOverwrite { name },
            });
        }
        file_id(&other, &file.name)
    }

    /// Checks that every final name is still the file that was written or verified.
    fn check_names(&self) -> Result<(), SinkError> {
        let finals = std::mem::take(&mut self.run.lock().finals);
        let tree = self.tree()?;
        for (name, id) in finals {
            if tree.describe(&name)?.is_none_or(|stat| FileId::of(&stat) != id) {
                return Err(SinkError::Replaced { name: shown(&name) });
            }
        }
        Ok(())
    }

    /// Removes this run's private directories, and part files of dead runs for the same files.
    fn clean(&self) {
        let run = std::mem::take(&mut *self.run.lock());
        let Run { reserved, part_names, mut privates, parts, open, .. } = run;
        drop((parts, open));
        if let Ok(tree) = self.tree()
            && !privates.contains_key(&tree.root().device)
            && private::any(tree.root())
            && let Ok(private) = PrivateDirectory::make(tree.root(), &reserved)
        {
            privates.insert(tree.root().device, Arc::new(private));
        }
        for private in privates.into_values().filter_map(Arc::into_inner) {
            for dead in private.dead(&reserved) {
                dead.discard_all(&part_names);
                dead.remove_if_old(&private);
            }
            private.remove();
        }
    }
}

impl Sink for LocalSink {
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        let mut presences = self.presences(plan)?;
        self.make_root()?;
        let directories = plan.directories.iter().map(|(name, _)| name);
        let names = plan.files.iter().map(|file| &file.name).chain(directories);
        *self.run.lock() = Run {
            reserved: private::reserved(names.map(Vec::as_slice)),
            part_names: plan.files.iter().map(|file| part_name(&file.name)).collect(),
            directories: plan.directories.to_vec(),
            ..Run::default()
        };
        for (name, _) in plan.directories {
            self.tree()?.make_directory(name)?;
        }
        self.adopt(plan.files, &mut presences)?;
        Ok(presences)
    }

    fn resume(&self, files: &[FileTarget]) -> Result<Vec<bool>, SinkError> {
        let mut presences = vec![Presence::Other; files.len()];
        self.adopt(files, &mut presences)?;
        Ok(presences.iter().map(|presence| *presence == Presence::Part).collect())
    }

    fn check_room(&self, missing: &[(&FileTarget, u64)]) -> Result<(), SinkError> {
        let tree = self.tree()?;
        let mut needed: BTreeMap<u64, (Arc<OwnedFd>, u64)> = BTreeMap::new();
        for (file, bytes) in missing {
            let home = tree.home(split(&file.name).0)?;
            needed.entry(home.device).or_insert((home.directory, 0)).1 += bytes;
        }
        for (directory, needed) in needed.into_values() {
            let stat = rustix::fs::fstatvfs(&directory)
                .map_err(|errno| failed("ask for the free space of", b".", errno))?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            // Some file systems report no size.
            if stat.f_blocks > 0 && needed > free {
                return Err(SinkError::NoRoom { needed, free });
            }
        }
        Ok(())
    }

    fn create(&self, file: &FileTarget) -> Result<(), SinkError> {
        let name = &file.name;
        let (_, private) = self.private(file)?;
        private.discard(name).map_err(|errno| failed("remove the part of", name, errno))?;
        let part = private
            .open(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(|errno| failed("create the part of", name, errno))?;
        let id = file_id(&part, name)?;
        let part = Arc::new(File::from(part));
        part.set_len(file.len).map_err(|error| wrapped("set length of", name, error))?;
        let mut run = self.run.lock();
        run.parts.insert(name.clone(), Part { private, id, is_fresh: true });
        run.open.files.remove(&(name.clone(), true));
        run.open.keep((name.clone(), true), &part);
        Ok(())
    }

    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError> {
        let opened = match from {
            Presence::Part => self.open_part(file)?.0,
            _ => self.open_final(file)?,
        };
        opened.read_exact_at(buffer, offset).map_err(|error| wrapped("read", &file.name, error))
    }

    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let (opened, part) = self.open_part(file)?;
        let written = match part.is_fresh {
            true => sparse::write(&opened, offset, bytes),
            // A part file of a killed run may contain anything.
            false => opened.write_all_at(bytes, offset),
        };
        written.map_err(|error| wrapped("write", &file.name, error))
    }

    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError> {
        let name = &file.name;
        let (opened, part) = self.open_part(file)?;
        set_mode_and_time(&opened, file)?;
        opened.sync_all().map_err(|error| wrapped("make durable", name, error))?;
        let (parent, leaf) = split(name);
        check_component(name, leaf)?;
        let tree = self.tree()?;
        let directory = tree.directory(parent, true)?;
        tree.changed(parent);
        match rename(part.private.descriptor(), &part_name(name), &directory, leaf, replace) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("rename the part of", name, errno)),
        }
        let id = self.settle(file, &opened, part.id, replace)?;
        part.private.discard(name).map_err(|errno| failed("remove the part of", name, errno))?;
        let mut run = self.run.lock();
        run.parts.remove(name);
        run.open.files.remove(&(name.clone(), true));
        run.open.files.remove(&(name.clone(), false));
        run.finals.insert(name.clone(), id);
        Ok(())
    }

    fn replaced(&self, files: &[FileTarget]) -> Result<Vec<usize>, SinkError> {
        let tree = self.tree()?;
        let mut replaced = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let Some(id) = self.run.lock().finals.get(&file.name).copied() else { continue };
            let gone = || SinkError::Replaced { name: file.shown() };
            let stat = tree.describe(&file.name)?.ok_or_else(gone)?;
            if FileId::of(&stat) == id {
                continue;
            }
            let mut run = self.run.lock();
            run.finals.remove(&file.name);
            run.open.files.remove(&(file.name.clone(), false));
            drop(run);
            let opened = self.open_final(file)?;
            let failed = |error| wrapped("make durable", &file.name, error);
            if opened.metadata().map_err(failed)?.len() != file.len {
                return Err(gone());
            }
            opened.sync_all().map_err(failed)?;
            tree.changed(split(&file.name).0);
            replaced.push(index);
        }
        Ok(replaced)
    }

    fn complete(&self) -> Result<(), SinkError> {
        let tree = self.tree()?;
        tree.sync()?;
        self.check_names()?;
        let directories = std::mem::take(&mut self.run.lock().directories);
        self.clean();
        // The deepest first, because a mode may block access to the directories below.
        for (name, mode) in directories.iter().rev() {
            tree.set_directory_mode(name, *mode)?;
        }
        self.made.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for LocalSink {
    /// Part files stay for the next run. Empty directories are removed.
    fn drop(&mut self) {
        let run = std::mem::take(&mut *self.run.lock());
        drop((run.parts, run.open));
        let privates = run.privates.into_values().filter_map(Arc::into_inner);
        privates.for_each(PrivateDirectory::remove_if_empty);
        if self.made.load(Ordering::Relaxed) {
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

fn file_id(file: &impl AsFd, name: &[u8]) -> Result<FileId, SinkError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed("look at", name, errno))?;
    Ok(FileId::of(&stat))
}

fn set_mode_and_time(part: &File, file: &FileTarget) -> Result<(), SinkError> {
    // Set-id bits from another machine are meaningless here and dangerous.
    rustix::fs::fchmod(part, Mode::from_raw_mode(file.mode & 0o777))
        .map_err(|errno| failed("set mode of", &file.name, errno))?;
    let time = Timespec {
        tv_sec: file.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: file.mtime_ns.rem_euclid(1_000_000_000) as _,
    };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(part, &times).map_err(|errno| failed("set time of", &file.name, errno))
}

fn same_bytes(part: &File, other: &File, file: &FileTarget) -> Result<bool, SinkError> {
    let failed = |error| wrapped("compare", &file.name, error);
    if other.metadata().map_err(failed)?.len() != file.len {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut at = 0;
    while at < file.len {
        let len = (file.len - at).min(COMPARE_BYTES as u64) as usize;
        part.read_exact_at(&mut ours[..len], at).map_err(failed)?;
        other.read_exact_at(&mut theirs[..len], at).map_err(failed)?;
        if ours[..len] != theirs[..len] {
            return Ok(false);
        }
        at += len as u64;
    }
    Ok(true)
}
