//! Quarantine as a list, and the way back out of it: a copy is verified in full before it is held
//! again, under the digest's lock.
//!
//! ```text
//! quarantine/DIGEST.N.WHY.MS   N: number of the copy; WHY: bad, no-slot or in-the-way;
//!                              MS: wall clock of the move. Older files have no WHY and MS
//! ```
//!
//! Nothing here deletes a file. The copy that is good is moved to its place: synced, renamed, both
//! directories synced. The others stay.

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
    /// The catalogue had no slot for it at the node's start.
    NoSlot,
    /// It stood in the place of another file: a new copy of the same digest, as a rule.
    InTheWay,
}

impl Why {
    const ALL: [Self; 3] = [Self::Bad, Self::NoSlot, Self::InTheWay];

    /// As it stands in file names and on the wire.
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
    /// `None` for a file whose name is not one of ours.
    pub digest: Option<SegmentDigest>,
    /// File bytes.
    pub bytes: u64,
    /// `None` for a file of an older version, and for one that somebody else put there.
    pub why: Option<Why>,
    /// Wall clock, milliseconds since 1970.
    pub since_ms: Option<u64>,
}

impl Quarantined {
    fn named(name: String, bytes: u64) -> Self {
        let mut fields = name.split('.');
        // A file that was moved here by hand keeps its name, without a number.
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

/// What the copies of a digest in quarantine are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    None,
    /// So many, and none is good as a whole.
    Bad(usize),
    Good,
}

/// What became of a copy that was to be put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The segment is held, and was before.
    Held,
    /// A copy was good, and is held now.
    Back,
    None,
    /// So many, and none is good as a whole: all stay where they are.
    Bad(usize),
}

/// Files that the next restores may ask for, of the last listing.
const LISTED_MAX: usize = 4096;

/// A window on the quarantine directory as it was listed last. Says where a copy may be, never that
/// there is none.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// By name.
    files: Vec<Quarantined>,
}

impl Listed {
    /// Keeps the files from this digest on: whoever restores all asks by name.
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

/// Copies of a digest, and what they are worth.
struct Found {
    copies: Vec<Quarantined>,
    good: Option<(Quarantined, Held)>,
    /// One that this process may not read.
    no_access: Option<StoreError>,
}

impl SegmentStore {
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
            inner.know(digest).await?;
            let guard = inner.locks.lock(digest).await;
            if inner.index.len_of(digest).is_some() {
                return Ok(true);
            }
            if !inner.index.is_quarantined(digest) {
                // A fetch asks this each time it is tried: without a look at the disk.
                return Ok(false);
            }
            let restored = inner.restore_under(guard, digest, condition).await?;
            Ok(restored == Restored::Back)
        };
        self.inner.to_the_end("segment recover", work).await
    }

    /// As [`SegmentStore::recover_from_quarantine_if`], for an operator: also of files that
    /// somebody else has put there since the start.
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

    /// Reads the copies of a digest in quarantine until one is good as a whole. Moves nothing.
    /// `NoAccess` names a copy that this process may not read, where none is good.
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
        // Files that somebody else put there are not counted yet.
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
            // Once the job is over, not in it: whoever finds the digest here may report it.
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

    /// Reads the copies of a digest until one is good as a whole. Those that the last listing named
    /// come first: a good one is good whatever else lies there, and a directory of many files is not
    /// listed for each of them. That none is good, only a new listing can tell.
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

    /// A copy as the index holds it, if it is good as a whole.
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

/// What runs on the Data lane; everything here blocks.
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

    /// `None` for a copy that cannot be read, or is not there any more.
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
        // Verified bytes may have come from the cache; who wrote them may not have synced.
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
