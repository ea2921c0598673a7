//! One asynchronous lock per digest. A task that makes a segment visible or destroys it holds the
//! lock. Waiters are served in order. Entries exist only while a task holds the lock or waits for
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub(super) struct DigestLocks {
    locks: Mutex<BTreeMap<SegmentDigest, Lock>>,
}

/// Holds a digest until dropped. The lock is released before the interest in it.
pub struct DigestGuard {
    _held: OwnedMutexGuard<()>,
    _interest: Interest,
}

impl DigestLocks {
    pub(super) async fn lock(self: &Arc<Self>, digest: SegmentDigest) -> DigestGuard {
        let lock = Arc::clone(self.locks.lock().entry(digest).or_default());
        // Made before waiting, because a waiter that is dropped must also clean up.
        let interest = Interest { locks: Arc::clone(self), digest, lock: Some(Arc::clone(&lock)) };
        DigestGuard { _held: lock.lock_owned().await, _interest: interest }
    }
}

struct Interest {
    locks: Arc<DigestLocks>,
    digest: SegmentDigest,
    lock: Option<Lock>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut locks = self.locks.locks.lock();
        self.lock = None;
        // Clones are made only under this map's lock. If one owner is left, it is the map itself.
        if locks.get(&self.digest).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_digest_has_one_holder_and_leaves_nothing_behind() {
        let locks = Arc::new(DigestLocks::default());
        let digest = SegmentDigest([1; 32]);
        let first = locks.lock(digest).await;
        assert!(locks.lock(digest).now_or_never().is_none(), "held");
        locks.lock(SegmentDigest([2; 32])).now_or_never().expect("another digest is free");
        let mut second = Box::pin(locks.lock(digest));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        drop(second.await);
        assert!(locks.locks.lock().is_empty());
    }
}
