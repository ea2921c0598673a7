//! Formatting a data directory and opening the store on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cairn_host::seam::{Env, Lane};
use cairn_types::form::Codecs;
use cairn_types::ids::SegmentDigest;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Notify;

use super::ballast::{BALLAST_FILE, make_ballast_if_room};
use super::error::{Damage, StoreError};
use super::index::{Held, StoreIndex};
use super::read::is_damage;
use super::{
    Inner, QUARANTINE, SEGMENTS, SegmentStore, StoreConfig, TMP, directory, directory_of, io_error,
    place, tmp,
};
use crate::disk::{Disk, Open, is_out_of_descriptors};
use crate::fatal::FatalHook;

/// Directories looked through at a time. One at a time would be limited by single seeks.
const DIRECTORIES: usize = 4;
/// Files checked by one job, which locks their digests. This is enough that a start needs few jobs,
/// and few enough that a task waiting for one of the digests waits only briefly.
const JOB_FILES: usize = 16;

/// The result of looking through the store.
#[derive(Debug, Default)]
pub struct Found {
    /// Segments that are durable here, and their raw bytes.
    pub segments: u64,
    pub bytes: u64,
    /// Files whose content does not match their name. They do not count as held. They stay in place
    /// until `quarantine` or a new copy moves them to quarantine.
    pub damaged: Vec<(SegmentDigest, Damage)>,
    /// Paths below `segments/` that are not in our format. They are left alone.
    pub strangers: Vec<String>,
    /// Leftovers of a process that ended in the middle of an upload.
    pub tmp_removed: u64,
}

impl SegmentStore {
    /// Makes the store's directories, durably. It is safe to call this again.
    pub async fn format(env: &Env, disk: &Arc<dyn Disk>) -> Result<(), StoreError> {
        let disk = Arc::clone(disk);
        env.blocking(Lane::Data, move || format_blocking(&*disk)).await
    }

    /// Opens a formatted store: removes temporary files, counts the files in quarantine, and makes
    /// the ballast. The set of held segments is complete once [`SegmentStore::look_through`] has
    /// ended. Until then a request for a segment first checks that segment's file. `on_fatal` is
    /// called once, on the error after which the node must stop.
    pub async fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        on_fatal: FatalHook,
    ) -> Result<Self, StoreError> {
        Self::open_with(env, disk, config, Codecs::KNOWN, on_fatal).await
    }

    /// Like [`SegmentStore::open`], with other codecs than those of this build.
    pub async fn open_with(
        env: Env,
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        codecs: Codecs,
        on_fatal: FatalHook,
    ) -> Result<Self, StoreError> {
        let inner = Arc::new(Inner {
            env: env.clone(),
            disk: Arc::clone(&disk),
            config,
            codecs,
            index: Arc::new(StoreIndex::default()),
            locks: Arc::default(),
            checks: Arc::default(),
            pool: Arc::default(),
            garbage: Arc::default(),
            counters: Default::default(),
            trouble: Default::default(),
            looked: Default::default(),
            listed: Default::default(),
            on_fatal,
            stopped: AtomicBool::new(false),
            next_tmp: AtomicU64::new(0),
        });
        let job = Arc::clone(&inner);
        let reserve = job.config.reserve_bytes;
        inner
            .data(move || make_ballast_if_room(&*job.disk, reserve))
            .await
            .map_err(|error| io_error("make", BALLAST_FILE, error))?;
        let job = Arc::clone(&inner);
        let tmp_removed = inner.data(move || job.sweep()).await?;
        inner.looked.tmp_removed.store(tmp_removed, Ordering::Relaxed);
        env.spawn("store janitor", tmp::run_janitor(env.clone(), disk, Arc::clone(&inner.garbage)));
        Ok(Self { inner })
    }

    /// Syncs every segment directory, and checks header, footer and length of every file, but not
    /// its data. This takes an hour for half a million files on a slow disk, so it runs beside
    /// normal work. Call it once.
    pub async fn look_through(&self) -> Result<Found, StoreError> {
        let inner = &self.inner;
        let directories = (0..=u8::MAX).map(|first| {
            let inner = Arc::clone(inner);
            async move {
                let found = inner.look_through_directory(first).await?;
                inner.looked.directories[usize::from(first)].store(true, Ordering::SeqCst);
                Ok::<Found, StoreError>(found)
            }
        });
        let mut parts = stream::iter(directories).buffered(DIRECTORIES);
        let tmp_removed = inner.looked.tmp_removed.load(Ordering::Relaxed);
        let mut found = Found { tmp_removed, ..Found::default() };
        while let Some(mut part) = parts.try_next().await? {
            found.segments += part.segments;
            found.bytes += part.bytes;
            found.damaged.append(&mut part.damaged);
            found.strangers.append(&mut part.strangers);
        }
        inner.looked.all.store(true, Ordering::SeqCst);
        inner.looked.over.notify_waiters();
        Ok(found)
    }

    /// Whether all files have been looked at. Then a segment that is not held has no file here.
    pub fn is_looked_through(&self) -> bool {
        self.inner.looked.all.load(Ordering::SeqCst)
    }

    /// Waits until all files have been looked at.
    pub async fn looked_through(&self) {
        loop {
            let over = self.inner.looked.over.notified();
            if self.is_looked_through() {
                return;
            }
            over.await;
        }
    }
}

