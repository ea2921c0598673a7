//! Checks of suspected segments in progress, so that a hundred failing reads start one check.

use std::collections::BTreeSet;
use std::sync::Arc;

use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

/// Checks at a time that readers started: each re-reads up to 32 MiB. A suspicion beyond it is
/// dropped; the next failing read raises it again.
pub const CHECKS_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Checks(Mutex<BTreeSet<SegmentDigest>>);

/// The one check of a digest. The check ends when this is dropped.
pub struct Checking {
    checks: Arc<Checks>,
    digest: SegmentDigest,
}

impl Checks {
    pub(super) fn begin(self: &Arc<Self>, digest: SegmentDigest) -> Option<Checking> {
        let mut running = self.0.lock();
        if running.len() >= CHECKS_MAX || !running.insert(digest) {
            return None;
        }
        Some(Checking { checks: Arc::clone(self), digest })
    }
}

impl Drop for Checking {
    fn drop(&mut self) {
        self.checks.0.lock().remove(&self.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_of_a_digest_runs_at_a_time_and_not_too_many_in_all() {
        let checks = Arc::new(Checks::default());
        let digest = |number: usize| SegmentDigest([number as u8; 32]);
        let mut running: Vec<_> = (0..CHECKS_MAX).map(|at| checks.begin(digest(at))).collect();
        assert!(running.iter().all(Option::is_some));
        assert!(checks.begin(digest(0)).is_none() && checks.begin(digest(99)).is_none());
        running.remove(0);
        assert!(checks.begin(digest(1)).is_none(), "runs still");
        assert!(checks.begin(digest(0)).is_some());
    }
}
