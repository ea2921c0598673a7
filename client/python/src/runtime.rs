//! The threads that calls run on: one runtime for each process.
//!
//! Threads do not survive `fork`, and their locks may be held in the child for ever. So the runtime
//! belongs to the process that made it. A child makes its own, and never touches its parent's.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for network IO. Files and hashes use other threads.
const WORKERS: usize = 2;

/// Time for running file reads to end at exit.
const STOP_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);

enum State {
    None,
    Running { process: u32, runtime: Runtime },
    Stopped { process: u32 },
}

/// Locked only by a thread that holds the GIL, and `os.fork` is called with the GIL: no child begins
/// with a locked one. [`stop`] is the exception, in a process that ends.
static STATE: Mutex<State> = Mutex::new(State::None);

/// The runtime of this process.
pub(crate) fn handle(_with_gil: Python<'_>) -> PyResult<Handle> {
    let mut state = STATE.lock();
    let this = std::process::id();
    match &*state {
        State::Running { process, runtime } if *process == this => {
            return Ok(runtime.handle().clone());
        }
        State::Stopped { process } if *process == this => {
            return Err(PyRuntimeError::new_err("cairn cannot be used while Python exits"));
        }
        _ => {}
    }
    let made = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("cairn")
        .enable_all()
        .build()
        .map_err(|error| PyRuntimeError::new_err(format!("start threads: {error}")))?;
    let handle = made.handle().clone();
    // The threads of the parent's runtime do not exist here: a drop would wait for them.
    std::mem::forget(std::mem::replace(
        &mut *state,
        State::Running { process: this, runtime: made },
    ));
    Ok(handle)
}

/// Ends all calls of this process. Later ones are errors.
pub(crate) fn stop() {
    let this = std::process::id();
    let before = std::mem::replace(&mut *STATE.lock(), State::Stopped { process: this });
    match before {
        State::Running { process, runtime } if process == this => {
            runtime.shutdown_timeout(STOP_DEADLINE);
        }
        // A parent's.
        other => std::mem::forget(other),
    }
}

/// A value that belongs to the process that made it. In a child it is neither used nor dropped.
pub(crate) struct Own<T> {
    process: u32,
    value: Option<Arc<T>>,
}

impl<T> Own<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: std::process::id(), value: Some(Arc::new(value)) }
    }

    /// The value, unless another process made it.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        self.value.clone().filter(|_| self.process == std::process::id())
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            std::mem::forget(self.value.take());
        }
    }
}