/// The progress of looking at the files since the start.
pub(super) struct Looked {
    /// Indexed by the first byte of the digests in a directory.
    directories: [AtomicBool; 256],
    all: AtomicBool,
    over: Notify,
    tmp_removed: AtomicU64,
}

impl Default for Looked {
    fn default() -> Self {
        Self {
            directories: [const { AtomicBool::new(false) }; 256],
            all: AtomicBool::new(false),
            over: Notify::new(),
            tmp_removed: AtomicU64::new(0),
        }
    }
}

/// The result of looking at one file.
enum Look {
    Good(Held),
    Damaged(Damage),
    /// There is no file, or it is known already.
    Nothing,
}

impl Inner {
    /// Returns once it is known whether `digest` is held. Do not call this while holding its lock.
    pub(super) async fn know(self: &Arc<Self>, digest: SegmentDigest) -> Result<(), StoreError> {
        if self.looked.directories[usize::from(digest.0[0])].load(Ordering::SeqCst) {
            return Ok(());
        }
        let _guard = self.locks.lock(digest).await;
        let job = Arc::clone(self);
        let look = self
            .data(move || {
                // A crashed process may not have synced the name seen here.
                job.sync_dir(&directory(digest))?;
                job.look_at(digest)
            })
            .await?;
        self.enter(digest, look);
        Ok(())
    }

    async fn look_through_directory(self: &Arc<Self>, first: u8) -> Result<Found, StoreError> {
        let job = Arc::clone(self);
        let (digests, strangers) = self.data(move || job.list_directory(first)).await?;
        let mut found = Found { strangers, ..Found::default() };
        for digests in digests.chunks(JOB_FILES) {
            let mut guards = Vec::with_capacity(digests.len());
            for digest in digests {
                // Locked in order, so that a task that holds one of them does not wait for another.
                guards.push(self.locks.lock(*digest).await);
            }
            let (job, all) = (Arc::clone(self), digests.to_vec());
            let look = move || {
                let looks = all.into_iter().map(|digest| Ok((digest, job.look_at(digest)?)));
                looks.collect::<Result<Vec<_>, StoreError>>()
            };
            for (digest, look) in self.data(look).await? {
                if let Some(damage) = self.enter(digest, look) {
                    found.damaged.push((digest, damage));
                }
            }
            for digest in digests {
                if let Some(len) = self.index.len_of(*digest) {
                    found.segments += 1;
                    found.bytes += len;
                }
            }
            drop(guards);
        }
        Ok(found)
    }

