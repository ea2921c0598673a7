//! The disk seam: the file system operations that a node uses.
//!
//! Two implementations: [`files`] (production) and the simulator's disk, which distinguishes
//! written from durable bytes. All calls block and are made only inside `Env::blocking` jobs. Paths
//! are relative to the node's data directory, with `/` separators.
//!
//! Durability contract: bytes are durable after [`DiskFile::sync`], a name (create, rename,
//! remove) after [`Disk::sync_dir`] of its directory. Any error from either stops the node.

use std::io;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Existing file, read only.
    Read,
    /// Existing file, read without the page cache if the platform can (scrub, verification).
    ReadDirect,
    /// Existing file, read and write.
    Write,
    /// New file, read and write; fails with `AlreadyExists`.
    Create,
    /// As `Create`; only its owner may read it.
    CreateSecret,
    /// New file, written without the page cache if the platform can. Offsets, lengths and buffer
    /// addresses of writes are multiples of [`DIRECT_ALIGN`].
    CreateDirect,
}

/// Alignment of offsets, lengths and memory for direct IO, in bytes.
pub const DIRECT_ALIGN: usize = 4096;

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: String,
    /// Length in bytes (0 for a directory).
    pub len: u64,
    pub is_dir: bool,
}

/// The kind of object at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Length in bytes. Zero for anything but a regular file.
    pub len: u64,
    pub is_file: bool,
}

/// Room of the file system that holds the data directory: bytes, and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub available: u64,
    /// Files that can still be made. `u64::MAX` if the file system sets no limit.
    pub inodes: u64,
}

pub trait Disk: Send + Sync + 'static {
    /// Opens a regular file. Anything else at the path is an error (`InvalidData`). The call never
    /// waits as opening a FIFO would.
    fn open(&self, path: &str, how: Open) -> io::Result<Box<dyn DiskFile>>;
    /// Atomically replaces `to` if it exists.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Creates one directory; an existing one is not an error.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in `path` ("" = the data directory) durable. After an
    /// error [`is_out_of_descriptors`] of the open the call may be tried again. `NotFound` means
    /// that the directory does not exist. Any other error is a failed sync.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Entries sorted by name.
    fn list(&self, path: &str) -> io::Result<Vec<Listed>>;
    fn exists(&self, path: &str) -> io::Result<bool>;
    /// The object at a path, without opening it. A symbolic link is not followed. `NotFound` if
    /// there is none.
    fn stat(&self, path: &str) -> io::Result<Standing>;
    fn space(&self) -> io::Result<Space>;
    /// The file's inode number, which distinguishes an original from a copy.
    fn inode(&self, path: &str) -> io::Result<u64>;
}

/// An open file. Positioned IO only; one handle may be shared.
#[allow(clippy::len_without_is_empty, reason = "a length that must be asked of the disk")]
pub trait DiskFile: Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    /// Fills `buf` or fails with `UnexpectedEof`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
}

/// Whether an open failed because this process, or the machine, has no descriptors left. The error
/// says nothing about the disk, and a sync never fails with it.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let out = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    out.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

pub mod buffers;
pub mod files;
#[cfg(test)]
pub mod memory;
pub mod redb_file;
