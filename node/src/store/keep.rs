//! Quarantine, recovery from it, and destruction: everything that takes a segment out of the
//! durable set or brings one in without a sender. All under the digest's lock.

use std::io;
use std::sync::Arc;

use cairn_core::canary;
use cairn_core::ids::SegmentDigest;

use super::checks::Checking;
use super::error::{Damage, StoreError};
use super::locks::DigestGuard;
use super::read::{is_damage, read_ends};
use super::stats::add;
use super::{Inner, QUARANTINE, SegmentStore, directory, io_error, place};
use crate::disk::{DiskFile, Open};

/// Quarantined copies of one digest. A disk that spoils one segment this often is finished.
const COPIES_MAX: usize = 64;

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

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// File name within `quarantine/`.
    pub name: String,
    /// `None` for a file whose name is not one of ours.
    pub digest: Option<SegmentDigest>,
    /// File bytes.
    pub bytes: u64,
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
            let guard = inner.locks.lock(digest).await;
            let held = inner.books.leave(digest);
            if !condition() {
                if let Some(len) = held {
                    inner.books.enter(digest, len);
                }
                return Ok(false);
            }
            inner.set_aside_under(guard, digest).await.map(|()| true)
        };
        self.inner.to_the_end("segment quarantine", work).await
    }

    /// Re-reads a held segment as [`SegmentStore::verify`] does, and moves it to quarantine if it
    /// is bad: one step under the digest's lock, so that what is moved is what was read. Whether
    /// it was bad.
    pub async fn quarantine_if_bad(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        let store = self.clone();
        let work = async move {
            let inner = &store.inner;
            let guard = inner.locks.lock(digest).await;
            match store.verify(digest).await {
                Ok(()) => return Ok(false),
                Err(StoreError::Damaged { damage, .. }) => {
                    tracing::warn!(%digest, %damage, "segment is bad");
                }
                Err(error) => return Err(error),
            }
            inner.books.leave(digest);
            inner.set_aside_under(guard, digest).await.map(|()| true)
        };
        self.inner.to_the_end("segment check", work).await
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
            if inner.books.len_of(digest).is_some() || !inner.books.is_damaged(digest) {
                return Ok(false);
            }
            inner.set_aside_under(guard, digest).await.map(|()| true)
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
            let guard = inner.locks.lock(digest).await;
            let held = inner.books.leave(digest);
            if held.is_none() && !inner.books.is_damaged(digest) {
                return Ok(Destroyed::NotHeld);
            }
            let job = Arc::clone(&inner);
            inner
                .data(move || {
                    let _guard = guard;
                    let gone = match condition() {
                        true => job.unlink(digest, held.unwrap_or(0)),
                        false => Ok(Destroyed::Kept),
                    };
                    let kept = matches!(gone, Ok(Destroyed::Kept) | Err(StoreError::Io { .. }));
                    if let (true, Some(len)) = (kept, held) {
                        // Still there and as good as before.
                        job.books.enter(digest, len);
                    }
                    gone
                })
                .await
        };
        self.inner.to_the_end("segment destroy", work).await
    }

    /// Looks for a good copy in quarantine, verifies it in full and makes it held again. False if
    /// there is none. What somebody else puts there is seen at the next start.
    pub async fn recover_from_quarantine(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        self.recover_from_quarantine_if(digest, || true).await
    }

    /// As [`SegmentStore::recover_from_quarantine`], if `condition` holds under the digest's lock,
    /// asked right before the file becomes visible; else `NotWanted`, and the copy stays where it
    /// is.
    pub async fn recover_from_quarantine_if(
        &self,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        self.inner.check_running()?;
        let inner = Arc::clone(&self.inner);
        let work = async move {
            let guard = inner.locks.lock(digest).await;
            if inner.books.len_of(digest).is_some() {
                return Ok(true);
            }
            if !inner.books.is_quarantined(digest) {
                // A fetch asks this each time it is tried: without a look at the disk.
                return Ok(false);
            }
            let job = Arc::clone(&inner);
            let copies = inner.data(move || job.copies(digest)).await?;
            for copy in copies {
                let (job, path) = (Arc::clone(&inner), format!("{QUARANTINE}/{}", copy.name));
                let opened = inner.data(move || job.open_copy(&path)).await?;
                let Some(file) = opened else { continue };
                let len = match inner.verify_file(Arc::clone(&file), digest).await {
                    Ok(len) => len,
                    Err(Damage::Io(error)) if !is_damage(&error) => {
                        return Err(io_error("read", &copy.name, error));
                    }
                    Err(_) if canary!("unverified_recovery") => match read_ends(&*file, digest) {
                        Ok((header, _)) => header.raw_len,
                        Err(_) => continue,
                    },
                    Err(_) => continue,
                };
                let job = Arc::clone(&inner);
                let bytes = copy.bytes;
                inner
                    .data(move || {
                        if !condition() {
                            return Err(StoreError::NotWanted(digest));
                        }
                        job.bring_back(&copy, digest, len)
                    })
                    .await?;
                // Once the job is over, not in it: whoever finds the digest here may report it.
                inner.books.leave_quarantine(digest, bytes);
                inner.books.enter(digest, len);
                drop(guard);
                return Ok(true);
            }
            Ok(false)
        };
        self.inner.to_the_end("segment recover", work).await
    }

    /// Files in quarantine, by name.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner.data(move || inner.list_quarantine()).await
    }
}

