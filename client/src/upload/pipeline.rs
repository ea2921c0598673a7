//! From segments in a source to segments on W nodes, with bounded memory.
//!
//! Batches make themselves: while one Stage is on its way, what is hashed meanwhile gathers for
//! the next. So a slow source gets small batches at once, a fast one large ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::command::StagedSegment;
use cairn_core::ids::{SegmentDigest, SegmentId};
use cairn_core::limits::BATCH_SEGMENTS_MAX;
use cairn_proto::seam::{Env, Lane};
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::progress::Progress;
use super::send::{Outgoing, Upload};
use crate::cut::{self, Plan};
use crate::error::ClientError;
use crate::source::{Source, SourceError};
use crate::task::Task;

/// Segments that are read and hashed at the same time.
const HASHERS: usize = 2;
/// Bytes between reading and the W-th acknowledgement: four of the largest segments. With the
/// bytes still on the way to slower targets, a client stays below 300 MiB.
const FOREGROUND_KIB: u32 = 128 << 10;
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
}

impl Feed {
    pub fn new(source: Arc<dyn Source>, plan: Plan) -> Self {
        Self { source, plan }
    }

    pub fn source(&self) -> &dyn Source {
        &*self.source
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Items of all planned segments.
    pub fn planned(&self) -> Vec<Item> {
        (0..self.plan.segments.len()).map(Item::Planned).collect()
    }
}

/// A segment in memory, and its share of the budget.
struct Hashed {
    item: Item,
    digest: SegmentDigest,
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
    digests: Vec<SegmentDigest>,
    /// Every digest staged, and one item that has it.
    items: BTreeMap<SegmentDigest, Item>,
    ids: BTreeMap<SegmentId, SegmentDigest>,
}

impl Pipeline {
    pub fn new(upload: Arc<Upload>, feed: Arc<Feed>) -> Self {
        Self {
            upload,
            feed,
            manifest: Vec::new(),
            budget: Arc::new(Semaphore::new(FOREGROUND_KIB as usize)),
            digests: Vec::new(),
            items: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    /// Digests of the planned segments, once they were transferred.
    pub fn digests(&self) -> &[SegmentDigest] {
        &self.digests
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
        let env = self.upload.client.env.clone();
        let (feed, manifest, budget) =
            (self.feed.clone(), self.manifest.clone(), self.budget.clone());
        let hashed = stream::iter(items)
            .map(|item| load(&env, &feed, &manifest, &budget, item))
            .buffered(HASHERS);
        let mut hashed = std::pin::pin!(hashed);
        let mut pending: Vec<Hashed> = Vec::new();
        let mut staging: Option<BoxFuture<'static, StageResult>> = None;
        let mut sending: FuturesUnordered<Task<()>> = FuturesUnordered::new();
        let mut more = true;
        loop {
            if staging.is_none() && !pending.is_empty() {
                let rest = pending.split_off(pending.len().min(BATCH_SEGMENTS_MAX));
                let batch = std::mem::replace(&mut pending, rest);
                staging = Some(Box::pin(stage(self.upload.clone(), batch)));
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
            return match self.items.contains_key(&hashed.digest) {
                true => Ok(Some(hashed)),
                false => Err(SourceError::Changed { path: self.feed.name(hashed.item) }.into()),
            };
        }
        self.upload.progress.note_hashed(hashed.bytes.len() as u64);
        if let Item::Planned(_) = hashed.item {
            self.digests.push(hashed.digest);
        }
        if self.items.contains_key(&hashed.digest) {
            return Ok(None);
        }
        self.items.insert(hashed.digest, hashed.item);
        Ok(Some(hashed))
    }

    /// Starts sending a staged segment, unless the cluster holds it already.
    fn dispatch(&mut self, hashed: Hashed, staged: StagedSegment, again: bool) -> Option<Task<()>> {
        self.ids.insert(staged.segment, hashed.digest);
        if staged.kept {
            if !again {
                self.upload.progress.note_kept(hashed.bytes.len() as u64);
            }
            return None;
        }
        let outgoing = Outgoing {
            digest: hashed.digest,
            segment: staged.segment,
            slots: staged.slots,
            bytes: hashed.bytes,
            budget: hashed.permit,
            counted: again,
        };
        let upload = self.upload.clone();
        let env = upload.client.env.clone();
        Some(Task::start(&env, "send segment", |say| upload.send(outgoing, say)))
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
    env: &Env,
    feed: &Arc<Feed>,
    manifest: &[Bytes],
    budget: &Arc<Semaphore>,
    item: Item,
) -> Result<Hashed, ClientError> {
    let len = match item {
        Item::Planned(index) => feed.plan.segments[index].len,
        Item::Manifest(index) => manifest[index].len() as u32,
    };
    let share = len.div_ceil(1 << 10).max(FOREGROUND_KIB_MIN);
    let permit =
        budget.clone().acquire_many_owned(share).await.map_err(|_| ClientError::Cancelled)?;
    let (digest, bytes) = match item {
        Item::Planned(index) => read_and_hash(env, feed, index).await?,
        Item::Manifest(index) => (SegmentDigest::of(&manifest[index]), manifest[index].clone()),
    };
    Ok(Hashed { item, digest, bytes, permit })
}

async fn read_and_hash(
    env: &Env,
    feed: &Arc<Feed>,
    index: usize,
) -> Result<(SegmentDigest, Bytes), SourceError> {
    let feed = feed.clone();
    env.blocking(Lane::Client, move || {
        let bytes = cut::read(&*feed.source, &feed.plan.segments[index])?;
        Ok((SegmentDigest::of(&bytes), Bytes::from(bytes)))
    })
    .await
}

/// Digests of all planned segments, in order, without keeping their bytes.
pub(super) async fn hash_all(
    env: &Env,
    feed: &Arc<Feed>,
    progress: &Progress,
) -> Result<Vec<SegmentDigest>, ClientError> {
    let mut hashed = stream::iter(0..feed.plan.segments.len())
        .map(|index| read_and_hash(env, feed, index))
        .buffered(HASHERS);
    let mut digests = Vec::with_capacity(feed.plan.segments.len());
    while let Some(result) = hashed.next().await {
        let (digest, bytes) = result?;
        progress.note_hashed(bytes.len() as u64);
        digests.push(digest);
    }
    Ok(digests)
}

/// Registers a batch. Once a first batch has found its nodes, a later want of them is taken for
/// passing, and waited out.
async fn stage(upload: Arc<Upload>, batch: Vec<Hashed>) -> StageResult {
    let started = Instant::now();
    let segments: Vec<_> =
        batch.iter().map(|hashed| (hashed.digest, hashed.bytes.len() as u32)).collect();
    loop {
        match upload.stage(&segments).await {
            Ok(staged) => return Ok(batch.into_iter().zip(staged).collect()),
            Err(error) if !upload.may_wait_for_nodes(&error, started) => return Err(error),
            Err(error) => tracing::warn!(%error, "stage is refused for now"),
        }
        sleep(upload.client.env.jitter(NODES_PAUSE)).await;
    }
}
