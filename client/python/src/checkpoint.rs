//! An open checkpoint, and reads of its files.

use std::io::SeekFrom;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::stream::TryStreamExt;
use cairn_client::{ClientError, FileReader, OpenCheckpoint};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::Mutex;

use crate::buffers::Buffer;
use crate::call::Call;
use crate::core::object;
use crate::failure::exception;
use crate::records;
use crate::runtime::Own;

/// A checkpoint that was resolved once.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct Checkpoint {
    opened: Own<OpenCheckpoint>,
}

impl Checkpoint {
    pub(crate) fn new(opened: OpenCheckpoint) -> Self {
        Self { opened: Own::new(opened) }
    }

    fn opened(&self, py: Python<'_>) -> PyResult<Arc<OpenCheckpoint>> {
        self.opened.get().ok_or_else(|| of_parent(py))
    }
}

/// The Python layer opens it again in a child; this is for those who bypass it.
fn of_parent(py: Python<'_>) -> PyErr {
    crate::failure::invalid(py, &"it was opened before a fork, in the parent process")
}

#[pymethods]
impl Checkpoint {
    fn info(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        object(py, records::Checkpoint::of(self.opened(py)?.info()))
    }

    /// Name and length of each file. A name that is not UTF-8 has `\u{FFFD}` in it, and cannot be read.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<(String, u64)>> {
        let opened = self.opened(py)?;
        let named = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Ok(opened.files().map(|file| (named(&file.name), file.len)).collect())
    }

    /// The BLAKE3 digests of the segments that a file consists of, with the range of each.
    fn extents(&self, py: Python<'_>, name: &str) -> PyResult<Vec<(String, u32, u32)>> {
        let opened = self.opened(py)?;
        let mut files = opened.files();
        let Some(file) = files.find(|file| file.name == name.as_bytes()) else {
            let error = opened.reader(name).err().unwrap_or(ClientError::Cancelled);
            return Err(exception(py, &error));
        };
        let extents = file.extents.iter();
        Ok(extents.map(|it| (it.digest.to_string(), it.segment_offset, it.len)).collect())
    }

    /// Bytes of one file as `bytes`.
    fn read(&self, py: Python<'_>, name: &str, start: u64, end: u64) -> PyResult<Call> {
        let opened = self.opened(py)?;
        let stream = opened.bytes(name, start..end).map_err(|error| exception(py, &error))?;
        Call::start(py, stream.try_collect::<Vec<Bytes>>(), |py, chunks| {
            let len = chunks.iter().map(Bytes::len).sum();
            let bytes = PyBytes::new_with(py, len, |mut rest| {
                for chunk in &chunks {
                    let (place, after) = rest.split_at_mut(chunk.len());
                    place.copy_from_slice(chunk);
                    rest = after;
                }
                Ok(())
            })?;
            Ok(bytes.into_any().unbind())
        })
    }

    /// Bytes of one file into a buffer, as many as it has room for. The result is their number.
    fn read_into(
        &self,
        py: Python<'_>,
        name: &str,
        start: u64,
        into: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let buffer = Buffer::writable(into)?;
        let end = start.saturating_add(buffer.len() as u64);
        let opened = self.opened(py)?;
        let mut stream = opened.bytes(name, start..end).map_err(|error| exception(py, &error))?;
        let work = async move {
            let mut at = 0;
            while let Some(chunk) = stream.try_next().await? {
                if !buffer.copy_from(at, &chunk) {
                    let message = "the buffer became smaller".to_owned();
                    return Err(ClientError::Panicked { message });
                }
                at += chunk.len();
            }
            Ok(at)
        };
        Call::start(py, work, |py, it| object(py, it))
    }

    /// A file to be read from front to back.
    fn file(&self, py: Python<'_>, name: &str) -> PyResult<File> {
        let reader = self.opened(py)?.reader(name).map_err(|error| exception(py, &error))?;
        Ok(File { len: reader.len(), reader: Own::new(Mutex::new(reader)) })
    }
}

/// Bytes of a file that one call copies at most.
const STEP_BYTES: usize = 1 << 20;

/// A file with a position; reads ahead while it is read in order.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct File {
    len: u64,
    reader: Own<Mutex<FileReader>>,
}

#[pymethods]
impl File {
    fn __len__(&self) -> usize {
        usize::try_from(self.len).unwrap_or(usize::MAX)
    }

    /// Fills a buffer from `position` on. The result is the number of bytes, less than asked for at
    /// the end of the file only.
    fn read_into(&self, py: Python<'_>, position: u64, into: &Bound<'_, PyAny>) -> PyResult<Call> {
        let buffer = Buffer::writable(into)?;
        let reader = self.reader.get().ok_or_else(|| of_parent(py))?;
        let work = async move {
            let mut reader = reader.lock().await;
            if reader.position() != position {
                reader.seek(SeekFrom::Start(position)).await.map_err(inner)?;
            }
            let mut piece = vec![0; STEP_BYTES.min(buffer.len())];
            let mut at = 0;
            while at < buffer.len() {
                let wanted = piece.len().min(buffer.len() - at);
                let count = reader.read(&mut piece[..wanted]).await.map_err(inner)?;
                if count == 0 || !buffer.copy_from(at, &piece[..count]) {
                    break;
                }
                at += count;
            }
            Ok(at)
        };
        Call::start(py, work, |py, it| object(py, it))
    }
}

/// The SDK's error within an error of a stream.
pub(crate) fn inner(error: std::io::Error) -> ClientError {
    let text = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<ClientError>()) {
        Some(Ok(inner)) => *inner,
        _ => ClientError::Malformed { what: "read file".to_owned(), problem: text },
    }
}
