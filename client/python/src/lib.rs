//! The extension module `_cairn`: what the Python package `cairn` needs of the SDK, in the form that
//! suits it best. Users call the Python modules in `python/cairn`, which have the documentation, the
//! types and the defaults.
//!
//! ```text
//! Core.put(..), Checkpoint.read(..), ... -> Call      the work runs on threads of this module
//!    cairn.Client      waits for the call:  the GIL is released, signals are handled
//!    cairn.aio.Client  awaits the call:     it tells the event loop when it ends
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `runtime` | the threads of this process; a child after `fork` has its own |
//! | `call` | one running call: wait, progress, cancel, result |
//! | `core` | a client of one cluster, and a call for each of its methods |
//! | `checkpoint` | an open checkpoint, and its files |
//! | `writer` | a file that is written piece by piece |
//! | `watch` | what happens to checkpoints |
//! | `buffers` | bytes that belong to Python objects, without copies |
//! | `records` | the SDK's records as dictionaries |
//! | `failure` | the SDK's errors as Python exceptions |

#![allow(
    clippy::redundant_closure,
    reason = "`object` alone is good for one lifetime, and the call wants it for any"
)]

mod buffers;
mod call;
mod checkpoint;
mod core;
mod failure;
mod records;
mod runtime;
mod watch;
mod writer;

use pyo3::prelude::*;

#[pymodule]
mod _cairn {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::call::Call;
    #[pymodule_export]
    use crate::checkpoint::{Checkpoint, File};
    #[pymodule_export]
    use crate::core::Core;
    #[pymodule_export]
    use crate::watch::Watch;
    #[pymodule_export]
    use crate::writer::Writer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Stops the threads of this process. Python calls it at exit, while buffers can be returned.
    #[pyfunction]
    fn stop(py: Python<'_>) {
        py.detach(crate::runtime::stop);
    }
}
