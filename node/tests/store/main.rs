//! The segment store, identity file and production disk, over real files and over a small disk
//! in memory that fails on command.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod codec;
mod faults;
mod files;
mod identity;
mod memory;
mod quarantine;
mod segments;

use std::sync::Arc;

use bytes::Bytes;
use cairn_host::seam::{Dialer, Env, Transport};
use cairn_host::tokio_host::TokioHost;
use cairn_node::disk::Disk;
use cairn_node::disk::files::FileDisk;
use cairn_node::store::{Begin, Found, SegmentStore, StoreConfig, StoreError, Stored};
use cairn_types::form::{Codecs, StoredBlocks};
use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

/// A network without anybody in it.
struct NoNetwork;

impl Dialer for NoNetwork {
    /// Nothing leaves this process.
    fn is_private(&self, _: &str) -> bool {
        true
    }

    fn dial(&self, _: &str) -> Transport {
        Transport::new(tower::service_fn(|_| async {
            Err(tonic::Status::unavailable("there is no network"))
        }))
    }
}

fn env() -> Env {
    let runtime = TokioHost::new(tokio::runtime::Handle::current()).unwrap();
    Env { runtime, dialer: Arc::new(NoNetwork) }
}

fn file_disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(dir.path()).unwrap());
    (dir, disk)
}

/// A store, and what the fatal hook was told.
struct Opened {
    store: SegmentStore,
    found: Found,
    fatal: Arc<Mutex<Vec<String>>>,
}

async fn open_with(disk: &Arc<dyn Disk>, config: StoreConfig) -> Result<Opened, StoreError> {
    open_knowing(disk, config, Codecs::KNOWN).await
}

async fn open_knowing(
    disk: &Arc<dyn Disk>,
    config: StoreConfig,
    codecs: Codecs,
) -> Result<Opened, StoreError> {
    let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&fatal);
    let hook = Arc::new(move |why: String| told.lock().push(why));
    let store = SegmentStore::open_with(env(), Arc::clone(disk), config, codecs, hook).await?;
    let found = store.look_through().await?;
    Ok(Opened { store, found, fatal })
}

async fn open(disk: &Arc<dyn Disk>) -> Opened {
    SegmentStore::format(&env(), disk).await.unwrap();
    let config = StoreConfig { reserve_bytes: 0, ..StoreConfig::default() };
    open_with(disk, config).await.unwrap()
}

fn data(len: usize) -> Bytes {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn place(digest: SegmentDigest) -> String {
    format!("segments/{:02x}/{digest}", digest.0[0])
}

/// Stores `bytes` under the digest `digest`, in uneven pieces.
async fn put_as(
    store: &SegmentStore,
    digest: SegmentDigest,
    len: usize,
    bytes: &Bytes,
) -> Result<Stored, StoreError> {
    let mut writer = match store.begin(digest, StoredBlocks::raw(len as u32)).await? {
        Begin::Exists(stored) => return Ok(stored),
        Begin::Writer(writer) => writer,
    };
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(700_001));
        writer.push(piece).await?;
    }
    writer.finish().await
}

async fn put(store: &SegmentStore, bytes: &Bytes) -> Result<Stored, StoreError> {
    put_as(store, SegmentDigest::of(bytes), bytes.len(), bytes).await
}

/// Flips one bit of a file, behind the store's back.
fn spoil(disk: &Arc<dyn Disk>, path: &str, offset: u64) {
    let file = disk.open(path, cairn_node::disk::Open::Write).unwrap();
    let mut byte = [0];
    file.read_at(offset, &mut byte).unwrap();
    file.write_at(offset, &[byte[0] ^ 1]).unwrap();
}
