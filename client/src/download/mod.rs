//! Downloads: a checkpoint, or some of its files, or a range of one, verified byte by byte.
//!
//! ```text
//! resolve -> manifests -> files and their segments -> which exist locally?
//!    -> locate the rest -> read, several at a time -> write blocks in place -> finish files
//! ```
//!
//! Memory is bounded by the number of segments read at once: each holds a few blocks of 1 MiB.

mod alive;
mod blocks;
mod checkpoint;
mod file;
mod local;
mod pace;
mod range;
mod reader;
mod room;
mod run;
mod targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cairn_types::blocks::block_count;
use cairn_types::command::Refusal;
use cairn_types::ids::{Address, SegmentDigest};
use cairn_types::limits::MANIFEST_BYTES_MAX;
use cairn_types::manifest::Manifest;
use cairn_types::model::{CheckpointInfo, ManifestPlace};
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Instrument;

pub use self::checkpoint::OpenCheckpoint;
pub(crate) use self::file::OpenFile;
pub use self::file::{FileReader, ReaderBuilder};
pub(crate) use self::pace::Paces;
pub use self::range::FileRange;
use self::reader::{Reader, Wanted};
use self::run::Get;
pub use self::targets::PartManifest;
use crate::caller_code::{self, Watcher};
use crate::catalogue::{LocatedSegment, malformed};
use crate::cluster::{Answer, Client};
use crate::error::ClientError;
use crate::sink::{FileTarget, Sink};

/// Manifests read at once.
const MANIFESTS_PARALLEL: usize = 8;

/// Chooses files by name.
pub type Include = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How to download. The default takes all files and overwrites none.
pub struct GetOptions {
    pub include: Option<Include>,
    /// Only this part's files.
    pub part: Option<u32>,
    /// Reads and verifies everything but writes nothing.
    pub verify_only: bool,
    /// Replaces existing files whose content differs.
    pub overwrite: bool,
    /// Allows a checkpoint in quarantine. Without this it is an error.
    pub quarantined: bool,
    /// Begins even if the sink reports too little room.
    pub ignore_free_space: bool,
    /// Segments read at once.
    pub parallel: usize,
    pub progress: Arc<GetProgress>,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            include: None,
            part: None,
            verify_only: false,
            overwrite: false,
            quarantined: false,
            ignore_free_space: false,
            parallel: 8,
            progress: Arc::default(),
        }
    }
}

/// Refuses a checkpoint in quarantine, unless the caller allows it.
fn check_usable(info: &CheckpointInfo, quarantined: bool) -> Result<(), ClientError> {
    match &info.quarantine {
        Some(quarantine) if !quarantined => {
            let (checkpoint, reason) = (info.id, quarantine.reason.clone());
            Err(ClientError::Refused(Refusal::Quarantined { checkpoint, reason }))
        }
        _ => Ok(()),
    }
}

/// Counters of a running download, to be read at any time. Bytes are of files unless stated
/// otherwise.
#[derive(Debug, Default)]
pub struct GetProgress {
    pub files_total: AtomicU64,
    pub bytes_total: AtomicU64,
    /// Found right in their place.
    pub bytes_kept: AtomicU64,
    /// Read and verified.
    pub bytes_done: AtomicU64,
    /// Verified bytes from the network, including bytes between wanted pieces.
    pub bytes_fetched: AtomicU64,
    pub files_done: AtomicU64,
    watcher: Watcher<GetProgress>,
}

impl GetProgress {
    /// Counters that call `told` after each change, on the thread of the change, so `told` must be
    /// fast. If it panics, it is not called again, and the download continues.
    pub fn watched(told: impl Fn(&GetProgress) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { watcher: Watcher::new(told), ..Self::default() })
    }

    fn note_targets(&self, targets: &[FileTarget]) {
        let bytes = targets.iter().map(|target| target.len).sum();
        self.files_total.store(targets.len() as u64, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
        self.watcher.tell(self);
    }

    pub(crate) fn add(&self, counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
        self.watcher.tell(self);
    }
}

#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GetReport {
    pub checkpoint: CheckpointInfo,
    pub files: u64,
    pub bytes: u64,
    /// Existing files, complete and verified.
    pub files_kept: u64,
    /// Bytes of files that were not fetched because they existed locally.
    pub bytes_kept: u64,
    pub bytes_fetched: u64,
    pub segments_fetched: u64,
    pub elapsed: Duration,
}

