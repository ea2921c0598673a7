//! One running download: which data exists locally, which is fetched, which files are finished.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_types::limits::BLOCK_BYTES;
use cairn_types::model::{CheckpointInfo, Slot};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tracing::Instrument;

use super::reader::{Reader, Wanted};
use super::targets::{self, PieceOf, SegmentWork};
use super::{GetOptions, GetProgress, local, room};
use crate::caller_code;
use crate::cluster::Client;
use crate::error::ClientError;
use crate::sink::{FileTarget, Plan, Presence, Sink, SinkError};
use crate::task::Task;

/// Jobs that finish the files of one segment.
const FINISH_PARALLEL: usize = 4;

/// How often other runs may replace files while a run ends.
const REPLACED_ROUNDS_MAX: usize = 16;

/// The action for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Not written, only verified.
    Verify,
    /// Written. `created` tells whether its part file exists.
    Write { created: bool },
    /// Exists, but not all of it could be verified here: fetched and compared.
    Compare,
    /// Exists and is verified.
    Kept,
}

/// One running download.
pub(super) struct Get {
    client: Client,
    reader: Arc<Reader>,
    sink: Arc<dyn Sink>,
    pub targets: Vec<FileTarget>,
    directories: Vec<(Vec<u8>, u32)>,
    works: Vec<SegmentWork>,
    overwrite: bool,
    ignore_free_space: bool,
    verify_only: bool,
    modes: Mutex<Vec<Mode>>,
    /// By work: which of its pieces need not be fetched.
    good: Mutex<BTreeMap<usize, Vec<bool>>>,
    /// By file: the number of pieces still to be fetched.
    left: Vec<AtomicUsize>,
    pub progress: Arc<GetProgress>,
}

impl Get {
    pub fn new(
        client: &Client,
        checkpoint: &CheckpointInfo,
        sink: Arc<dyn Sink>,
        wanted: targets::Wanted,
        options: &GetOptions,
    ) -> Self {
        let targets::Wanted { files: targets, directories } = wanted;
        let progress = options.progress.clone();
        progress.note_targets(&targets);
        Self {
            client: client.about(checkpoint.id),
            reader: Reader::new(client, checkpoint),
            sink,
            works: targets::segment_works(&targets),
            modes: Mutex::new(vec![Mode::Verify; targets.len()]),
            left: targets.iter().map(|_| AtomicUsize::new(0)).collect(),
            targets,
            directories,
            overwrite: options.overwrite,
            ignore_free_space: options.ignore_free_space,
            verify_only: options.verify_only,
            good: Mutex::default(),
            progress,
        }
    }

    /// Examines the existing files before anything is fetched or written.
    pub async fn prepare(self: &Arc<Self>) -> Result<(), ClientError> {
        let get = self.clone();
        let begin = move || {
            let Get { targets: files, directories, overwrite, .. } = &*get;
            get.sink.begin(&Plan { files, directories, replace: *overwrite })
        };
        let presences = caller_code::blocking(&self.client.env, begin).await?;
        let mut presences = Arc::new(presences);
        for index in 0..self.works.len() {
            let is_local = |piece: &PieceOf| presences[piece.file] != Presence::Absent;
            if self.works[index].pieces.iter().any(is_local) {
                let good = self.good_pieces(index, &presences).await?;
                self.good.lock().insert(index, good);
            }
        }
        if self.overwrite {
            presences = self.resume(presences).await?;
        }
        self.choose_modes(&presences);
        Ok(())
    }

    /// Which pieces of a work are right in their place.
    async fn good_pieces(
        self: &Arc<Self>,
        index: usize,
        presences: &Arc<Vec<Presence>>,
    ) -> Result<Vec<bool>, ClientError> {
        let (get, presences) = (self.clone(), presences.clone());
        let look = move || {
            let work = &get.works[index];
            Ok::<_, ClientError>(local::good_pieces(&*get.sink, &get.targets, &presences, work))
        };
        caller_code::blocking(&self.client.env, look).await
    }

