//! Whether the disk accepts segments at the moment.
//!
//! A disk that answers EIO, is read-only or is full without reporting it looks healthy from
//! outside: its node is up and reports free space. So after a failed write of a segment the node
//! reports no room for a while, and placement chooses other nodes. The log says so at most once in
//! that time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::StoreError;

/// A disk that failed is tried again after this long. Retried fetches also try it, and a success
/// ends the trouble.
const LASTS: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Trouble(Mutex<State>);

#[derive(Default)]
struct State {
    failed: Option<Instant>,
    warned: Option<Instant>,
}

impl Trouble {
    /// Notes the result of storing a segment and returns it unchanged.
    pub(super) fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error) = &result {
            match error {
                // The disk itself refuses.
                StoreError::Io { .. } => self.failed(error, true),
                // The index refuses. `room` already reports this.
                StoreError::NoSpace { .. } | StoreError::NoInodes => self.failed(error, false),
                _ => {}
            }
        }
        result
    }

    fn failed(&self, error: &StoreError, is_disk: bool) {
        let now = Instant::now();
        let mut state = self.0.lock();
        if is_disk {
            state.failed = Some(now);
        }
        if state.warned.is_none_or(|at| now.duration_since(at) >= LASTS) {
            state.warned = Some(now);
            tracing::warn!(%error, "this node cannot store segments");
        }
    }

    /// A segment was stored.
    pub(super) fn is_over(&self) {
        let mut state = self.0.lock();
        if state.failed.take().is_some() {
            state.warned = None;
            tracing::info!("this node stores segments again");
        }
    }

    pub(super) fn is_recent(&self) -> bool {
        self.0.lock().failed.is_some_and(|at| at.elapsed() < LASTS)
    }
}
