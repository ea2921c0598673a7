//! From segments in a source to segments on W nodes, with bounded memory.
//!
//! Batches make themselves: while one Stage is on its way, what is hashed meanwhile gathers for
//! the next. So a slow source gets small batches at once, a fast one large ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_host::seam::{Env, Lane};
use cairn_types::command::StagedSegment;
use cairn_types::form::Form;
use cairn_types::ids::{Run, SegmentDigest, SegmentId};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::progress::Progress;
use super::send::{Outgoing, Upload};
use crate::caller_code;
use crate::cut::{self, Piece, Plan, PlannedSegment};
use crate::download::fetch_segment;
use crate::error::ClientError;
use crate::source::{Source, SourceEntry, SourceError};
use crate::task::Task;

/// Segments that are read and hashed at the same time.
const HASHERS: usize = 2;
/// What a segment takes of the budget at least: bounds the number of tiny ones.
const FOREGROUND_KIB_MIN: u32 = 64;
/// Pause before a Stage that was refused for a want of nodes is tried again.
const NODES_PAUSE: Duration = Duration::from_millis(500);

/// Names a segment that can be read, again if need be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Planned(usize),
    Manifest(usize),
}

/// What the segments are read from.
pub(super) struct Feed {
    source: Arc<dyn Source>,
    plan: Plan,
    /// Of a file that was written piece by piece: its segments. Its bytes are in the cluster only.
    written: Option<Vec<SegmentHash>>,
}

/// The list of files of a writer. It has one.
struct WrittenSource([SourceEntry; 1]);

impl Source for WrittenSource {
    fn entries(&self) -> &[SourceEntry] {
        &self.0
    }

    fn read_at(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), SourceError> {
        let path = crate::sink::shown(&self.0[0].name);
        Err(SourceError::Io { path, error: std::io::ErrorKind::Unsupported.into() })
    }
}

impl Feed {
    pub fn new(source: Arc<dyn Source>, plan: Plan) -> Self {
        Self { source, plan, written: None }
    }

    /// One file that was written in segments of these lengths.
    pub fn written(mut entry: SourceEntry, lens: &[u32], hashes: Vec<SegmentHash>) -> Self {
        let mut plan = Plan::default();
        entry.len = 0;
        for len in lens.iter().copied() {
            let pieces = vec![Piece { file: 0, offset: entry.len, len }];
            plan.segments.push(PlannedSegment { pieces, len });
            entry.len += u64::from(len);
        }
        Self { source: Arc::new(WrittenSource([entry])), plan, written: Some(hashes) }
    }

    /// What is known of the segments without reading them.
    pub fn known_hashes(&self) -> Option<&[SegmentHash]> {
        self.written.as_deref()
    }

    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// An error where files were added, removed or renamed since they were listed.
    pub async fn check_unchanged(&self, env: &Env) -> Result<(), ClientError> {
        let source = self.source.clone();
        caller_code::blocking(env, move || source.check_unchanged()).await
    }

    /// Items of all planned segments.
    pub fn planned(&self) -> Vec<Item> {
        (0..self.plan.segments.len()).map(Item::Planned).collect()
    }
}

/// What reading a planned segment gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHash {
    pub digest: SegmentDigest,
    /// BLAKE3 of each piece where files share the segment; empty where one has it alone.
    pub pieces: Vec<[u8; 32]>,
}

/// A segment in memory, and its share of the budget.
struct Hashed {
    item: Item,
    hash: SegmentHash,
    bytes: Bytes,
    permit: OwnedSemaphorePermit,
}

type StageResult = Result<Vec<(Hashed, StagedSegment)>, ClientError>;

enum Event {
    Stored(Result<(), ClientError>),
    Staged(StageResult),
    Hashed(Option<Result<Hashed, ClientError>>),
}

pub(super) struct Pipeline {
    upload: Arc<Upload>,
    feed: Arc<Feed>,
    manifest: Vec<Bytes>,
    budget: Arc<Semaphore>,
    /// Of the planned segments, in order, as far as they are hashed.
    hashes: Vec<SegmentHash>,
    /// Every digest staged, and one item that has it.
    items: BTreeMap<SegmentDigest, Item>,
    ids: BTreeMap<SegmentId, SegmentDigest>,
}