    /// A file that is to be replaced may have a part file of a killed run. The download continues
    /// with that file.
    async fn resume(
        self: &Arc<Self>,
        presences: Arc<Vec<Presence>>,
    ) -> Result<Arc<Vec<Presence>>, ClientError> {
        let whole = self.whole();
        let wrong = |file: &usize| presences[*file] == Presence::Final && !whole[*file];
        let wrong: Vec<usize> = (0..self.targets.len()).filter(wrong).collect();
        if wrong.is_empty() {
            return Ok(presences);
        }
        let targets: Vec<_> = wrong.iter().map(|file| self.targets[*file].clone()).collect();
        let sink = self.sink.clone();
        let resumed =
            caller_code::blocking(&self.client.env, move || sink.resume(&targets)).await?;
        let mut with_parts = (*presences).clone();
        for (file, _) in wrong.iter().zip(resumed).filter(|(_, resumed)| *resumed) {
            with_parts[*file] = Presence::Part;
        }
        let with_parts = Arc::new(with_parts);
        let is_part = |piece: &PieceOf| with_parts[piece.file] != presences[piece.file];
        for index in 0..self.works.len() {
            let pieces = &self.works[index].pieces;
            if !pieces.iter().any(is_part) {
                continue;
            }
            let now = self.good_pieces(index, &with_parts).await?;
            let mut good = self.good.lock();
            let before = good.entry(index).or_insert_with(|| vec![false; pieces.len()]);
            for ((piece, before), now) in pieces.iter().zip(before).zip(now) {
                // A piece found right outside the replaced files stays right.
                *before = now || (*before && !is_part(piece));
            }
        }
        Ok(with_parts)
    }

    /// By file: whether all its pieces are right in their place.
    fn whole(&self) -> Vec<bool> {
        let good = self.good.lock();
        let mut whole = vec![true; self.targets.len()];
        for (index, work) in self.works.iter().enumerate() {
            let known = good.get(&index);
            for (place, piece) in work.pieces.iter().enumerate() {
                whole[piece.file] &= known.is_some_and(|known| known[place]);
            }
        }
        whole
    }

    fn choose_modes(&self, presences: &[Presence]) {
        let whole = self.whole();
        let mut good = self.good.lock();
        let mode = |(presence, whole): (&Presence, &bool)| match presence {
            Presence::Final if *whole => Mode::Kept,
            Presence::Final if !self.overwrite => Mode::Compare,
            Presence::Part => Mode::Write { created: true },
            _ => Mode::Write { created: false },
        };
        let modes: Vec<Mode> = presences.iter().zip(&whole).map(mode).collect();
        for (index, known) in good.iter_mut() {
            for (place, piece) in self.works[*index].pieces.iter().enumerate() {
                // A new file keeps no data of the file that it replaces.
                if modes[piece.file] == (Mode::Write { created: false }) {
                    known[place] = false;
                }
                if known[place] {
                    self.progress.add(&self.progress.bytes_kept, piece.len.into());
                }
            }
        }
        *self.modes.lock() = modes;
    }

    /// Fetches the missing pieces and finishes each file after its last piece. Returns the number
    /// of segments.
    pub async fn fetch(self: &Arc<Self>, parallel: usize) -> Result<u64, ClientError> {
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
        self.check_room(&missing).await?;
        let complete = |file: &usize| self.left[*file].load(Ordering::Relaxed) == 0;
        self.finish((0..self.targets.len()).filter(complete).collect()).await?;
        let digests: Vec<_> = missing.iter().map(|(index, _)| self.works[*index].digest).collect();
        let located = self.client.locate(&digests).await?;
        let count = missing.len() as u64;
        let mut tasks = stream::iter(missing.into_iter().zip(located))
            .map(|((index, pieces), located)| {
                let span = tracing::debug_span!("segment", digest = %located.digest);
                let work = self.clone().fetch_segment(index, pieces, located.slots);
                let work = work.instrument(span);
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
        let pieces = Arc::new(pieces);
        self.read_pieces(index, pieces.clone(), slots).await?;
        let is_last = |piece: &&PieceOf| self.left[piece.file].fetch_sub(1, Ordering::AcqRel) == 1;
        let complete = pieces.iter().filter(is_last).map(|piece| piece.file).collect();
        self.finish(complete).await
    }

    async fn read_pieces(
        self: &Arc<Self>,
        index: usize,
        pieces: Arc<Vec<PieceOf>>,
        slots: Vec<Slot>,
    ) -> Result<(), ClientError> {
        let work = &self.works[index];
        let blocks = if self.verify_only {
            work.all_blocks()
        } else {
            SegmentWork::blocks(&*pieces).unwrap_or_default()
        };
        let file = pieces.first().map(|piece| self.targets[piece.file].shown());
        let wanted = Wanted {
            digest: work.digest,
            len: work.len,
            blocks,
            slots,
            file: file.unwrap_or_default(),
        };
        self.reader
            .read(&wanted, |index, bytes| {
                let (get, pieces) = (self.clone(), pieces.clone());
                async move {
                    get.progress.add(&get.progress.bytes_fetched, bytes.len() as u64);
                    let env = get.client.env.clone();
                    let write = move || get.place(&pieces, index as u64 * BLOCK_BYTES, &bytes);
                    caller_code::blocking(&env, write).await
                }
            })
            .await
    }

    /// Writes a verified block, which starts at `start` of its segment, to the places of its
    /// pieces.
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
            self.progress.add(&self.progress.bytes_done, slice.len() as u64);
        }
        Ok(())
    }

