//! Quarantine and destruction: every operation that takes a segment out of the durable set. All run
//! under the digest's lock. `recover.rs` moves files back out of quarantine.

use std::io;
use std::sync::Arc;

use cairn_types::ids::SegmentDigest;

use super::checks::Checking;
use super::error::StoreError;
use super::index::Held;
use super::locks::DigestGuard;
use super::recover::{Why, quarantine_name};
use super::stats::add;
use super::{Inner, QUARANTINE, SegmentStore, directory, io_error, place};
use crate::disk::is_out_of_descriptors;

/// Most quarantined copies of one digest. A disk that damages one segment this often has failed.
const COPIES_MAX: usize = 64;

/// What a check of a segment found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Good,
    /// Bad. Its file is in quarantine, or stays in place and does not count as held.
    Bad,
    /// Held according to the index, but there is no file.
    Gone,
}

/// The result of a destruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// The file is gone, durably.
    Gone,
    /// There was no such file.
    NotHeld,
    /// The condition was false under the lock: the file stays.
    Kept,
}

impl SegmentStore {
    /// Moves the file of a bad segment to quarantine, durably. Returns `NotHeld` if there is no
    /// such file, neither in the durable set nor damaged.
    pub async fn quarantine(&self, digest: SegmentDigest) -> Result<(), StoreError> {
        self.quarantine_if(digest, || true).await.map(|_| ())
    }

    /// Like [`SegmentStore::quarantine`], but only if `condition` is true under the digest's lock.
    /// The condition is called after the digest has left the durable set (see
    /// [`SegmentStore::destroy`]). Returns whether the file was moved.
    pub async fn quarantine_if(
        &self,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let work = async move {
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            let held = inner.index.leave(digest);
            if !condition() {
                if let Some(held) = held {
                    inner.index.enter(digest, held);
                }
                return Ok(false);
            }
            inner.set_aside_under(guard, digest, Why::NoSlot).await.map(|()| true)
        };
        self.inner.to_the_end("segment quarantine", work).await
    }

    /// Re-reads a held segment as [`SegmentStore::verify`] does, and moves it to quarantine if it
    /// is bad. Both happen in one step under the digest's lock, so that the file moved is the file
    /// that was read. A bad segment is no longer held, even if its file could not be moved.
    pub async fn quarantine_if_bad(&self, digest: SegmentDigest) -> Result<Checked, StoreError> {
        let store = self.clone();
        let work = async move {
            let inner = &store.inner;
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            match store.verify(digest).await {
                Ok(()) => return Ok(Checked::Good),
                Err(StoreError::Damaged { damage, .. }) => {
                    tracing::warn!(%digest, %damage, "segment is bad");
                }
                Err(error) => return Err(error),
            }
            inner.index.leave(digest);
            match inner.set_aside_under(guard, digest, Why::Bad).await {
                Ok(()) => Ok(Checked::Bad),
                Err(StoreError::NotHeld(_)) => Ok(Checked::Gone),
                Err(error) if error.is_fatal() => Err(error),
                Err(error) => {
                    tracing::warn!(%digest, %error, "cannot move a bad segment file aside");
                    Ok(Checked::Bad)
                }
            }
        };
        self.inner.to_the_end("segment check", work).await
    }

    /// Whether the segment is not held. The question is asked under the digest's lock: then no task
    /// is about to make the segment visible, or to put it back after a destruction that did not
    /// happen.
    pub async fn is_absent(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        self.inner.know(digest).await?;
        let _guard = self.inner.locks.lock(digest).await;
        Ok(!self.holds(digest))
    }

    /// Those of `digests` that the index holds but that have no file of the right length in place.
    /// Looks only at names and lengths. A disk error counts as a file in place.
    pub async fn without_file(&self, digests: Vec<SegmentDigest>) -> Vec<SegmentDigest> {
        let inner = Arc::clone(&self.inner);
        let look = move || {
            let held = digests.into_iter().filter_map(|it| Some((it, inner.index.find(it)?)));
            let lacking = held.filter(|(digest, held)| inner.stands(*digest, *held) == Some(false));
            lacking.map(|(digest, _)| digest).collect()
        };
        self.inner.data(look).await
    }

    /// Claims the check of a suspected segment. `None` if one is running already, or too many are.
    pub fn begin_check(&self, digest: SegmentDigest) -> Option<Checking> {
        self.inner.checks.begin(digest)
    }

    /// Moves a damaged file to quarantine, unless a good copy has replaced it by now. Returns
    /// whether it was moved.
    pub async fn quarantine_damaged(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        let inner = Arc::clone(&self.inner);
        let work = async move {
            let guard = inner.locks.lock(digest).await;
            if inner.index.len_of(digest).is_some() || !inner.index.is_damaged(digest) {
                return Ok(false);
            }
            inner.set_aside_under(guard, digest, Why::Bad).await.map(|()| true)
        };
        self.inner.to_the_end("segment quarantine", work).await
    }