impl Inner {
    async fn set_aside_under(
        self: &Arc<Self>,
        guard: DigestGuard,
        digest: SegmentDigest,
    ) -> Result<(), StoreError> {
        let job = Arc::clone(self);
        self.data(move || {
            let _guard = guard;
            job.set_aside(digest)
        })
        .await
    }
}

/// What runs on the Data lane, under the digest's lock; everything here blocks.
impl Inner {
    /// Moves the file at the digest's final place to quarantine. The digest is not in the durable
    /// set any more.
    pub(super) fn set_aside(&self, digest: SegmentDigest) -> Result<(), StoreError> {
        debug_assert!(self.books.len_of(digest).is_none(), "a held segment is set aside");
        self.check_running()?;
        let from = place(digest);
        let bytes = match self.disk.open(&from, Open::Read).and_then(|file| file.len()) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.books.leave_damaged(digest);
                return Err(StoreError::NotHeld(digest));
            }
            // Its length does not matter; that it gets out of the way does.
            Err(_) => 0,
        };
        let to = self.free_name(digest)?;
        self.disk
            .rename(&from, &to)
            .map_err(|error| self.write_error("rename", &from, bytes, error))?;
        // The new name first: a crash between the two leaves two names or one, never none.
        self.sync_dir(QUARANTINE)?;
        self.sync_dir(&directory(digest))?;
        self.books.leave_damaged(digest);
        self.books.enter_quarantine(Some(digest), bytes);
        add(&self.counters.segments_quarantined, 1);
        tracing::warn!(%digest, to, bytes, "segment file moved to quarantine");
        Ok(())
    }

    fn free_name(&self, digest: SegmentDigest) -> Result<String, StoreError> {
        for number in 0..COPIES_MAX {
            let path = format!("{QUARANTINE}/{digest}.{number}");
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
            Err(error) => return Err(io_error("remove", &path, error)),
        }
        self.sync_dir(&directory(digest))?;
        self.books.leave_damaged(digest);
        add(&self.counters.segments_destroyed, 1);
        add(&self.counters.bytes_destroyed, bytes);
        Ok(Destroyed::Gone)
    }

    pub(super) fn list_quarantine(&self) -> Result<Vec<Quarantined>, StoreError> {
        let listed =
            self.disk.list(QUARANTINE).map_err(|error| io_error("list", QUARANTINE, error))?;
        let files = listed.into_iter().filter(|entry| !entry.is_dir).map(|entry| {
            let digest = entry.name.split_once('.').and_then(|(digest, _)| digest.parse().ok());
            Quarantined { name: entry.name, digest, bytes: entry.len }
        });
        Ok(files.collect())
    }

    fn copies(&self, digest: SegmentDigest) -> Result<Vec<Quarantined>, StoreError> {
        let mut files = self.list_quarantine()?;
        files.retain(|file| file.digest == Some(digest));
        Ok(files)
    }

    /// `None` for a copy that cannot be read.
    fn open_copy(&self, path: &str) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        match self.disk.open(path, Open::ReadDirect) {
            Ok(file) => Ok(Some(Arc::from(file))),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(io_error("open", path, error)),
        }
    }

    fn bring_back(
        &self,
        copy: &Quarantined,
        digest: SegmentDigest,
        len: u64,
    ) -> Result<(), StoreError> {
        let path = format!("{QUARANTINE}/{}", copy.name);
        // Verified bytes may have come from the cache; who wrote them may not have synced.
        let file = self.disk.open(&path, Open::Write).map_err(|e| io_error("open", &path, e))?;
        file.sync().map_err(|error| self.fatal("sync", &path, error))?;
        self.take_place(&path, digest)?;
        self.sync_dir(QUARANTINE)?;
        tracing::info!(%digest, len, "segment recovered from quarantine");
        Ok(())
    }
}