    /// A file's mode. If the file is to be written and has no part file, makes one.
    fn ready(&self, file: usize) -> Result<Mode, SinkError> {
        let mut modes = self.modes.lock();
        if modes[file] == (Mode::Write { created: false }) {
            self.sink.create(&self.targets[file])?;
            modes[file] = Mode::Write { created: true };
        }
        Ok(modes[file])
    }

    /// Every piece of these files exists now.
    async fn finish(self: &Arc<Self>, files: Vec<usize>) -> Result<(), ClientError> {
        if files.is_empty() {
            return Ok(());
        }
        // Each file is synced, and parallel syncs share the journal's commits.
        let share = files.len().div_ceil(FINISH_PARALLEL);
        let jobs: Vec<_> = files
            .chunks(share)
            .map(|files| {
                let (get, files) = (self.clone(), files.to_vec());
                let finish = move || files.into_iter().try_for_each(|file| get.finish_file(file));
                caller_code::blocking(&self.client.env, finish)
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
        self.progress.add(&self.progress.files_done, 1);
        Ok(())
    }

    /// The last step. Another run may have replaced this run's files meanwhile. If they hold the
    /// same bytes, that is no conflict.
    pub async fn complete(self: &Arc<Self>) -> Result<(), ClientError> {
        for _ in 0..REPLACED_ROUNDS_MAX {
            let get = self.clone();
            let look = move || get.sink.replaced(&get.targets);
            let replaced = caller_code::blocking(&self.client.env, look).await?;
            if replaced.is_empty() {
                break;
            }
            self.verify_again(&replaced).await?;
        }
        let sink = self.sink.clone();
        caller_code::blocking(&self.client.env, move || sink.complete()).await?;
        Ok(())
    }

    /// Verifies every byte of files with which another run replaced this run's files.
    async fn verify_again(self: &Arc<Self>, replaced: &[usize]) -> Result<(), ClientError> {
        let presences = Arc::new(vec![Presence::Final; self.targets.len()]);
        let is_replaced = |piece: &PieceOf| replaced.contains(&piece.file);
        for index in 0..self.works.len() {
            let work = &self.works[index];
            if !work.pieces.iter().any(is_replaced) {
                continue;
            }
            let good = self.good_pieces(index, &presences).await?;
            let doubtful =
                work.pieces.iter().zip(good).filter(|(piece, good)| is_replaced(piece) && !good);
            let doubtful: Vec<PieceOf> = doubtful.map(|(piece, _)| *piece).collect();
            if doubtful.is_empty() {
                continue;
            }
            // Not all of the segment is here, or it is wrong. It is compared with the cluster's
            // copy.
            doubtful.iter().for_each(|piece| self.modes.lock()[piece.file] = Mode::Compare);
            let located = self.client.locate(&[work.digest]).await?;
            let slots = located.into_iter().flat_map(|located| located.slots).collect();
            let compared = self.read_pieces(index, Arc::new(doubtful), slots).await;
            compared.map_err(|error| match error {
                ClientError::Sink(SinkError::WouldOverwrite { name }) => {
                    ClientError::Sink(SinkError::Replaced { name })
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// Existing files that are complete and verified.
    pub fn files_kept(&self) -> u64 {
        self.modes.lock().iter().filter(|mode| **mode == Mode::Kept).count() as u64
    }

    /// Asks the sink whether it has room for the missing data.
    async fn check_room(
        self: &Arc<Self>,
        missing: &[(usize, Vec<PieceOf>)],
    ) -> Result<(), ClientError> {
        if self.verify_only || self.ignore_free_space || missing.is_empty() {
            return Ok(());
        }
        let (get, missing) = (self.clone(), missing.to_vec());
        let check = move || {
            let is_written = |file: usize| matches!(get.modes.lock()[file], Mode::Write { .. });
            let needed = room::needed(&get.works, &missing, is_written);
            let files = needed.iter().map(|(file, bytes)| (&get.targets[*file], *bytes));
            get.sink.check_room(&files.collect::<Vec<_>>())
        };
        caller_code::blocking(&self.client.env, check).await
    }
}
