//! The segment store, identity file and production disk, over real files and over a small disk
//! in memory that fails on command.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod faults;
mod files;
mod identity;
mod memory;
mod segments;

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::SegmentDigest;
use cairn_node::disk::Disk;
use cairn_node::disk::files::FileDisk;
use cairn_node::store::{Begin, Found, SegmentStore, StoreConfig, StoreError, Stored};
use cairn_proto::host::TokioHost;
use cairn_proto::seam::{Dialer, Env, Transport};
use parking_lot::Mutex;

/// A network without anybody in it.
struct NoNetwork;

impl Dialer for NoNetwork {
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
    let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&fatal);
    let hook = Arc::new(move |why: String| told.lock().push(why));
    let (store, found) = SegmentStore::open(env(), Arc::clone(disk), config, hook).await?;
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
    let mut writer = match store.begin(digest, len as u64).await? {
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
