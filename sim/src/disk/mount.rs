//! The disk seam on a simulated disk. A mount and its files belong to one life of the process.
//! After a crash they return only errors, so that drops in a dead process cannot write.

use std::hash::Hash;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_node::disk::{DIRECT_ALIGN, Disk, DiskFile, Listed, Open, Space, Standing};
use parking_lot::{Mutex, MutexGuard};

use super::faults::{On, PLENTY, enospc};
use super::state::{Dir, File, Ino, Inode, Write};
use super::{SimDisk, State};
use crate::trace;

/// A [`SimDisk`] as one life of a process sees it.
#[derive(Clone)]
pub struct Mount {
    state: Arc<Mutex<State>>,
    generation: u64,
}

struct Handle {
    mount: Mount,
    ino: Ino,
    path: String,
    writable: bool,
    direct: bool,
}

impl Mount {
    pub(super) fn new(disk: &SimDisk) -> Self {
        Self { state: disk.state.clone(), generation: disk.state.lock().generation }
    }

    /// Locks the disk for one operation, unless this life is over or a fault strikes.
    fn operate(&self, on: On, path: &str) -> io::Result<MutexGuard<'_, State>> {
        let mut guard = self.state.lock();
        if guard.generation != self.generation {
            return Err(io::Error::other("power is off"));
        }
        guard.ops += 1;
        let state = &mut *guard;
        (on as u8, path).hash(&mut state.doings);
        let checked = state.faults.check(state.ops, on, path, &mut state.chance_faults);
        if checked.is_err() && on == On::Sync {
            state.failed_syncs += 1;
            state.sync_failed = true;
        }
        state.name_failed |= checked.is_err() && on == On::Names;
        checked?;
        Ok(guard)
    }
}

impl State {
    fn note_name(&mut self) {
        self.cost.names += 1;
        self.names += 1;
    }

    /// A copy of `bytes`, or the last one if they are equal. So a file filled with the same piece
    /// repeatedly is in memory once.
    fn shared(&mut self, bytes: &[u8]) -> Bytes {
        if self.last_written != bytes {
            self.last_written = Bytes::copy_from_slice(bytes);
        }
        self.last_written.clone()
    }

    fn parent<'a>(&self, path: &'a str) -> io::Result<(Ino, &'a str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let ino = self.tree.find(dir).ok_or_else(|| missing(dir))?;
        match self.tree.inodes.get(&ino) {
            Some(Inode::Dir(_)) if !name.is_empty() => Ok((ino, name)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("bad path {path:?}"))),
        }
    }

    fn file(&mut self, ino: Ino, path: &str) -> io::Result<&mut File> {
        match self.tree.inodes.get_mut(&ino) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            None => Err(missing(path)),
        }
    }
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {path:?}"))
}

