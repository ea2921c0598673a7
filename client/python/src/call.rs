//! One running call.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::ClientError;
use futures::FutureExt;
use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::failure;
use crate::runtime::{self, Own};

/// Signals are looked for this often, so that Ctrl-C ends a call.
const SIGNALS: Duration = Duration::from_millis(50);

/// A call that is cancelled ends at its next wait, after one copy of 1 MiB.
const CANCEL_DEADLINE: Duration = Duration::from_secs(2);

/// Makes the result, with the GIL.
type Convert = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
/// Numbers of a running call.
pub(crate) type Counters = Box<dyn Fn() -> Vec<u64> + Send + Sync>;

#[derive(Default)]
struct Progressing {
    result: Option<Result<Convert, ClientError>>,
    is_done: bool,
    /// Called once, without arguments, on a thread of this module.
    told: Option<Py<PyAny>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<Progressing>,
    ended: Condvar,
}

impl Shared {
    fn end(&self, result: Result<Convert, ClientError>) {
        let told = {
            let mut state = self.state.lock();
            if state.is_done {
                return;
            }
            (state.is_done, state.result) = (true, Some(result));
            state.told.take()
        };
        self.ended.notify_all();
        if let Some(told) = told {
            tell(told);
        }
    }
}

/// Calls back. An error here is a closed event loop, which nobody waits on any more.
fn tell(told: Py<PyAny>) {
    let _ = Python::try_attach(|py| {
        let _ = told.call0(py);
    });
}

/// Ends the call if its task is dropped before its end.
struct Guard(Arc<Shared>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end(Err(ClientError::Cancelled));
    }
}

/// A call that runs on the threads of this module. It ends when this object is dropped.
#[pyclass(module = "cairn._cairn", frozen)]
pub(crate) struct Call {
    running: Own<(Arc<Shared>, AbortHandle)>,
    counters: Option<Counters>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(running) = self.running.get() {
            running.1.abort();
        }
    }
}

impl Call {
    /// Starts `work`. `convert` makes its result a Python object.
    pub(crate) fn start<T, W, C>(py: Python<'_>, work: W, convert: C) -> PyResult<Self>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, ClientError>> + Send + 'static,
        C: FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let guard = Guard(shared.clone());
        let task = runtime::handle(py)?.spawn(async move {
            let result = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(result) => result,
                Err(_) => Err(ClientError::Panicked { message: "in the extension".to_owned() }),
            };
            let convert = |value: T| -> Convert { Box::new(move |py| convert(py, value)) };
            guard.0.end(result.map(convert));
        });
        Ok(Self { running: Own::new((shared, task.abort_handle())), counters: None })
    }

    pub(crate) fn counted(self, counters: Counters) -> Self {
        // A field of a type with `Drop` cannot be moved out, but it can be replaced.
        let mut call = self;
        call.counters = Some(counters);
        call
    }

    fn shared(&self) -> PyResult<Arc<Shared>> {
        let running = self.running.get();
        running.map(|running| running.0.clone()).ok_or_else(|| {
            PyRuntimeError::new_err("this call began before a fork, in the parent process")
        })
    }
}

#[pymethods]
impl Call {
    /// Waits, at most this many seconds. Returns whether the call has ended. A signal's handler runs
    /// meanwhile, and its exception is raised here.
    #[pyo3(signature = (seconds=None))]
    fn wait(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<bool> {
        let shared = self.shared()?;
        let mut left = seconds.map(|it| Duration::try_from_secs_f64(it).unwrap_or_default());
        loop {
            let slice = left.map_or(SIGNALS, |left| left.min(SIGNALS));
            let is_done = py.detach(|| {
                let mut state = shared.state.lock();
                if !state.is_done {
                    shared.ended.wait_for(&mut state, slice);
                }
                state.is_done
            });
            if is_done {
                return Ok(true);
            }
            py.check_signals()?;
            if let Some(left) = &mut left {
                *left = left.saturating_sub(slice);
                if left.is_zero() {
                    return Ok(false);
                }
            }
        }
    }

    /// Calls `told` without arguments once the call has ended, at once if it has. It is called on
    /// another thread.
    fn when_done(&self, told: Py<PyAny>) -> PyResult<()> {
        let shared = self.shared()?;
        let mut state = shared.state.lock();
        if !state.is_done {
            state.told = Some(told);
            return Ok(());
        }
        drop(state);
        tell(told);
        Ok(())
    }

    /// The result of a call that has ended. Raises its error. It is there once.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let taken = self.shared()?.state.lock().result.take();
        match taken {
            Some(Ok(convert)) => convert(py),
            Some(Err(error)) => Err(failure::exception(py, &error)),
            None => Err(PyRuntimeError::new_err("the call has not ended, or its result was taken")),
        }
    }

    /// The counters of a put or a get; empty for other calls.
    fn progress(&self) -> Vec<u64> {
        self.counters.as_ref().map_or_else(Vec::new, |counters| counters())
    }

    /// Ends the call, and waits until it uses no buffer of its caller any more: it may be of memory
    /// that the caller frees next. A job on another thread keeps buffers alive by itself.
    fn cancel(&self, py: Python<'_>) {
        let Some(running) = self.running.get() else { return };
        running.1.abort();
        py.detach(|| {
            let mut state = running.0.state.lock();
            if !state.is_done {
                running.0.ended.wait_for(&mut state, CANCEL_DEADLINE);
            }
        });
    }
}