impl Client {
    /// Downloads the files that `options` selects into `sink`.
    pub fn get<'a>(
        &'a self,
        address: &'a Address,
        sink: Arc<dyn Sink>,
        options: GetOptions,
    ) -> Answer<'a, GetReport> {
        let span = tracing::info_span!("get", %address);
        let call = async move {
            let started = Instant::now();
            let info = self.resolve(address).await?;
            check_usable(&info, options.quarantined)?;
            let manifests = self.part_manifests(&info, options.part).await?;
            let include =
                |name: &[u8]| options.include.as_ref().is_none_or(|include| include(name));
            let wanted = targets::targets(&manifests, include)?;
            let nothing = wanted.files.is_empty() && options.include.is_some();
            let get = Arc::new(Get::new(self, &info, sink, wanted, &options));
            let writes = !options.verify_only && !nothing;
            if writes {
                get.prepare().await?;
            }
            let segments_fetched = get.fetch(options.parallel).await?;
            if writes {
                get.complete().await?;
            }
            Ok(GetReport {
                files: get.targets.len() as u64,
                bytes: get.targets.iter().map(|target| target.len).sum(),
                files_kept: get.files_kept(),
                bytes_kept: get.progress.bytes_kept.load(Ordering::Relaxed),
                bytes_fetched: get.progress.bytes_fetched.load(Ordering::Relaxed),
                segments_fetched,
                elapsed: started.elapsed(),
                checkpoint: info,
            })
        };
        Box::pin(caller_code::guarded(call).instrument(span))
    }

    /// The decoded manifests of a checkpoint, one per part.
    pub fn manifests<'a>(&'a self, info: &'a CheckpointInfo) -> Answer<'a, Vec<Manifest>> {
        Box::pin(async move {
            let manifests = self.part_manifests(info, None).await?;
            Ok(manifests.into_iter().map(|(_, manifest)| manifest).collect())
        })
    }

    /// The decoded manifests of one part or of all, with the parts' numbers.
    pub fn part_manifests<'a>(
        &'a self,
        info: &'a CheckpointInfo,
        only: Option<u32>,
    ) -> Answer<'a, Vec<PartManifest>> {
        Box::pin(async move {
            let parts = info.parts.len();
            if let Some(part) = only.filter(|part| *part as usize >= parts) {
                let address = format!("{}@{}", info.namespace, info.step);
                let what = format!("part {part}: parts are 0 to {}", parts.saturating_sub(1));
                return Err(ClientError::NoSuchFile { address, what });
            }
            let reader = Reader::new(self, info);
            let client = self.about(info.id);
            // The futures are made outside the stream. A closure over borrowed parts inside it
            // would make this future impossible to spawn.
            let manifests: Vec<_> = (0..)
                .zip(info.parts.iter())
                .filter(|(part, _)| only.is_none_or(|only| only == *part))
                .map(|(part, sealed)| {
                    client.manifest(reader.clone(), part, sealed.manifest.clone())
                })
                .collect();
            stream::iter(manifests).buffered(MANIFESTS_PARALLEL).try_collect().await
        })
    }

    async fn manifest(
        &self,
        reader: Arc<Reader>,
        part: u32,
        place: ManifestPlace,
    ) -> Result<PartManifest, ClientError> {
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
                for segment in located {
                    for block in read_whole(&reader, &whole(segment, &name)).await? {
                        bytes.extend_from_slice(&block);
                    }
                }
                bytes
            }
        };
        let decode =
            move || Manifest::decode(&bytes).map_err(|error| malformed(&name, error.to_string()));
        Ok((part, caller_code::blocking(&self.env, decode).await?))
    }
}

/// All blocks of a segment.
fn whole(segment: LocatedSegment, file: &str) -> Wanted {
    let LocatedSegment { digest, len, slots, .. } = segment;
    let blocks = 0..block_count(u64::from(len)).max(1);
    Wanted { digest, len, blocks, slots, file: file.to_owned() }
}

/// A verified segment of an open upload, from any node that has it.
pub(crate) async fn fetch_segment(
    client: &Client,
    digest: SegmentDigest,
    file: String,
) -> Result<Bytes, ClientError> {
    let located = client.locate(&[digest]).await?.into_iter().next();
    let located = located.filter(|segment| segment.id.is_some());
    let Some(segment) = located else {
        let nodes = Vec::new();
        return Err(ClientError::Damaged { file, segment: digest, nodes, lost: true });
    };
    let blocks = read_whole(&Reader::of_upload(client), &whole(segment, &file)).await?;
    let mut bytes = BytesMut::with_capacity(blocks.iter().map(Bytes::len).sum());
    blocks.iter().for_each(|block| bytes.extend_from_slice(block));
    Ok(bytes.freeze())
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