impl Pipeline {
    pub fn new(upload: Arc<Upload>, feed: Arc<Feed>) -> Self {
        Self {
            budget: upload.budgets.foreground.clone(),
            upload,
            feed,
            manifest: Vec::new(),
            hashes: Vec::new(),
            items: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    pub fn run(&self) -> Run {
        self.upload.run
    }

    /// Of the planned segments, once they were transferred.
    pub fn hashes(&self) -> &[SegmentHash] {
        &self.hashes
    }

    pub fn set_feed(&mut self, feed: Arc<Feed>) {
        self.feed = feed;
    }

    pub fn set_manifest(&mut self, segments: Vec<Bytes>) {
        self.manifest = segments;
    }

    /// Items of those segments that this run staged.
    pub fn items_of(&self, segments: &[SegmentId]) -> Vec<Item> {
        let digests = segments.iter().filter_map(|id| self.ids.get(id));
        digests.filter_map(|digest| self.items.get(digest).copied()).collect()
    }

    /// Brings every item to W nodes. With `again`, items that were transferred before too.
    pub async fn transfer(&mut self, items: Vec<Item>, again: bool) -> Result<(), ClientError> {
        let upload = self.upload.clone();
        let (feed, manifest, budget) =
            (self.feed.clone(), self.manifest.clone(), self.budget.clone());
        let hashed = stream::iter(items)
            .map(|item| load(&upload, &feed, &manifest, &budget, item))
            .buffered(HASHERS);
        self.bring(hashed, again).await
    }

    /// Brings segments to W nodes that are there once; their lengths.
    pub async fn transfer_written(
        &mut self,
        chunks: impl Stream<Item = Result<Bytes, ClientError>> + Send,
    ) -> Result<Vec<u32>, ClientError> {
        let (env, budget) = (self.upload.client.env.clone(), self.budget.clone());
        let mut lens = Vec::new();
        let hashed = chunks
            .enumerate()
            .map(|(index, chunk)| {
                lens.extend(chunk.iter().map(|bytes| bytes.len() as u32));
                let (env, budget) = (env.clone(), budget.clone());
                async move {
                    let bytes = chunk?;
                    let permit = permit(&budget, bytes.len() as u32).await?;
                    let (hash, bytes) = hash_one(&env, bytes).await;
                    Ok(Hashed { item: Item::Planned(index), hash, bytes, permit })
                }
            })
            // One beside the budget, so that memory stays bounded as it is for files.
            .buffered(1);
        self.bring(hashed, false).await?;
        Ok(lens)
    }

    async fn bring(
        &mut self,
        hashed: impl Stream<Item = Result<Hashed, ClientError>> + Send,
        again: bool,
    ) -> Result<(), ClientError> {
        let mut hashed = std::pin::pin!(hashed);
        let mut pending: Vec<Hashed> = Vec::new();
        let mut staging: Option<BoxFuture<'static, StageResult>> = None;
        let mut sending: FuturesUnordered<Task<()>> = FuturesUnordered::new();
        let mut more = true;
        loop {
            if staging.is_none() && !pending.is_empty() {
                let rest = pending.split_off(pending.len().min(BATCH_SEGMENTS_MAX));
                let batch = std::mem::replace(&mut pending, rest);
                let span = tracing::debug_span!("stage", segments = batch.len());
                staging = Some(Box::pin(stage(self.upload.clone(), batch).instrument(span)));
            }
            let is_staging = staging.is_some();
            if !more && !is_staging && sending.is_empty() {
                return Ok(());
            }
            let staged = async {
                match staging.as_mut() {
                    Some(staging) => staging.await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                Some(stored) = sending.next(), if !sending.is_empty() => Event::Stored(stored),
                staged = staged, if is_staging => Event::Staged(staged),
                next = hashed.next(), if more && pending.len() < BATCH_SEGMENTS_MAX => {
                    Event::Hashed(next)
                }
            };
            match event {
                Event::Stored(stored) => stored?,
                Event::Hashed(None) => more = false,
                Event::Hashed(Some(hashed)) => pending.extend(self.admit(hashed?, again)?),
                Event::Staged(staged) => {
                    staging = None;
                    for (hashed, staged) in staged? {
                        sending.extend(self.dispatch(hashed, staged, again));
                    }
                }
            }
        }
    }

    /// Takes note of a segment; `None` where this run has staged its twin.
    fn admit(&mut self, hashed: Hashed, again: bool) -> Result<Option<Hashed>, ClientError> {
        if again {
            // Read a second time: it must be what was staged the first time.
            return match self.items.contains_key(&hashed.hash.digest) {
                true => Ok(Some(hashed)),
                false => Err(SourceError::Changed { path: self.feed.name(hashed.item) }.into()),
            };
        }
        self.upload.progress.note_hashed(hashed.bytes.len() as u64);
        if let Item::Planned(_) = hashed.item {
            self.hashes.push(hashed.hash.clone());
        }
        if self.items.contains_key(&hashed.hash.digest) {
            return Ok(None);
        }
        self.items.insert(hashed.hash.digest, hashed.item);
        Ok(Some(hashed))
    }

    /// Starts sending a staged segment, unless the cluster holds it already.
    fn dispatch(&mut self, hashed: Hashed, staged: StagedSegment, again: bool) -> Option<Task<()>> {
        self.ids.insert(staged.segment, hashed.hash.digest);
        if staged.kept {
            if !again {
                self.upload.progress.note_kept(hashed.bytes.len() as u64);
            }
            return None;
        }
        let outgoing = Outgoing {
            digest: hashed.hash.digest,
            segment: staged.segment,
            slots: staged.slots,
            bytes: hashed.bytes,
            form: staged.form,
            budget: hashed.permit,
            counted: again,
        };
        let upload = self.upload.clone();
        let env = upload.client.env.clone();
        let span = tracing::debug_span!("segment", digest = %outgoing.digest);
        Some(Task::start(&env, "send segment", |say| upload.send(outgoing, say).instrument(span)))
    }
}

impl Feed {
    /// What people know an item by.
    fn name(&self, item: Item) -> String {
        let planned = match item {
            Item::Planned(index) => self.plan.segments.get(index),
            Item::Manifest(_) => None,
        };
        let file = planned.and_then(|segment| segment.pieces.first()).map(|piece| piece.file);
        let entry = file.and_then(|file| self.source.entries().get(file));
        entry.map_or_else(|| "the manifest".to_owned(), |entry| crate::sink::shown(&entry.name))
    }
}

/// Reads and hashes one item once there is room for it.
async fn load(
    upload: &Upload,
    feed: &Arc<Feed>,
    manifest: &[Bytes],
    budget: &Arc<Semaphore>,
    item: Item,
) -> Result<Hashed, ClientError> {
    let len = match item {
        Item::Planned(index) => feed.plan.segments[index].len,
        Item::Manifest(index) => manifest[index].len() as u32,
    };
    let permit = permit(budget, len).await?;
    let (hash, bytes) = match (item, feed.known_hashes()) {
        (Item::Planned(index), None) => read_and_hash(&upload.client.env, feed, index).await?,
        (Item::Planned(index), Some(hashes)) => {
            let hash = hashes[index].clone();
            let bytes = fetch_segment(&upload.client, hash.digest, feed.name(item)).await?;
            (hash, bytes)
        }
        (Item::Manifest(index), _) => {
            let bytes = manifest[index].clone();
            let digest = SegmentDigest::of(&bytes);
            (SegmentHash { digest, pieces: Vec::new() }, bytes)
        }
    };
    Ok(Hashed { item, hash, bytes, permit })
}

/// A segment's share of the budget, once there is room for it.
async fn permit(budget: &Arc<Semaphore>, len: u32) -> Result<OwnedSemaphorePermit, ClientError> {
    let share = len.div_ceil(1 << 10).max(FOREGROUND_KIB_MIN);
    budget.clone().acquire_many_owned(share).await.map_err(|_| ClientError::Cancelled)
}

/// The hash of a segment that one file has alone.
pub(super) async fn hash_one(env: &Env, bytes: Bytes) -> (SegmentHash, Bytes) {
    env.blocking(Lane::Client, move || {
        (SegmentHash { digest: SegmentDigest::of(&bytes), pieces: Vec::new() }, bytes)
    })
    .await
}

async fn read_and_hash(
    env: &Env,
    feed: &Arc<Feed>,
    index: usize,
) -> Result<(SegmentHash, Bytes), ClientError> {
    let feed = feed.clone();
    caller_code::blocking(env, move || {
        let segment = &feed.plan.segments[index];
        let bytes = cut::read(&*feed.source, segment)?;
        let mut pieces = Vec::new();
        if segment.pieces.len() > 1 {
            let mut rest = &bytes[..];
            for piece in &segment.pieces {
                let (own, others) = rest.split_at(piece.len as usize);
                pieces.push(*blake3::hash(own).as_bytes());
                rest = others;
            }
        }
        let hash = SegmentHash { digest: SegmentDigest::of(&bytes), pieces };
        Ok::<_, SourceError>((hash, Bytes::from(bytes)))
    })
    .await
}

/// Hashes all planned segments, in order, without keeping their bytes.
pub(super) async fn hash_all(
    env: &Env,
    feed: &Arc<Feed>,
    progress: &Progress,
) -> Result<Vec<SegmentHash>, ClientError> {
    let mut hashed = stream::iter(0..feed.plan.segments.len())
        .map(|index| read_and_hash(env, feed, index))
        .buffered(HASHERS);
    let mut hashes = Vec::with_capacity(feed.plan.segments.len());
    while let Some(result) = hashed.next().await {
        let (hash, bytes) = result?;
        progress.note_hashed(bytes.len() as u64);
        hashes.push(hash);
    }
    Ok(hashes)
}

/// Registers a batch. Once a first batch has found its nodes, a later want of them is taken for
/// passing, and waited out.
async fn stage(upload: Arc<Upload>, batch: Vec<Hashed>) -> StageResult {
    let started = Instant::now();
    // The client's choice. Nodes answer with the form of the record, which may be another one.
    let form = |hashed: &Hashed| Form::raw(hashed.bytes.len() as u32);
    let segments: Vec<_> = batch.iter().map(|hashed| (hashed.hash.digest, form(hashed))).collect();
    loop {
        match upload.stage(&segments).await {
            Ok(staged) => return Ok(batch.into_iter().zip(staged).collect()),
            Err(error) if !upload.may_wait_for_nodes(&error, started) => return Err(error),
            Err(error) => tracing::warn!(%error, "stage is refused for now"),
        }
        sleep(upload.client.env.jitter(NODES_PAUSE)).await;
    }
}
