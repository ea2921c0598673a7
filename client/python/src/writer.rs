//! A file that is written piece by piece.

use std::sync::Arc;

use cairn_client::{ClientError, FileWriter};
use pyo3::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use crate::buffers::Buffer;
use crate::call::Call;
use crate::core::object;
use crate::records;
use crate::runtime::Own;

/// Bytes of a buffer that are copied at once.
const STEP_BYTES: usize = 1 << 20;

/// One file of a new checkpoint, or of a part of one. Dropped before [`Writer::finish`] it commits
/// nothing.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct Writer {
    writer: Own<Mutex<Option<FileWriter>>>,
}

impl Writer {
    pub(crate) fn new(writer: FileWriter) -> Self {
        Self { writer: Own::new(Mutex::new(Some(writer))) }
    }

    fn writer(&self, py: Python<'_>) -> PyResult<Arc<Mutex<Option<FileWriter>>>> {
        let text = "it was opened before a fork, in the parent process";
        self.writer.get().ok_or_else(|| crate::failure::invalid(py, &text))
    }
}

#[pymethods]
impl Writer {
    /// Takes all bytes of a buffer. The result is their number. Waits while the cluster is slower
    /// than the writer.
    fn write(&self, py: Python<'_>, bytes: &Bound<'_, PyAny>) -> PyResult<Call> {
        let buffer = Buffer::of(bytes)?;
        let writer = self.writer(py)?;
        let work = async move {
            let mut writer = writer.lock().await;
            let mut piece = vec![0; STEP_BYTES.min(buffer.len())];
            let mut at = 0;
            while at < buffer.len() {
                let count = piece.len().min(buffer.len() - at);
                if !buffer.copy_to(at, &mut piece[..count]) {
                    return Err(ClientError::Cancelled);
                }
                let open = writer.as_mut().ok_or(ClientError::Cancelled)?;
                if open.write_all(&piece[..count]).await.is_err() {
                    // The end of the upload says why.
                    let failed = writer.take().ok_or(ClientError::Cancelled)?;
                    return Err(failed.finish().await.err().unwrap_or(ClientError::Cancelled));
                }
                at += count;
            }
            Ok(at)
        };
        Call::start(py, work, |py, it| object(py, it))
    }

    /// Sends the rest and seals.
    fn finish(&self, py: Python<'_>) -> PyResult<Call> {
        let writer = self.writer(py)?;
        let work = async move {
            let writer = writer.lock().await.take().ok_or(ClientError::Cancelled)?;
            writer.finish().await
        };
        Call::start(py, work, |py, report| object(py, records::Put::of(&report)))
    }

    /// Gives it up: nothing is committed.
    fn discard(&self, py: Python<'_>) -> PyResult<Call> {
        let writer = self.writer(py)?;
        let work = async move {
            drop(writer.lock().await.take());
            Ok(())
        };
        Call::start(py, work, |py, ()| Ok(py.None()))
    }
}
