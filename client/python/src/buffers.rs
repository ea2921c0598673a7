//! Bytes that belong to Python objects: `bytes`, `bytearray`, `memoryview`, arrays. They are read and
//! written in place, without the GIL, while the buffer protocol keeps them where they are.
//!
//! Python code may change such bytes during a call; then it is not defined which of them are stored.
//! What is stored has one digest all the same: the SDK copies a segment before it hashes it.

use std::collections::BTreeMap;

use cairn_client::ClientError;
use cairn_client::source::{Source, SourceEntry, SourceError};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The bytes of an object that has the buffer protocol.
pub(crate) struct Buffer(PyUntypedBuffer);

impl Buffer {
    /// Refuses what does not lie in one piece.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        match buffer.is_c_contiguous() {
            true => Ok(Self(buffer)),
            false => Err(PyValueError::new_err("the buffer is not contiguous: make a copy of it")),
        }
    }

    /// Refuses what is read-only, too.
    pub(crate) fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = Self::of(object)?;
        match buffer.0.readonly() {
            true => Err(PyValueError::new_err("the buffer is read-only")),
            false => Ok(buffer),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len_bytes()
    }

    /// Copies `into.len()` bytes from `at` on. Returns false if there are fewer.
    pub(crate) fn copy_to(&self, at: usize, into: &mut [u8]) -> bool {
        if at.checked_add(into.len()).is_none_or(|end| end > self.len()) {
            return false;
        }
        if !into.is_empty() {
            // SAFETY: the range is within the buffer, which stays in place until it is released.
            unsafe {
                let from = self.0.buf_ptr().cast::<u8>().add(at);
                std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
            }
        }
        true
    }

    /// Copies `bytes` to `at`. Returns false if there is not enough room. The buffer must be from
    /// [`Buffer::writable`].
    pub(crate) fn copy_from(&self, at: usize, bytes: &[u8]) -> bool {
        let fits = at.checked_add(bytes.len()).is_some_and(|end| end <= self.len());
        if !fits || self.0.readonly() {
            return false;
        }
        if !bytes.is_empty() {
            // SAFETY: the range is within the buffer, which is writable and stays in place until it
            // is released.
            unsafe {
                let to = self.0.buf_ptr().cast::<u8>().add(at);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
            }
        }
        true
    }
}

/// Files whose contents are Python objects.
pub(crate) struct BufferSource {
    entries: Vec<SourceEntry>,
    buffers: Vec<Buffer>,
}

impl BufferSource {
    /// The mode is 0644 and the modification time zero, so that the same content is the same again.
    pub(crate) fn new(files: BTreeMap<String, Bound<'_, PyAny>>) -> PyResult<Self> {
        let mut source = Self { entries: Vec::new(), buffers: Vec::new() };
        for (name, object) in files {
            let buffer = Buffer::of(&object)?;
            let (name, len) = (name.into_bytes(), buffer.len() as u64);
            source.entries.push(SourceEntry { name, mode: 0o644, mtime_ns: 0, len });
            source.buffers.push(buffer);
        }
        Ok(source)
    }
}

impl Source for BufferSource {
    fn entries(&self) -> &[SourceEntry] {
        &self.entries
    }

    fn read_at(&self, index: usize, offset: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        match self.buffers[index].copy_to(at, buffer) {
            true => Ok(()),
            false => Err(SourceError::Changed {
                path: String::from_utf8_lossy(&self.entries[index].name).into_owned(),
            }),
        }
    }
}

/// Checks the names as those of files on a disk are checked.
pub(crate) fn check_names(source: &dyn Source) -> Result<(), ClientError> {
    let mut names = source.entries().iter().map(|entry| &entry.name);
    names.try_for_each(|name| cairn_client::source::check_name(name))?;
    Ok(())
}
