//! Page-aligned memory for direct IO, and a pool of block-sized pieces of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cairn_types::limits::BLOCK_BYTES;
use parking_lot::Mutex;

use super::DIRECT_ALIGN;

/// Usable bytes of a pooled buffer: one block.
pub const BUFFER_BYTES: usize = BLOCK_BYTES as usize;
/// Free buffers kept for reuse, enough for a few parallel uploads and restores. More may be in use
/// at a time; admission limits those.
const FREE_MAX: usize = 32;

/// Zeroed memory whose address is a multiple of [`DIRECT_ALIGN`].
pub struct AlignedBuffer {
    /// One alignment longer than requested. It never grows, so its address never changes.
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    pub fn zeroed(len: usize) -> Self {
        let storage = vec![0; len + DIRECT_ALIGN];
        let address = storage.as_ptr().addr();
        let start = address.next_multiple_of(DIRECT_ALIGN) - address;
        Self { storage, start, len }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }
}

/// Hands out buffers of [`BUFFER_BYTES`] and takes them back.
#[derive(Default)]
pub struct BufferPool {
    free: Mutex<Vec<AlignedBuffer>>,
}

impl BufferPool {
    /// A buffer with unspecified (but initialised) contents.
    pub fn take(self: &Arc<Self>) -> PooledBuffer {
        let buffer = self.free.lock().pop();
        let buffer = buffer.unwrap_or_else(|| AlignedBuffer::zeroed(BUFFER_BYTES));
        PooledBuffer { buffer: Some(buffer), pool: Arc::clone(self) }
    }
}

/// A buffer that returns to its pool when dropped.
pub struct PooledBuffer {
    /// Taken only by `drop`.
    buffer: Option<AlignedBuffer>,
    pool: Arc<BufferPool>,
}

impl Deref for PooledBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let mut free = self.pool.free.lock();
            if free.len() < FREE_MAX {
                free.push(buffer);
            }
        }
    }
}
