//! How a part of the node reports that the node must stop.

use std::sync::Arc;

/// Called with the reason: a failed sync, a damaged log, an old identity. The shell of the process
/// (or the simulator) ends the node. It may be called more than once, because one failure causes
/// others. It is also called from storage tasks, so it must not block.
pub type FatalHook = Arc<dyn Fn(String) + Send + Sync>;
