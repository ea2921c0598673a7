//! Downloads: a checkpoint, or some of its files, or a range of one, verified byte by byte.
//!
//! ```text
//! resolve -> manifests -> files and their segments -> what is here already?
//!    -> locate the rest -> read, several at a time -> write blocks in place -> finish files
//! ```
//!
//! Memory is bounded by the number of segments read at once: each holds a few blocks of 1 MiB.

mod blocks;
mod local;
mod range;
mod reader;
mod targets;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::blocks::block_count;
use cairn_core::ids::Address;
use cairn_core::limits::{BLOCK_BYTES, MANIFEST_BYTES_MAX};
use cairn_core::model::{CheckpointInfo, ManifestPlace, Slot};
use cairn_proto::manifest::Manifest;
use cairn_proto::seam::Lane;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::reader::{Reader, Wanted};
use self::targets::{PieceOf, SegmentWork};
use crate::catalogue::{LocatedSegment, malformed};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::sink::{FileTarget, Presence, Sink, SinkError};
use crate::task::Task;

/// Manifests read at once.
const MANIFESTS_PARALLEL: usize = 8;
/// Jobs that finish the files of one segment.
const FINISH_PARALLEL: usize = 4;

/// Which files, by name.
pub type Include = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How to download. The default takes everything and overwrites nothing.
pub struct GetOptions {
    pub include: Option<Include>,
    /// Reads and verifies everything, writes nothing.
    pub verify_only: bool,
    /// Replaces existing files whose content differs.
    pub overwrite: bool,
    /// Segments read at once.
    pub parallel: usize,
    pub progress: Arc<GetProgress>,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            include: None,
            verify_only: false,
            overwrite: false,
            parallel: 8,
            progress: Arc::default(),
        }
    }
}

/// Counters of a running download.
#[derive(Debug, Default)]
pub struct GetProgress {
    pub files_total: AtomicU64,
    pub bytes_total: AtomicU64,
    /// Of files, found right where they were.
    pub bytes_kept: AtomicU64,
    /// Of files, read and verified.
    pub bytes_done: AtomicU64,
    /// Verified bytes from the network, including what lies between wanted pieces.
    pub bytes_fetched: AtomicU64,
    pub files_done: AtomicU64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct GetReport {
    pub checkpoint: CheckpointInfo,
    pub files: u64,
    pub bytes: u64,
    /// Already there, whole and verified.
    pub files_kept: u64,
    /// Bytes of files that were not fetched because they were there.
    pub bytes_kept: u64,
    pub bytes_fetched: u64,
    pub segments_fetched: u64,
    pub elapsed: Duration,
}

impl Client {
    /// Downloads what `options` asks for into `sink`.
    pub fn get<'a>(
        &'a self,
        address: &'a Address,
        sink: Arc<dyn Sink>,
        options: GetOptions,
    ) -> Answer<'a, GetReport> {
        Box::pin(async move {
            let started = Instant::now();
            let info = self.resolve(address).await?;
            let manifests = self.manifests(&info).await?;
            let include =
                |name: &[u8]| options.include.as_ref().is_none_or(|include| include(name));
            let targets = targets::targets(&manifests, include)?;
            let get = Arc::new(Get::new(self, sink, targets, &options));
            if !options.verify_only {
                get.prepare(&manifests, &options).await?;
            }
            let segments_fetched = get.fetch(options.parallel).await?;
            get.complete().await?;
            let files_kept = get.modes.lock().iter().filter(|mode| **mode == Mode::Kept).count();
            Ok(GetReport {
                files: get.targets.len() as u64,
                bytes: get.targets.iter().map(|target| target.len).sum(),
                files_kept: files_kept as u64,
                bytes_kept: get.progress.bytes_kept.load(Ordering::Relaxed),
                bytes_fetched: get.progress.bytes_fetched.load(Ordering::Relaxed),
                segments_fetched,
                elapsed: started.elapsed(),
                checkpoint: info,
            })
        })
    }

    /// The decoded manifests of a checkpoint, one a part.
    pub fn manifests<'a>(&'a self, info: &'a CheckpointInfo) -> Answer<'a, Vec<Manifest>> {
        Box::pin(async move {
            let reader = Reader::new(self);
            // The futures are made outside the stream: a closure over borrowed parts inside it would
            // make this future one that cannot be spawned.
            let parts = info.parts.iter().enumerate();
            let manifests: Vec<_> = parts
                .map(|(part, sealed)| self.manifest(reader.clone(), part, sealed.manifest.clone()))
                .collect();
            stream::iter(manifests).buffered(MANIFESTS_PARALLEL).try_collect().await
        })
    }

    async fn manifest(
        &self,
        reader: Arc<Reader>,
        part: usize,
        place: ManifestPlace,
    ) -> Result<Manifest, ClientError> {
        let name = format!("the manifest of part {part}");
        let bytes = match place {
            ManifestPlace::Inline(bytes) => bytes.to_vec(),
            ManifestPlace::Segments(digests) => {
                let located = self.locate(&digests).await?;
                let len: u64 = located.iter().map(|segment| u64::from(segment.len)).sum();
                if len > MANIFEST_BYTES_MAX {
                    let what = "the manifest, bytes";
                    return Err(ClientError::TooLarge { what, got: len, max: MANIFEST_BYTES_MAX });
                }
                let mut bytes = Vec::new();
                for LocatedSegment { digest, len, slots, .. } in located {
                    let blocks = 0..block_count(u64::from(len)).max(1);
                    let wanted = Wanted { digest, len, blocks, slots, file: name.clone() };
                    for block in read_whole(&reader, &wanted).await? {
                        bytes.extend_from_slice(&block);
                    }
                }
                bytes
            }
        };
        let decoded = self.env.blocking(Lane::Client, move || Manifest::decode(&bytes)).await;
        decoded.map_err(|error| malformed(&name, error.to_string()))
    }
}

