//! How a part of the node says that the node must stop.

use std::sync::Arc;

/// Called with the reason: a failed sync, a damaged log, an old identity. The shell of the process
/// (or the simulator) ends the node. It may be called more than once, as one failure brings others,
/// and from tasks of the storage: it must not block.
pub type FatalHook = Arc<dyn Fn(String) + Send + Sync>;
