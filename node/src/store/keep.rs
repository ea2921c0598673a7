//! Quarantine and destruction: everything that takes a segment out of the durable set. All under
//! the digest's lock. The way back out of quarantine is `recover.rs`.

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

/// Quarantined copies of one digest. A disk that spoils one segment this often is finished.
const COPIES_MAX: usize = 64;

/// What a check of a segment found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Good,
    /// Bad; its file is in quarantine, or stays in its place and does not count.
    Bad,
    /// Held according to the index, but there is no file.
    Gone,
}

/// What became of a destruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destroyed {
    /// The file is gone, durably.
    Gone,
    /// There was none.
    NotHeld,
    /// The condition did not hold under the lock: the file stays.
    Kept,
}

impl SegmentStore {
    /// Moves the file of a bad segment to quarantine, durably. `NotHeld` if there is none, in the
    /// durable set or damaged.
    pub async fn quarantine(&self, digest: SegmentDigest) -> Result<(), StoreError> {
        self.quarantine_if(digest, || true).await.map(|_| ())
    }

    /// As [`SegmentStore::quarantine`], if `condition` holds under the digest's lock, asked after
    /// the digest has left the durable set (see [`SegmentStore::destroy`]). Whether it was moved.
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
    /// is bad: one step under the digest's lock, so that what is moved is what was read. What is
    /// bad is not held any more, whether its file could be moved or not.
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

    /// Whether the segment is not held, asked under the digest's lock: nobody is about to make it
    /// visible, or to put it back after a destruction that did not take place.
    pub async fn is_absent(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        self.inner.know(digest).await?;
        let _guard = self.inner.locks.lock(digest).await;
        Ok(!self.holds(digest))
    }

    /// Those of `digests` that the index holds while no file of the right length stands in their
    /// place. A look at names and lengths only; an error of the disk finds nothing.
    pub async fn without_file(&self, digests: Vec<SegmentDigest>) -> Vec<SegmentDigest> {
        let inner = Arc::clone(&self.inner);
        let look = move || {
            let held = digests.into_iter().filter_map(|it| Some((it, inner.index.find(it)?)));
            let lacking = held.filter(|(digest, held)| inner.stands(*digest, *held) == Some(false));
            lacking.map(|(digest, _)| digest).collect()
        };
        self.inner.data(look).await
    }

    /// Claims the check of a suspected segment; `None` while one runs, or too many.
    pub fn begin_check(&self, digest: SegmentDigest) -> Option<Checking> {
        self.inner.checks.begin(digest)
    }

    /// Moves a damaged file aside, unless a good copy has taken its place by now. Whether it was
    /// moved.
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

    /// Destroys the file of `digest` if `condition` holds under the digest's lock. The digest has
    /// left the durable set before the condition is asked, so that nobody can report it durable
    /// on grounds the condition did not see; it returns if the file is kept. The condition is asked
    /// right before the file goes: a disk may let it wait for long, and what was released may be
    /// wanted again by then.
    ///
    /// The condition must not block for long, nor call this store.
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
                            // Its name is gone, and perhaps not durably: to be tried again.
                            job.index.enter_damaged(digest, 0);
                        } else {
                            // Still there and as good as before.
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

/// What runs on the Data lane, under the digest's lock; everything here blocks.
impl Inner {
    /// Whether a file of the right length stands at a held segment's place; `None` if the disk
    /// does not tell.
    pub(super) fn stands(&self, digest: SegmentDigest, held: Held) -> Option<bool> {
        match self.disk.stat(&place(digest)) {
            Ok(found) => Some(found.is_file && found.len == held.file_len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
            Err(_) => None,
        }
    }

    /// Moves the file at the digest's final place to quarantine. The digest is not in the durable
    /// set any more; a file that cannot be moved counts as damaged.
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
            // Its length does not matter; that it gets out of the way does.
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
        // The new name first: a crash between the two leaves two names or one, never none.
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
            // Somebody put a directory in the file's place.
            Err(_) if self.disk.stat(&path).is_ok_and(|found| !found.is_file) => {
                self.set_aside(digest, Why::InTheWay)?;
                return Ok(Destroyed::Gone);
            }
            Err(error) => return Err(io_error("remove", &path, error)),
        }
        match self.disk.sync_dir(&directory(digest)) {
            // Somebody removed the whole directory.
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