async fn read_whole(reader: &Arc<Reader>, wanted: &Wanted) -> Result<Vec<Bytes>, ClientError> {
    let blocks = Mutex::new(Vec::with_capacity(wanted.blocks.len()));
    reader
        .read(wanted, |_, bytes| {
            blocks.lock().push(bytes);
            std::future::ready(Ok(()))
        })
        .await?;
    Ok(blocks.into_inner())
}

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing: only verified.
    Verify,
    /// Written; `created` where its part file is there.
    Write { created: bool },
    /// There already, but not all of it could be verified here: fetched and compared.
    Compare,
    /// There already, verified.
    Kept,
}

/// One running download.
struct Get {
    client: Client,
    reader: Arc<Reader>,
    sink: Arc<dyn Sink>,
    targets: Vec<FileTarget>,
    works: Vec<SegmentWork>,
    overwrite: bool,
    verify_only: bool,
    modes: Mutex<Vec<Mode>>,
    /// Of each work, which of its pieces need not be fetched.
    good: Mutex<BTreeMap<usize, Vec<bool>>>,
    /// Of each file, pieces still to be fetched.
    left: Vec<AtomicUsize>,
    progress: Arc<GetProgress>,
}

impl Get {
    fn new(
        client: &Client,
        sink: Arc<dyn Sink>,
        targets: Vec<FileTarget>,
        options: &GetOptions,
    ) -> Self {
        let progress = options.progress.clone();
        let bytes = targets.iter().map(|target| target.len).sum();
        progress.files_total.store(targets.len() as u64, Ordering::Relaxed);
        progress.bytes_total.store(bytes, Ordering::Relaxed);
        Self {
            client: client.clone(),
            reader: Reader::new(client),
            sink,
            works: targets::segment_works(&targets),
            modes: Mutex::new(vec![Mode::Verify; targets.len()]),
            left: targets.iter().map(|_| AtomicUsize::new(0)).collect(),
            targets,
            overwrite: options.overwrite,
            verify_only: options.verify_only,
            good: Mutex::default(),
            progress,
        }
    }

