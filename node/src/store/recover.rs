//! The list of files in quarantine, and the way to put one back. A copy is verified in full before
//! it is held again, under the digest's lock.
//!
//! ```text
//! quarantine/DIGEST.N.WHY.MS   N: number of the copy; WHY: bad, no-slot or in-the-way;
//!                              MS: wall clock of the move. Older files have no WHY and MS
//! ```
//!
//! Nothing here deletes a file. A good copy is moved to its place: it is synced and renamed, and
//! both directories are synced. The other copies stay.

use std::io;
use std::sync::Arc;

use cairn_types::canary;
use cairn_types::ids::SegmentDigest;

use super::error::{Damage, StoreError};
use super::index::Held;
use super::locks::DigestGuard;
use super::read::is_damage;
use super::{Inner, QUARANTINE, SegmentStore, io_error};
use crate::disk::{DiskFile, Open};

/// Why a file was moved to quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It failed a check.
    Bad,
    /// The catalogue had no slot for it when the node started.
    NoSlot,
    /// It was in the place of another file, usually of a new copy of the same digest.
    InTheWay,
}

impl Why {
    const ALL: [Self; 3] = [Self::Bad, Self::NoSlot, Self::InTheWay];

    /// The word in file names and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::NoSlot => "no-slot",
            Self::InTheWay => "in-the-way",
        }
    }
}

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// File name within `quarantine/`.
    pub name: String,
    /// `None` for a file whose name is not in our format.
    pub digest: Option<SegmentDigest>,
    /// File bytes.
    pub bytes: u64,
    /// `None` for a file of an older version, and for a file that was put there from outside.
    pub why: Option<Why>,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: Option<u64>,
}

impl Quarantined {
    fn named(name: String, bytes: u64) -> Self {
        let mut fields = name.split('.');
        // A file that was moved here by hand keeps its name, which has no number.
        let digest = fields.next().and_then(|digest| digest.parse().ok());
        let mut fields = fields.skip(1);
        let why = fields.next().and_then(|word| Why::ALL.into_iter().find(|it| it.word() == word));
        let since_ms = fields.next().and_then(|ms| ms.parse().ok()).filter(|_| why.is_some());
        Self { name, digest, bytes, why, since_ms }
    }
}

pub(super) fn quarantine_name(
    digest: SegmentDigest,
    number: usize,
    why: Why,
    since_ms: u64,
) -> String {
    format!("{digest}.{number}.{}.{since_ms}", why.word())
}

/// The result of checking the copies of a digest in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    None,
    /// This many copies. None is good as a whole.
    Bad(usize),
    Good,
}

/// The result of putting a copy back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The segment is held, and was held before.
    Held,
    /// A copy was good and is held now.
    Back,
    None,
    /// This many copies. None is good as a whole, and all stay in quarantine.
    Bad(usize),
}

/// Most files kept from the last listing for the next restores.
const LISTED_MAX: usize = 4096;

/// A part of the last listing of the quarantine directory. It tells where a copy may be. It never
/// proves that there is no copy.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// By name.
    files: Vec<Quarantined>,
}

impl Listed {
    /// Keeps the files from this digest on, because a restore of all files asks in name order.
    fn take(&mut self, files: &[Quarantined], digest: SegmentDigest) {
        let name = digest.to_string();
        let from = files.partition_point(|file| file.name < name);
        self.files = files[from..].iter().take(LISTED_MAX).cloned().collect();
    }

    fn copies(&self, digest: SegmentDigest) -> Vec<Quarantined> {
        let name = digest.to_string();
        let from = self.files.partition_point(|file| file.name < name);
        let files = self.files[from..].iter();
        files.take_while(|file| file.digest == Some(digest)).cloned().collect()
    }

    fn forget(&mut self, name: &str) {
        if let Ok(at) = self.files.binary_search_by(|file| file.name.as_str().cmp(name)) {
            self.files.remove(at);
        }
    }
}

/// The copies of a digest, and the result of their check.
struct Found {
    copies: Vec<Quarantined>,
    good: Option<(Quarantined, Held)>,
    /// The error for a copy that this process may not read.
    no_access: Option<StoreError>,
}

impl SegmentStore {
    /// Looks for a good copy in quarantine, verifies it in full and makes it held again. Returns
    /// false if there is none. Files put there from outside are seen at the next start.
    pub async fn recover_from_quarantine(&self, digest: SegmentDigest) -> Result<bool, StoreError> {
        self.recover_from_quarantine_if(digest, || true).await
    }

