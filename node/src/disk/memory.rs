//! A disk in memory for tests. Everything is durable at once, and errors happen only on request.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Disk, DiskFile, Listed, Open, Space, Standing};

#[derive(Default)]
pub struct MemoryDisk {
    /// By path. `None` is a directory.
    entries: Mutex<BTreeMap<String, Option<Arc<MemoryFile>>>>,
    broken: Arc<AtomicBool>,
    space: Arc<MemorySpace>,
}

#[derive(Default)]
struct MemoryFile {
    bytes: Mutex<Vec<u8>>,
    /// The pages written so far: the space of a sparse file.
    pages: Mutex<BTreeSet<u64>>,
    broken: Arc<AtomicBool>,
    space: Arc<MemorySpace>,
}

struct MemorySpace {
    total: AtomicU64,
    used: AtomicU64,
}

impl Default for MemorySpace {
    fn default() -> Self {
        Self { total: AtomicU64::new(1 << 40), used: AtomicU64::new(0) }
    }
}

const PAGE: u64 = 4096;

impl MemoryFile {
    /// Takes space for a write.
    fn charge(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut pages = self.pages.lock();
        for page in offset / PAGE..(offset + len).div_ceil(PAGE) {
            if !pages.contains(&page) {
                let used = self.space.used.load(Ordering::Relaxed);
                if used + PAGE > self.space.total.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.space.used.store(used + PAGE, Ordering::Relaxed);
                pages.insert(page);
            }
        }
        Ok(())
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let bytes = self.pages.lock().len() as u64 * PAGE;
        self.space.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct Handle(Arc<MemoryFile>);

fn check(broken: &AtomicBool) -> io::Result<()> {
    match broken.load(Ordering::Relaxed) {
        true => Err(io::Error::other("injected input/output error")),
        false => Ok(()),
    }
}

fn missing(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {path}"))
}

impl MemoryDisk {
    /// From now on writes and syncs fail, as on a failed disk.
    pub fn break_writes(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// From now on only `bytes` more can be written.
    pub fn leave_room(&self, bytes: u64) {
        let used = self.space.used.load(Ordering::Relaxed);
        self.space.total.store(used + bytes, Ordering::Relaxed);
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        let mut entries = self.entries.lock();
        let file = match how {
            Open::Create | Open::CreateSecret | Open::CreateDirect => {
                check(&self.broken)?;
                if entries.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                let file = Arc::new(MemoryFile {
                    bytes: Mutex::default(),
                    pages: Mutex::default(),
                    broken: self.broken.clone(),
                    space: self.space.clone(),
                });
                entries.insert(path.into(), Some(file.clone()));
                file
            }
            _ => entries.get(path).cloned().flatten().ok_or_else(|| missing(path))?,
        };
        Ok(Box::new(Handle(file)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check(&self.broken)?;
        let mut entries = self.entries.lock();
        let file = entries.remove(from).ok_or_else(|| missing(from))?;
        entries.insert(to.into(), file);
        Ok(())
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.entries.lock().remove(path).map(drop).ok_or_else(|| missing(path))
    }
    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.entries.lock().entry(path.into()).or_insert(None);
        Ok(())
    }
    fn sync_dir(&self, _path: &str) -> io::Result<()> {
        check(&self.broken)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let entries = self.entries.lock();
        let inside = entries.iter().filter_map(|(full, file)| {
            let name = full.strip_prefix(&prefix)?;
            if name.contains('/') {
                return None;
            }
            let len = file.as_ref().map_or(0, |file| file.bytes.lock().len() as u64);
            Some(Listed { name: name.into(), len, is_dir: file.is_none() })
        });
        Ok(inside.collect())
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.entries.lock().contains_key(path))
    }
    fn stat(&self, path: &str) -> io::Result<Standing> {
        let entries = self.entries.lock();
        let found = entries.get(path).ok_or_else(|| missing(path))?;
        let len = found.as_ref().map_or(0, |file| file.bytes.lock().len() as u64);
        Ok(Standing { len, is_file: found.is_some() })
    }
    fn space(&self) -> io::Result<Space> {
        let total = self.space.total.load(Ordering::Relaxed);
        let used = self.space.used.load(Ordering::Relaxed);
        Ok(Space { total, available: total.saturating_sub(used), inodes: u64::MAX })
    }
    fn inode(&self, path: &str) -> io::Result<u64> {
        let entries = self.entries.lock();
        let file = entries.get(path).cloned().flatten().ok_or_else(|| missing(path))?;
        Ok(Arc::as_ptr(&file) as u64)
    }
}

impl DiskFile for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.bytes.lock().len() as u64)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let source = bytes.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(source);
        Ok(())
    }
    fn write_at(&self, offset: u64, source: &[u8]) -> io::Result<()> {
        check(&self.0.broken)?;
        self.0.charge(offset, source.len() as u64)?;
        let mut bytes = self.0.bytes.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + source.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(source);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        check(&self.0.broken)?;
        self.0.bytes.lock().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        check(&self.0.broken)
    }
}
