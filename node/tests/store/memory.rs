//! A disk in memory that fails where a test tells it to. It does not model durability: the
//! simulator's disk does.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use cairn_node::disk::{Disk, DiskFile, Listed, Open, Space, Standing};
use parking_lot::Mutex;

/// Given operation and path, the error it shall fail with.
type Fault = Box<dyn FnMut(&str, &str) -> Option<io::Error> + Send>;
type Content = Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, (u64, Content)>,
    directories: BTreeSet<String>,
    inodes: u64,
    full: u64,
    /// What the disk says it has left; without a bound if nothing is set.
    free_inodes: Option<u64>,
}

impl MemoryDisk {
    /// From now on, `fault` decides.
    pub fn fail(&self, fault: impl FnMut(&str, &str) -> Option<io::Error> + Send + 'static) {
        *self.fault.lock() = Some(Box::new(fault));
    }

    /// Fails every `operation` on paths that start with `prefix`.
    pub fn fail_on(&self, operation: &'static str, prefix: &'static str, errno: i32) {
        self.fail(move |now, path| {
            (now == operation && path.starts_with(prefix))
                .then(|| io::Error::from_raw_os_error(errno))
        });
    }

    pub fn heal(&self) {
        *self.fault.lock() = None;
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().files.keys().cloned().collect()
    }

    /// Copies a file to a new inode, as copying a directory does.
    pub fn copy(&self, path: &str) {
        let mut state = self.state.lock();
        state.inodes += 1;
        let inode = state.inodes;
        let bytes = state.files[path].1.lock().clone();
        state.files.insert(path.into(), (inode, Arc::new(Mutex::new(bytes))));
    }

    /// So many files more can be made, the disk says.
    pub fn leave_inodes(&self, count: Option<u64>) {
        self.state.lock().free_inodes = count;
    }

    /// Bytes of the disk that something else takes.
    pub fn fill(&self, bytes: u64) {
        self.state.lock().full = bytes;
    }

    fn check(&self, operation: &str, path: &str) -> io::Result<()> {
        let mut fault = self.fault.lock();
        fault.as_mut().and_then(|fault| fault(operation, path)).map_or(Ok(()), Err)
    }
}

const TOTAL: u64 = 1 << 30;

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>> {
        self.check("open", path)?;
        let mut state = self.state.lock();
        if matches!(how, Open::Create | Open::CreateSecret | Open::CreateDirect) {
            if state.files.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.inodes += 1;
            let inode = state.inodes;
            state.files.insert(path.into(), (inode, Content::default()));
        }
        let content = Arc::clone(&state.files.get(path).ok_or_else(not_found)?.1);
        Ok(Box::new(MemoryFile { disk: self.clone(), path: path.into(), content }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.check("rename", from)?;
        let mut state = self.state.lock();
        let file = state.files.remove(from).ok_or_else(not_found)?;
        state.files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.check("remove", path)?;
        self.state.lock().files.remove(path).map(|_| ()).ok_or_else(not_found)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.check("create_dir", path)?;
        self.state.lock().directories.insert(path.into());
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.check("sync_dir", path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<Listed>> {
        self.check("list", path)?;
        let state = self.state.lock();
        let inside = |name: &str| {
            let name = name.strip_prefix(path)?.strip_prefix('/')?;
            (!name.contains('/')).then(|| name.to_owned())
        };
        let files = state.files.iter().filter_map(|(name, (_, content))| {
            let len = content.lock().len() as u64;
            Some(Listed { name: inside(name)?, len, is_dir: false })
        });
        let directories = state.directories.iter();
        let directories = directories
            .filter_map(|name| Some(Listed { name: inside(name)?, len: 0, is_dir: true }));
        let mut listed: Vec<_> = files.chain(directories).collect();
        listed.sort();
        Ok(listed)
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let state = self.state.lock();
        Ok(state.files.contains_key(path) || state.directories.contains(path))
    }

    fn stat(&self, path: &str) -> io::Result<Standing> {
        self.check("stat", path)?;
        let state = self.state.lock();
        if state.directories.contains(path) {
            return Ok(Standing { len: 0, is_file: false });
        }
        let (_, content) = state.files.get(path).ok_or_else(not_found)?;
        Ok(Standing { len: content.lock().len() as u64, is_file: true })
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        let used: u64 = state.files.values().map(|(_, content)| content.lock().len() as u64).sum();
        let available = TOTAL.saturating_sub(used + state.full);
        Ok(Space { total: TOTAL, available, inodes: state.free_inodes.unwrap_or(u64::MAX) })
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        self.state.lock().files.get(path).map(|(inode, _)| *inode).ok_or_else(not_found)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    path: String,
    content: Content,
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.check("read", &self.path)?;
        let content = self.content.lock();
        let start = offset as usize;
        let from = content.get(start..start + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.check("write", &self.path)?;
        let mut content = self.content.lock();
        let end = offset as usize + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.check("set_len", &self.path)?;
        self.content.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.check("sync", &self.path)
    }
}