    /// Like [`SegmentStore::recover_from_quarantine`], but only if `condition` is true under the
    /// digest's lock. The condition is called just before the file becomes visible. If it is false,
    /// the result is `NotWanted` and the copy stays where it is.
    pub async fn recover_from_quarantine_if(
        &self,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, StoreError> {
        self.inner.check_running()?;
        let inner = Arc::clone(&self.inner);
        let work = async move {
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            if inner.index.len_of(digest).is_some() {
                return Ok(true);
            }
            if !inner.index.is_quarantined(digest) {
                // A fetch calls this at each try, so it answers without disk access.
                return Ok(false);
            }
            let restored = inner.restore_under(guard, digest, condition).await?;
            Ok(restored == Restored::Back)
        };
        self.inner.to_the_end("segment recover", work).await
    }

    /// Like [`SegmentStore::recover_from_quarantine_if`], for an operator. It also considers files
    /// that were put there from outside since the start.
    pub async fn restore_if(
        &self,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Restored, StoreError> {
        self.inner.check_running()?;
        let inner = Arc::clone(&self.inner);
        let work = async move {
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            match inner.index.len_of(digest) {
                Some(_) => Ok(Restored::Held),
                None => inner.restore_under(guard, digest, condition).await,
            }
        };
        self.inner.to_the_end("segment restore", work).await
    }

    /// Reads the copies of a digest in quarantine until one is good as a whole. Moves nothing. If
    /// no copy is good, `NoAccess` names a copy that this process may not read.
    pub async fn copies_in_quarantine(&self, digest: SegmentDigest) -> Result<Copies, StoreError> {
        let found = self.inner.find_good(digest).await?;
        match (found.good, found.no_access) {
            (Some(_), _) => Ok(Copies::Good),
            (None, Some(error)) => Err(error),
            (None, None) if found.copies.is_empty() => Ok(Copies::None),
            (None, None) => Ok(Copies::Bad(found.copies.len())),
        }
    }

    /// Whether a listed file is good as a whole; reads it in full.
    pub async fn is_good(&self, file: &Quarantined) -> Result<bool, StoreError> {
        let Some(digest) = file.digest else { return Ok(false) };
        Ok(self.inner.verify_copy(&file.name, digest).await?.is_some())
    }

    /// Files in quarantine, by name.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        let inner = Arc::clone(&self.inner);
        self.inner.data(move || inner.list_quarantine()).await
    }

    /// At most `limit` files whose names follow `after`, and whether there are more.
    pub async fn quarantined_after(
        &self,
        after: String,
        limit: usize,
    ) -> Result<(Vec<Quarantined>, bool), StoreError> {
        let mut files = self.quarantined().await?;
        files.retain(|file| file.name > after);
        let more = files.len() > limit;
        files.truncate(limit);
        Ok((files, more))
    }
}

impl Inner {
    /// Tries the copies of a digest that is not held.
    async fn restore_under(
        self: &Arc<Self>,
        guard: DigestGuard,
        digest: SegmentDigest,
        condition: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Restored, StoreError> {
        let Found { copies, good, no_access } = self.find_good(digest).await?;
        // Files put there from outside are not counted yet.
        for copy in copies.iter().skip(self.index.quarantined(digest)) {
            self.index.enter_quarantine(Some(digest), copy.bytes);
        }
        if let Some((copy, held)) = good {
            let (job, bytes) = (Arc::clone(self), copy.bytes);
            self.data(move || {
                if !condition() {
                    return Err(StoreError::NotWanted(digest));
                }
                job.bring_back(&copy, digest, held)
            })
            .await?;
            // Done after the job, not inside it: any task that finds the digest here may report it.
            self.index.leave_quarantine(digest, bytes);
            self.index.enter(digest, held);
            drop(guard);
            return Ok(Restored::Back);
        }
        match no_access {
            Some(error) => Err(error),
            None if copies.is_empty() => Ok(Restored::None),
            None => Ok(Restored::Bad(copies.len())),
        }
    }

    /// Reads the copies of a digest until one is good as a whole. Copies from the last listing come
    /// first: one good copy is enough, and a large directory is then not listed once for each of
    /// its files. Only a new listing can tell that no copy is good.
    async fn find_good(self: &Arc<Self>, digest: SegmentDigest) -> Result<Found, StoreError> {
        let listed = self.listed.lock().copies(digest);
        if !listed.is_empty() {
            let found = self.first_good(listed, digest).await?;
            if found.good.is_some() {
                return Ok(found);
            }
        }
        let job = Arc::clone(self);
        let copies = self.data(move || job.copies(digest)).await?;
        self.first_good(copies, digest).await
    }

    async fn first_good(
        self: &Arc<Self>,
        copies: Vec<Quarantined>,
        digest: SegmentDigest,
    ) -> Result<Found, StoreError> {
        let mut found = Found { copies, good: None, no_access: None };
        for copy in &found.copies {
            match self.verify_copy(&copy.name, digest).await {
                Ok(Some(held)) => {
                    found.good = Some((copy.clone(), held));
                    break;
                }
                Ok(None) => {}
                // Another copy may be readable.
                Err(error @ StoreError::NoAccess { .. }) => found.no_access = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Verifies a copy. Returns it as the index stores it if it is good as a whole.
    async fn verify_copy(
        self: &Arc<Self>,
        name: &str,
        digest: SegmentDigest,
    ) -> Result<Option<Held>, StoreError> {
        let (job, path) = (Arc::clone(self), format!("{QUARANTINE}/{name}"));
        let Some(file) = self.data(move || job.open_copy(&path)).await? else { return Ok(None) };
        match self.verify_file(Arc::clone(&file), digest).await {
            Ok(footer) => Ok(Some(Held::of(&footer.blocks))),
            Err(Damage::Io(error)) if !is_damage(&error) => Err(io_error("read", name, error)),
            Err(_) if canary!("unverified_recovery") => {
                Ok(self.read_ends(&*file, digest).ok().map(|footer| Held::of(&footer.blocks)))
            }
            Err(_) => Ok(None),
        }
    }
}

/// The part that runs on the Data lane. Everything here blocks.
impl Inner {
    pub(super) fn list_quarantine(&self) -> Result<Vec<Quarantined>, StoreError> {
        let listed =
            self.disk.list(QUARANTINE).map_err(|error| io_error("list", QUARANTINE, error))?;
        let files = listed.into_iter().filter(|entry| !entry.is_dir);
        let mut files: Vec<_> =
            files.map(|entry| Quarantined::named(entry.name, entry.len)).collect();
        files.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    pub(super) fn copies(&self, digest: SegmentDigest) -> Result<Vec<Quarantined>, StoreError> {
        let files = self.list_quarantine()?;
        self.listed.lock().take(&files, digest);
        Ok(files.into_iter().filter(|file| file.digest == Some(digest)).collect())
    }

    /// `None` for a copy that cannot be read or no longer exists.
    fn open_copy(&self, path: &str) -> Result<Option<Arc<dyn DiskFile>>, StoreError> {
        match self.disk.open(path, Open::ReadDirect) {
            Ok(file) => Ok(Some(Arc::from(file))),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(access_error("open", path, error)),
        }
    }

    fn bring_back(
        &self,
        copy: &Quarantined,
        digest: SegmentDigest,
        held: Held,
    ) -> Result<(), StoreError> {
        let path = format!("{QUARANTINE}/{}", copy.name);
        // The verified bytes may have come from the page cache, and their writer may not have
        // synced them.
        let opened = self.disk.open(&path, Open::Write);
        let file = opened.map_err(|error| access_error("open for writing", &path, error))?;
        file.sync().map_err(|error| self.fatal("sync", &path, error))?;
        self.take_place(&path, digest)?;
        self.listed.lock().forget(&copy.name);
        self.sync_dir(QUARANTINE)?;
        tracing::info!(%digest, len = held.raw_len(), "segment recovered from quarantine");
        Ok(())
    }
}

fn access_error(action: &'static str, path: &str, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            StoreError::NoAccess { action, path: path.to_owned(), source }
        }
        _ => io_error(action, path, source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_why_and_since_when() {
        let digest = SegmentDigest([0xab; 32]);
        for why in Why::ALL {
            let name = quarantine_name(digest, 3, why, 1_700_000_000_123);
            let read = Quarantined::named(name.clone(), 7);
            let want = (Some(digest), 7, Some(why), Some(1_700_000_000_123));
            assert_eq!((read.digest, read.bytes, read.why, read.since_ms), want, "{name}");
        }
    }

    #[test]
    fn names_of_older_versions_and_of_other_hands_are_read_as_far_as_they_go() {
        let digest = SegmentDigest([0xab; 32]);
        let old = Quarantined::named(format!("{digest}.0"), 1);
        assert_eq!((old.digest, old.why, old.since_ms), (Some(digest), None, None));
        let by_hand = Quarantined::named(digest.to_string(), 1);
        assert_eq!((by_hand.digest, by_hand.why), (Some(digest), None));
        let odd = Quarantined::named(format!("{digest}.0.odd.17"), 1);
        assert_eq!((odd.digest, odd.why, odd.since_ms), (Some(digest), None, None));
        assert_eq!(Quarantined::named("notes.txt".to_owned(), 1).digest, None);
    }
}
