//! Formatting a data directory and opening the store on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use cairn_core::ids::SegmentDigest;
use cairn_proto::seam::{Env, Lane};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::ballast::{BALLAST_FILE, make_ballast_if_room};
use super::books::Books;
use super::error::{Damage, StoreError};
use super::read::{is_damage, read_ends};
use super::{
    FatalHook, Inner, QUARANTINE, SEGMENTS, SegmentStore, StoreConfig, TMP, directory_of, io_error,
    tmp,
};
use crate::disk::{Disk, Open};

/// Directories looked through by one job, so that a start takes tens of jobs, not hundreds.
const JOB_DIRECTORIES: u8 = 16;
/// Such jobs at a time: start-up reads two pages of every file, which one job would do at the
/// pace of one seek after another.
const JOBS: usize = 4;

/// What opening the store found.
#[derive(Debug, Default)]
pub struct Found {
    /// Segments that are durable here, and their raw bytes.
    pub segments: u64,
    pub bytes: u64,
    /// Files that are not what their name says. They do not count; they stay where they are until
    /// `quarantine` or a new copy moves them aside.
    pub damaged: Vec<(SegmentDigest, Damage)>,
    /// Paths below `segments/` that are not ours; left alone.
    pub strangers: Vec<String>,
    /// Leftovers of a process that ended in the middle of an upload.
    pub tmp_removed: u64,
}

impl SegmentStore {
    /// Makes the store's directories, durably. May be repeated.
    pub async fn format(env: &Env, disk: &Arc<dyn Disk>) -> Result<(), StoreError> {
        let disk = Arc::clone(disk);
        env.blocking(Lane::Data, move || format_blocking(&*disk)).await
    }

    /// Opens a formatted store: syncs every segment directory, checks header, footer and length
    /// of every file (not its data), removes temporary files, and makes the ballast. `on_fatal` is called once, on
    /// the error after which the node must stop.
    pub async fn open(
        env: Env,
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        on_fatal: FatalHook,
    ) -> Result<(Self, Found), StoreError> {
        let inner = Arc::new(Inner {
            env: env.clone(),
            disk: Arc::clone(&disk),
            config,
            books: Arc::new(Books::default()),
            locks: Arc::default(),
            checks: Arc::default(),
            pool: Arc::default(),
            garbage: Arc::default(),
            counters: Default::default(),
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
        let firsts = (0..=u8::MAX).step_by(usize::from(JOB_DIRECTORIES));
        let jobs = firsts.map(|first| {
            let (inner, job) = (Arc::clone(&inner), Arc::clone(&inner));
            async move { inner.data(move || job.scan(first..=first + (JOB_DIRECTORIES - 1))).await }
        });
        let parts: Vec<Scanned> = stream::iter(jobs).buffered(JOBS).try_collect().await?;
        let mut found = Found { tmp_removed, ..Found::default() };
        for mut part in parts {
            for (digest, len) in part.good {
                found.segments += 1;
                found.bytes += len;
                inner.books.enter(digest, len);
            }
            found.damaged.append(&mut part.damaged);
            found.strangers.append(&mut part.strangers);
        }
        env.spawn("store janitor", tmp::run_janitor(env.clone(), disk, Arc::clone(&inner.garbage)));
        Ok((Self { inner }, found))
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

#[derive(Default)]
struct Scanned {
    good: Vec<(SegmentDigest, u64)>,
    damaged: Vec<(SegmentDigest, Damage)>,
    strangers: Vec<String>,
}

/// What runs on the Data lane; everything here blocks.
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
            self.books.enter_quarantine(file.digest, file.bytes);
        }
        Ok(left.len() as u64)
    }

    fn scan(&self, firsts: std::ops::RangeInclusive<u8>) -> Result<Scanned, StoreError> {
        let mut scanned = Scanned::default();
        for first in firsts {
            self.scan_directory(first, &mut scanned)?;
        }
        Ok(scanned)
    }

    /// The sync comes first: a name seen here may be one that a crashed process never synced.
    fn scan_directory(&self, first: u8, scanned: &mut Scanned) -> Result<(), StoreError> {
        let directory = directory_of(first);
        match self.disk.sync_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFormatted(directory));
            }
            synced => synced.map_err(|error| self.fatal("sync directory", &directory, error))?,
        }
        let entries =
            self.disk.list(&directory).map_err(|error| io_error("list", &directory, error))?;
        for entry in entries {
            let path = format!("{directory}/{}", entry.name);
            let digest = entry.name.parse::<SegmentDigest>().ok();
            // Parsing also takes capitals, which we never write.
            let ours = digest.filter(|digest| {
                !entry.is_dir && digest.0[0] == first && digest.to_string() == entry.name
            });
            let Some(digest) = ours else {
                tracing::warn!(path, "not a segment file, left alone");
                scanned.strangers.push(path);
                continue;
            };
            let file = self.disk.open(&path, Open::Read).map_err(Damage::Io);
            match file.and_then(|file| read_ends(&*file, digest)) {
                Ok((header, _)) => scanned.good.push((digest, header.raw_len)),
                Err(Damage::Io(error)) if !is_damage(&error) => {
                    return Err(io_error("read", &path, error));
                }
                Err(damage) => {
                    tracing::warn!(%digest, %damage, "segment file is damaged, does not count");
                    self.books.enter_damaged(digest, entry.len);
                    scanned.damaged.push((digest, damage));
                }
            }
        }
        Ok(())
    }
}