    /// Looks at what is there, before anything is fetched or written.
    async fn prepare(
        self: &Arc<Self>,
        manifests: &[Manifest],
        options: &GetOptions,
    ) -> Result<(), ClientError> {
        let include = |name: &[u8]| options.include.as_ref().is_none_or(|include| include(name));
        let directories: Vec<(Vec<u8>, u32)> = manifests
            .iter()
            .flat_map(|manifest| &manifest.directories)
            .filter(|directory| include(&directory.name))
            .map(|directory| (directory.name.clone(), directory.mode))
            .collect();
        let get = self.clone();
        let presences =
            self.client.env.blocking(Lane::Client, move || get.probe_all(&directories)).await?;
        let presences = Arc::new(presences);
        let is_local =
            |piece: &PieceOf| matches!(presences[piece.file], Presence::Part | Presence::Final);
        for index in 0..self.works.len() {
            if !self.works[index].pieces.iter().any(is_local) {
                continue;
            }
            let (get, presences) = (self.clone(), presences.clone());
            let good = self.client.env.blocking(Lane::Client, move || {
                local::good_pieces(&*get.sink, &get.targets, &presences, &get.works[index])
            });
            let good = good.await;
            self.good.lock().insert(index, good);
        }
        self.choose_modes(&presences);
        Ok(())
    }