    /// Destroys the file of `digest` if `condition` is true under the digest's lock. The digest
    /// leaves the durable set before the condition is called, so that no report can call it durable
    /// for a reason that the condition did not see. If the file is kept, the digest enters the set
    /// again. The condition is called just before the file is removed: the disk may delay the
    /// removal for a long time, and a segment that was released may be wanted again by then.
    ///
    /// The condition must not block for long and must not call this store.
    pub async fn destroy(
        &self,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Destroyed, StoreError> {
        self.inner.check_running()?;
        let inner = Arc::clone(&self.inner);
        let work = async move {
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            let held = inner.index.leave(digest);
            if held.is_none() && !inner.index.is_damaged(digest) {
                return Ok(Destroyed::NotHeld);
            }
            let job = Arc::clone(&inner);
            inner
                .data(move || {
                    let _guard = guard;
                    let gone = match condition() {
                        true => job.unlink(digest, held.map_or(0, |held| held.raw_len())),
                        false => Ok(Destroyed::Kept),
                    };
                    let kept = matches!(gone, Ok(Destroyed::Kept) | Err(StoreError::Io { .. }));
                    if let (true, Some(held)) = (kept, held) {
                        if job.stands(digest, held) == Some(false) {
                            // Its name is gone, but perhaps not durably. The removal must be tried
                            // again.
                            job.index.enter_damaged(digest, 0);
                        } else {
                            // The file is still there and as good as before.
                            job.index.enter(digest, held);
                        }
                    }
                    gone
                })
                .await
        };
        self.inner.to_the_end("segment destroy", work).await
    }
}

impl Inner {
    async fn set_aside_under(
        self: &Arc<Self>,
        guard: DigestGuard,
        digest: SegmentDigest,
        why: Why,
    ) -> Result<(), StoreError> {
        let job = Arc::clone(self);
        self.data(move || {
            let _guard = guard;
            job.set_aside(digest, why)
        })
        .await
    }
}

/// The part that runs on the Data lane under the digest's lock. Everything here blocks.
impl Inner {
    /// Whether a file of the right length is in a held segment's place. `None` if the disk does not
    /// answer.
    pub(super) fn stands(&self, digest: SegmentDigest, held: Held) -> Option<bool> {
        match self.disk.stat(&place(digest)) {
            Ok(found) => Some(found.is_file && found.len == held.file_len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }

    /// Moves the file at the digest's final place to quarantine. The digest must have left the
    /// durable set before. A file that cannot be moved counts as damaged.
    pub(super) fn set_aside(&self, digest: SegmentDigest, why: Why) -> Result<(), StoreError> {
        debug_assert!(self.index.len_of(digest).is_none(), "a held segment is set aside");
        self.check_running()?;
        let from = place(digest);
        let bytes = match self.disk.stat(&from) {
            Ok(found) => found.len,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index.leave_damaged(digest);
                return Err(StoreError::NotHeld(digest));
            }
            // The length does not matter. The file must leave this place.
            Err(_) => 0,
        };
        let moved = self.free_name(digest, why).and_then(|to| match self.disk.rename(&from, &to) {
            Ok(()) => Ok(to),
            Err(error) => Err(self.write_error("rename", &from, bytes, error)),
        });
        let to = match moved {
            Ok(to) => to,
            Err(error) => {
                self.index.enter_damaged(digest, bytes);
                return Err(error);
            }
        };
        // The new name is synced first. A crash between the two syncs then leaves one or two names,
        // never zero.
        self.sync_dir(QUARANTINE)?;
        self.sync_dir(&directory(digest))?;
        self.index.leave_damaged(digest);
        self.index.enter_quarantine(Some(digest), bytes);
        add(&self.counters.segments_quarantined, 1);
        tracing::warn!(%digest, to, bytes, "segment file moved to quarantine");
        Ok(())
    }

    fn free_name(&self, digest: SegmentDigest, why: Why) -> Result<String, StoreError> {
        let since_ms = self.env.wall_ms();
        let copies = self.index.quarantined(digest);
        for number in copies..COPIES_MAX {
            let path = format!("{QUARANTINE}/{}", quarantine_name(digest, number, why, since_ms));
            if !self.disk.exists(&path).map_err(|error| io_error("look for", &path, error))? {
                return Ok(path);
            }
        }
        let path = format!("{QUARANTINE}/{digest}.{COPIES_MAX}");
        Err(io_error("find a free name like", &path, io::ErrorKind::AlreadyExists.into()))
    }

    fn unlink(&self, digest: SegmentDigest, bytes: u64) -> Result<Destroyed, StoreError> {
        self.check_running()?;
        let path = place(digest);
        match self.disk.remove(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A directory was put in the file's place from outside.
            Err(_) if self.disk.stat(&path).is_ok_and(|found| !found.is_file) => {
                self.set_aside(digest, Why::InTheWay)?;
                return Ok(Destroyed::Gone);
            }
            Err(error) => return Err(io_error("remove", &path, error)),
        }
        match self.disk.sync_dir(&directory(digest)) {
            // The whole directory was removed from outside.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_out_of_descriptors(&error) => {
                return Err(io_error("open directory", &directory(digest), error));
            }
            synced => {
                synced.map_err(|error| self.fatal("sync directory", &directory(digest), error))?;
            }
        }
        self.index.leave_damaged(digest);
        add(&self.counters.segments_destroyed, 1);
        add(&self.counters.bytes_destroyed, bytes);
        Ok(Destroyed::Gone)
    }
}