    /// Done after the job, not inside it: any task that finds the digest held may report it.
    fn enter(&self, digest: SegmentDigest, look: Look) -> Option<Damage> {
        match look {
            Look::Good(held) => {
                self.index.enter(digest, held);
                None
            }
            Look::Damaged(damage) => Some(damage),
            Look::Nothing => None,
        }
    }
}

fn format_blocking(disk: &dyn Disk) -> Result<(), StoreError> {
    let create =
        |path: &str| disk.create_dir(path).map_err(|error| io_error("create", path, error));
    let sync = |path: &str| {
        let fatal =
            |source| StoreError::Fatal { action: "sync directory", path: path.to_owned(), source };
        disk.sync_dir(path).map_err(fatal)
    };
    create(SEGMENTS)?;
    create(TMP)?;
    create(QUARANTINE)?;
    for first in 0..=u8::MAX {
        create(&directory_of(first))?;
    }
    sync(SEGMENTS)?;
    sync("")
}

/// The part that runs on the Data lane. Everything here blocks.
impl Inner {
    /// Removes temporary files and counts what is in quarantine.
    fn sweep(&self) -> Result<u64, StoreError> {
        for path in [SEGMENTS, TMP, QUARANTINE] {
            if !self.disk.exists(path).map_err(|error| io_error("look for", path, error))? {
                return Err(StoreError::NotFormatted(path.to_owned()));
            }
        }
        let left = self.disk.list(TMP).map_err(|error| io_error("list", TMP, error))?;
        for entry in &left {
            tmp::remove(&*self.disk, &format!("{TMP}/{}", entry.name));
        }
        for file in self.list_quarantine()? {
            self.index.enter_quarantine(file.digest, file.bytes);
        }
        Ok(left.len() as u64)
    }

    /// The segments whose files are in a directory, and the other paths in it. The sync comes
    /// first: a crashed process may not have synced a name seen here.
    fn list_directory(&self, first: u8) -> Result<(Vec<SegmentDigest>, Vec<String>), StoreError> {
        let directory = directory_of(first);
        match self.disk.sync_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFormatted(directory));
            }
            Err(error) if is_out_of_descriptors(&error) => {
                return Err(io_error("open directory", &directory, error));
            }
            synced => synced.map_err(|error| self.fatal("sync directory", &directory, error))?,
        }
        let entries =
            self.disk.list(&directory).map_err(|error| io_error("list", &directory, error))?;
        let (mut digests, mut strangers) = (Vec::new(), Vec::new());
        for entry in entries {
            let digest = entry.name.parse::<SegmentDigest>().ok();
            // Parsing also accepts capital letters, which this store never writes.
            let ours = digest.filter(|digest| {
                !entry.is_dir && digest.0[0] == first && digest.to_string() == entry.name
            });
            match ours {
                Some(digest) => digests.push(digest),
                None => {
                    let path = format!("{directory}/{}", entry.name);
                    tracing::warn!(path, "not a segment file, left alone");
                    strangers.push(path);
                }
            }
        }
        Ok((digests, strangers))
    }

    /// Checks header, footer and length of the file of a digest, under its lock.
    fn look_at(&self, digest: SegmentDigest) -> Result<Look, StoreError> {
        if self.index.len_of(digest).is_some() || self.index.is_damaged(digest) {
            return Ok(Look::Nothing);
        }
        let path = place(digest);
        let bytes = match self.disk.stat(&path) {
            // The file was destroyed or moved to quarantine after the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Nothing),
            found => found.map_or(0, |found| found.len),
        };
        let file = self.disk.open(&path, Open::Read).map_err(Damage::Io);
        match file.and_then(|file| self.read_ends(&*file, digest)) {
            Ok(footer) => Ok(Look::Good(Held::of(&footer.blocks))),
            Err(Damage::Io(error)) if !is_damage(&error) => Err(io_error("read", &path, error)),
            Err(damage) => {
                tracing::warn!(%digest, %damage, "segment file is damaged, does not count");
                self.index.enter_damaged(digest, bytes);
                Ok(Look::Damaged(damage))
            }
        }
    }
}