    fn probe_all(&self, directories: &[(Vec<u8>, u32)]) -> Result<Vec<Presence>, SinkError> {
        let mut presences = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            let presence = self.sink.probe(target)?;
            if presence == Presence::Other && !self.overwrite {
                return Err(SinkError::WouldOverwrite { name: target.shown() });
            }
            presences.push(presence);
        }
        for (name, mode) in directories {
            self.sink.make_directory(name, *mode)?;
        }
        Ok(presences)
    }

    fn choose_modes(&self, presences: &[Presence]) {
        let mut good = self.good.lock();
        let mut whole = vec![true; self.targets.len()];
        for (index, work) in self.works.iter().enumerate() {
            let known = good.get(&index);
            for (place, piece) in work.pieces.iter().enumerate() {
                whole[piece.file] &= known.is_some_and(|known| known[place]);
            }
        }
        let mode = |(presence, whole): (&Presence, &bool)| match presence {
            Presence::Final if *whole => Mode::Kept,
            Presence::Final if !self.overwrite => Mode::Compare,
            Presence::Part => Mode::Write { created: true },
            _ => Mode::Write { created: false },
        };
        let modes: Vec<Mode> = presences.iter().zip(&whole).map(mode).collect();
        for (index, known) in good.iter_mut() {
            for (place, piece) in self.works[*index].pieces.iter().enumerate() {
                // A file written anew takes nothing over from the one it replaces.
                if modes[piece.file] == (Mode::Write { created: false }) {
                    known[place] = false;
                }
                if known[place] {
                    self.progress.bytes_kept.fetch_add(piece.len.into(), Ordering::Relaxed);
                }
            }
        }
        *self.modes.lock() = modes;
    }

    /// Fetches what is missing and finishes each file with its last piece; counts segments.
    async fn fetch(self: &Arc<Self>, parallel: usize) -> Result<u64, ClientError> {
        let mut missing: Vec<(usize, Vec<PieceOf>)> = Vec::new();
        for (index, work) in self.works.iter().enumerate() {
            let good = self.good.lock().get(&index).cloned();
            let is_missing = |place: usize| good.as_ref().is_none_or(|good| !good[place]);
            let pieces: Vec<PieceOf> = (0..work.pieces.len())
                .filter(|place| is_missing(*place))
                .map(|place| work.pieces[place])
                .collect();
            for piece in &pieces {
                self.left[piece.file].fetch_add(1, Ordering::Relaxed);
            }
            if !pieces.is_empty() {
                missing.push((index, pieces));
            }
        }
        let complete = |file: &usize| self.left[*file].load(Ordering::Relaxed) == 0;
        self.finish((0..self.targets.len()).filter(complete).collect()).await?;
        let digests: Vec<_> = missing.iter().map(|(index, _)| self.works[*index].digest).collect();
        let located = self.client.locate(&digests).await?;
        let count = missing.len() as u64;
        let mut tasks = stream::iter(missing.into_iter().zip(located))
            .map(|((index, pieces), located)| {
                let work = self.clone().fetch_segment(index, pieces, located.slots);
                Task::run(&self.client.env, "fetch segment", work)
            })
            .buffer_unordered(parallel.max(1));
        while let Some(fetched) = tasks.next().await {
            fetched?;
        }
        Ok(count)
    }

    async fn fetch_segment(
        self: Arc<Self>,
        index: usize,
        pieces: Vec<PieceOf>,
        slots: Vec<Slot>,
    ) -> Result<(), ClientError> {
        let work = &self.works[index];
        let blocks = if self.verify_only {
            work.all_blocks()
        } else {
            SegmentWork::blocks(&pieces).unwrap_or_default()
        };
        let file = pieces.first().map(|piece| self.targets[piece.file].shown());
        let wanted = Wanted {
            digest: work.digest,
            len: work.len,
            blocks,
            slots,
            file: file.unwrap_or_default(),
        };
        let pieces = Arc::new(pieces);
        self.reader
            .read(&wanted, |index, bytes| {
                let (get, pieces) = (self.clone(), pieces.clone());
                async move {
                    get.progress.bytes_fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    let env = get.client.env.clone();
                    let write = move || get.place(&pieces, index as u64 * BLOCK_BYTES, &bytes);
                    env.blocking(Lane::Client, write).await.map_err(ClientError::Sink)
                }
            })
            .await?;
        let is_last = |piece: &&PieceOf| self.left[piece.file].fetch_sub(1, Ordering::AcqRel) == 1;
        let complete = pieces.iter().filter(is_last).map(|piece| piece.file).collect();
        self.finish(complete).await
    }

    /// Puts a verified block, which starts at `start` of its segment, where its pieces belong.
    fn place(&self, pieces: &[PieceOf], start: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let end = start + bytes.len() as u64;
        for piece in pieces {
            let from = start.max(piece.offset.into());
            let to = end.min(u64::from(piece.offset) + u64::from(piece.len));
            if from >= to {
                continue;
            }
            let slice = &bytes[(from - start) as usize..(to - start) as usize];
            let target = &self.targets[piece.file];
            let offset = piece.file_offset + (from - u64::from(piece.offset));
            match self.ready(piece.file)? {
                Mode::Write { .. } => self.sink.write_at(target, offset, slice)?,
                Mode::Compare => {
                    let mut there = vec![0; slice.len()];
                    self.sink.read_at(target, Presence::Final, offset, &mut there)?;
                    if there != slice {
                        return Err(SinkError::WouldOverwrite { name: target.shown() });
                    }
                }
                Mode::Verify | Mode::Kept => {}
            }
            self.progress.bytes_done.fetch_add(slice.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A file's mode; makes its part file if it is to be written and has none.
    fn ready(&self, file: usize) -> Result<Mode, SinkError> {
        let mut modes = self.modes.lock();
        if modes[file] == (Mode::Write { created: false }) {
            self.sink.create(&self.targets[file])?;
            modes[file] = Mode::Write { created: true };
        }
        Ok(modes[file])
    }

    /// Every piece of these files is there.
    async fn finish(self: &Arc<Self>, files: Vec<usize>) -> Result<(), ClientError> {
        if files.is_empty() {
            return Ok(());
        }
        // Each file is synced, and syncs that run at once share the journal's commits.
        let share = files.len().div_ceil(FINISH_PARALLEL);
        let jobs: Vec<_> = files
            .chunks(share)
            .map(|files| {
                let (get, files) = (self.clone(), files.to_vec());
                let finish = move || files.into_iter().try_for_each(|file| get.finish_file(file));
                self.client.env.blocking(Lane::Client, finish)
            })
            .collect();
        for finished in futures::future::join_all(jobs).await {
            finished?;
        }
        Ok(())
    }

    fn finish_file(&self, file: usize) -> Result<(), SinkError> {
        match self.ready(file)? {
            Mode::Write { .. } => self.sink.finish(&self.targets[file], self.overwrite)?,
            Mode::Compare => self.modes.lock()[file] = Mode::Kept,
            Mode::Verify | Mode::Kept => {}
        }
        self.progress.files_done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn complete(self: &Arc<Self>) -> Result<(), ClientError> {
        if self.verify_only {
            return Ok(());
        }
        let sink = self.sink.clone();
        self.client.env.blocking(Lane::Client, move || sink.complete()).await?;
        Ok(())
    }
}
