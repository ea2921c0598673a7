//! What happens to checkpoints.

use cairn_client::stream::{BoxStream, StreamExt};
use cairn_client::{ClientError, Watched};
use pyo3::prelude::*;
use tokio::sync::Mutex;

use crate::call::Call;
use crate::core::object;
use crate::records::Told;
use crate::runtime::Own;

/// A watch without end.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct Watch {
    stream: Own<Mutex<BoxStream<'static, Result<Watched, ClientError>>>>,
}

impl Watch {
    pub(crate) fn new(stream: BoxStream<'static, Result<Watched, ClientError>>) -> Self {
        Self { stream: Own::new(Mutex::new(stream)) }
    }
}

#[pymethods]
impl Watch {
    /// The next thing that is told; `None` after an error.
    fn next(&self, py: Python<'_>) -> PyResult<Call> {
        let text = "it began before a fork, in the parent process";
        let stream = self.stream.get().ok_or_else(|| crate::failure::invalid(py, &text))?;
        let work = async move {
            let mut stream = stream.lock().await;
            loop {
                match stream.next().await {
                    None => return Ok(None),
                    Some(told) => {
                        if let Some(told) = Told::of(&told?) {
                            return Ok(Some(told));
                        }
                    }
                }
            }
        };
        Call::start(py, work, |py, it| object(py, it))
    }
}