impl Disk for Mount {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let creates = matches!(how, Open::Create | Open::CreateSecret | Open::CreateDirect);
        let mut state = self.operate(if creates { On::Names } else { On::Read }, path)?;
        let ino = match (state.tree.find(path), creates) {
            (Some(_), true) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(ino), false) => ino,
            (None, false) => return Err(missing(path)),
            (None, true) => {
                let (dir, name) = state.parent(path)?;
                state.note_name();
                state.tree.create(dir, name, Inode::File(File::default()))
            }
        };
        state.file(ino, path)?.handles += 1;
        let writable = !matches!(how, Open::Read | Open::ReadDirect);
        let direct = how == Open::CreateDirect;
        Ok(Box::new(Handle { mount: self.clone(), ino, path: path.to_owned(), writable, direct }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.operate(On::Names, to)?;
        from.hash(&mut state.doings);
        let ino = state.tree.find(from).ok_or_else(|| missing(from))?;
        let (old, new) = (state.parent(from)?, state.parent(to)?);
        if let Some(target) = state.tree.find(to)
            && matches!(state.tree.inodes.get(&target), Some(Inode::Dir(_)))
        {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        state.note_name();
        state.tree.rename(old, new, ino);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.operate(On::Names, path)?;
        let ino = state.tree.find(path).ok_or_else(|| missing(path))?;
        if let Some(Inode::Dir(dir)) = state.tree.inodes.get(&ino)
            && !dir.current.is_empty()
        {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        let (dir, name) = state.parent(path)?;
        state.note_name();
        state.tree.remove(dir, name);
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.operate(On::Names, path)?;
        match state.tree.find(path).map(|ino| state.tree.inodes.get(&ino)) {
            Some(Some(Inode::Dir(_))) => return Ok(()),
            Some(_) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            None => {}
        }
        let (dir, name) = state.parent(path)?;
        state.note_name();
        state.tree.create(dir, name, Inode::Dir(Dir::default()));
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.operate(On::Sync, path)?;
        let ino = state.tree.find(path).ok_or_else(|| missing(path))?;
        state.cost.syncs += 1;
        state.tree.sync(ino);
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let mut state = self.operate(On::Names, path)?;
        state.cost.reads += 1;
        let ino = state.tree.find(path).ok_or_else(|| missing(path))?;
        let Some(Inode::Dir(dir)) = state.tree.inodes.get(&ino) else {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        };
        let listed = dir.current.iter().map(|(name, ino)| {
            let (len, is_dir) = match state.tree.inodes.get(ino) {
                Some(Inode::File(file)) => (file.current.len(), false),
                _ => (0, true),
            };
            Listed { name: name.clone(), len, is_dir }
        });
        Ok(listed.collect())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.operate(On::Read, path)?.tree.find(path).is_some())
    }

    fn stat(&self, path: &str) -> io::Result<Standing> {
        let state = self.operate(On::Read, path)?;
        let ino = state.tree.find(path).ok_or_else(|| missing(path))?;
        Ok(match state.tree.inodes.get(&ino) {
            Some(Inode::File(file)) => Standing { len: file.current.len(), is_file: true },
            _ => Standing { len: 0, is_file: false },
        })
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.operate(On::Read, "")?;
        // Without a capacity the used space does not matter, and counting it takes time.
        let Some(total) = state.faults.capacity else {
            return Ok(Space { total: PLENTY, available: PLENTY, inodes: u64::MAX });
        };
        let available = total.saturating_sub(state.tree.used());
        Ok(Space { total, available, inodes: u64::MAX })
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        let state = self.operate(On::Read, path)?;
        let ino = state.tree.find(path).ok_or_else(|| missing(path))?;
        Ok(state.inode_base + ino)
    }
}

impl Handle {
    fn check_direct(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let aligned = |value: usize| value.is_multiple_of(DIRECT_ALIGN);
        if self.direct
            && !(aligned(offset as usize)
                && aligned(bytes.len())
                && aligned(bytes.as_ptr() as usize))
        {
            let text = format!("unaligned direct write to {:?} at {offset}", self.path);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{:?} read only", self.path)))
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.mount.operate(On::Read, &self.path)?;
        Ok(state.file(self.ino, &self.path)?.current.len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.mount.operate(On::Read, &self.path)?;
        state.cost.reads += 1;
        state.cost.bytes_read += buf.len() as u64;
        (offset, buf.len()).hash(&mut state.doings);
        if !state.file(self.ino, &self.path)?.current.read(offset, buf) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        self.check_direct(offset, bytes)?;
        let mut state = self.mount.operate(On::Write, &self.path)?;
        let growth = state.file(self.ino, &self.path)?.current.growth(offset, bytes.len());
        // Counting the used space takes time.
        if growth > 0
            && state.faults.has_bound()
            && state.faults.is_full(state.tree.used() + growth)
        {
            trace::count("disk.enospc", 1);
            return Err(enospc());
        }
        let strayed = state.faults.misdirect.take_if(|prefix| self.path.starts_with(&**prefix));
        let offset = if strayed.is_some() { offset + 4096 } else { offset };
        trace::count("disk.misdirected_writes", u64::from(strayed.is_some()));
        if strayed.is_some() {
            state.misdirected.insert(self.ino);
        }
        state.cost.writes += 1;
        state.cost.bytes_written += bytes.len() as u64;
        (offset, bytes).hash(&mut state.doings);
        let bytes = state.shared(bytes);
        state.tree.write(self.ino, Write::Bytes { offset, bytes });
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut state = self.mount.operate(On::Write, &self.path)?;
        state.file(self.ino, &self.path)?;
        state.cost.writes += 1;
        len.hash(&mut state.doings);
        state.tree.write(self.ino, Write::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        match self.mount.operate(On::Sync, &self.path) {
            Ok(mut state) => {
                state.cost.syncs += 1;
                state.tree.sync(self.ino);
                Ok(())
            }
            Err(error) => {
                let mut state = self.mount.state.lock();
                if state.generation == self.mount.generation {
                    let file = state.file(self.ino, &self.path)?;
                    trace::count("disk.dropped_by_failed_sync", file.pending.len() as u64);
                    file.pending.clear();
                }
                Err(error)
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.mount.state.lock();
        if state.generation == self.mount.generation
            && let Some(Inode::File(file)) = state.tree.inodes.get_mut(&self.ino)
        {
            file.handles = file.handles.saturating_sub(1);
        }
    }
}
