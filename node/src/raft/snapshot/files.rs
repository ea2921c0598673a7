//! Catalogue snapshots as files.
//!
//! ```text
//! snapshots/TERM-INDEX.snap   "CAIRNSNP" | version | head length | CRC-32 | RaftSnapshotHead | body
//! snapshots/*.part            being written or received; removed at start
//! ```
//!
//! A snapshot is written under a temporary name and synced. Then it is renamed, its directory is
//! synced, and it is read back and compared with its BLAKE3 digest. Only then are older ones
//! removed. A start uses the newest sound snapshot. An older one is used only if the log still
//! reaches back to it. All functions block.

use std::fmt;
use std::io;

use bytes::Bytes;
use cairn_proto::wire;
use cairn_types::canary;
use prost::Message;

use crate::disk::{Disk, DiskFile, Open};
use crate::raft::codec;
use crate::raft::types::{LogId, SnapshotMeta};
use crate::store::is_full;

const MAGIC: [u8; 8] = *b"CAIRNSNP";
const VERSION: u32 = 1;
/// Magic, version, head length, CRC-32 of all that and the head.
const FIXED_BYTES: usize = 8 + 4 + 4 + 4;
/// Largest head: the addresses of every node a cluster may register.
const HEAD_BYTES_MAX: u32 = 4 << 20;
/// Bytes written or read at once.
pub(in crate::raft) const PIECE_BYTES: usize = 1 << 20;
/// Largest encoded catalogue: 16 million segments take about 2.5 GiB.
pub(in crate::raft) const BODY_BYTES_MAX: u64 = 16 << 30;

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{doing} of snapshot {path}: {source}")]
    Disk { doing: &'static str, path: String, source: io::Error },
    /// The durable state is no longer known: the node has to stop.
    #[error("{doing} of snapshot {path}: {source}")]
    Sync { doing: &'static str, path: String, source: io::Error },
    #[error("snapshot {path} is damaged: {why}")]
    Damaged { path: String, why: String },
    #[error("snapshot {path} cannot be restored: {why}")]
    Restore { path: String, why: String },
    #[error(
        "no sound snapshot reaches up to the purged raft log entry {purged}; damaged: {damaged:?}"
    )]
    NotCovered { purged: LogId, damaged: Vec<String> },
}

impl SnapshotError {
    /// Whether the only cause is a lack of room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if is_full(source))
    }
}

fn disk<'a>(doing: &'static str, path: &'a str) -> impl Fn(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Disk { doing, path: path.into(), source }
}

fn synced<'a>(doing: &'static str, path: &'a str) -> impl Fn(io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Sync { doing, path: path.into(), source }
}

/// A handle to a complete snapshot on this node's disk. openraft passes it around.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    pub path: String,
    /// Where the encoded catalogue starts.
    pub body_offset: u64,
    pub len: u64,
    pub digest: [u8; 32],
    pub meta: SnapshotMeta,
}

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotFile({}, {} bytes)", self.path, self.len)
    }
}

/// Name of a snapshot without its directory. Names sort like log ids.
fn name_of(meta: &SnapshotMeta) -> String {
    let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.leader_id.term, id.index));
    format!("{term:016x}-{index:016x}")
}

fn head_bytes(meta: &SnapshotMeta, len: u64, digest: &[u8; 32]) -> Vec<u8> {
    let head = codec::head_to_wire(meta, len, digest).encode_to_vec();
    let mut bytes = Vec::with_capacity(FIXED_BYTES + head.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes);
    crc.update(&head);
    bytes.extend_from_slice(&crc.finalize().to_le_bytes());
    bytes.extend_from_slice(&head);
    bytes
}

/// A snapshot file that is still being written.
pub struct Partial {
    file: Box<dyn DiskFile>,
    snapshot: SnapshotFile,
}

impl Partial {
    /// Makes `DIR/TERM-INDEX-NUMBER.part`. A number is used once in the life of a process. So no
    /// file is written through two handles or removed in place of another one.
    pub fn create(
        disk_seam: &dyn Disk,
        dir: &str,
        number: u64,
        meta: &SnapshotMeta,
        len: u64,
        digest: [u8; 32],
    ) -> Result<Self, SnapshotError> {
        let path = format!("{dir}/{}-{number}.part", name_of(meta));
        let file = disk_seam.open(&path, Open::Create).map_err(disk("creation", &path))?;
        let head = head_bytes(meta, len, &digest);
        if let Err(error) = file.write_at(0, &head) {
            // The caller gets the first error.
            let _ = disk_seam.remove(&path);
            return Err(disk("writing", &path)(error));
        }
        let body_offset = head.len() as u64;
        let snapshot = SnapshotFile { path, body_offset, len, digest, meta: meta.clone() };
        Ok(Self { file, snapshot })
    }

    pub fn path(&self) -> &str {
        &self.snapshot.path
    }

    /// Writes `bytes` of the body.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        if offset.saturating_add(bytes.len() as u64) > self.snapshot.len {
            return Err(SnapshotError::Damaged {
                path: self.snapshot.path.clone(),
                why: format!("longer than the {} bytes announced", self.snapshot.len),
            });
        }
        self.file
            .write_at(self.snapshot.body_offset + offset, bytes)
            .map_err(disk("writing", &self.snapshot.path))
    }

    fn write_all(&self, body: &[u8]) -> Result<(), SnapshotError> {
        let mut offset = 0;
        for piece in body.chunks(PIECE_BYTES) {
            self.write(offset, piece)?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes the file durable and compares its bytes with the digest.
    pub fn finish(&self) -> Result<SnapshotFile, SnapshotError> {
        if !canary!("snapshot_not_durable") {
            self.file.sync().map_err(synced("sync", &self.snapshot.path))?;
        }
        verify(&*self.file, &self.snapshot)?;
        Ok(self.snapshot.clone())
    }
}

/// Writes a snapshot that this node built. It replaces older ones.
pub fn write(
    disk_seam: &dyn Disk,
    dir: &str,
    number: u64,
    meta: &SnapshotMeta,
    body: &[u8],
) -> Result<SnapshotFile, SnapshotError> {
    let digest = *blake3::hash(body).as_bytes();
    let partial = Partial::create(disk_seam, dir, number, meta, body.len() as u64, digest)?;
    if let Err(error) = partial.write_all(body) {
        // Half a snapshot would take scarce space.
        let _ = disk_seam.remove(partial.path());
        return Err(error);
    }
    let finished = partial.finish()?;
    drop(partial);
    adopt(disk_seam, dir, &finished)
}

/// Gives a finished snapshot its final name, reads it back, and removes older ones. A snapshot that
/// has its final name already stays as it is.
pub fn adopt(
    disk_seam: &dyn Disk,
    dir: &str,
    snapshot: &SnapshotFile,
) -> Result<SnapshotFile, SnapshotError> {
    let name = format!("{}.snap", name_of(&snapshot.meta));
    let path = format!("{dir}/{name}");
    if snapshot.path != path {
        disk_seam.rename(&snapshot.path, &path).map_err(disk("rename", &snapshot.path))?;
        disk_seam.sync_dir(dir).map_err(synced("directory sync", dir))?;
    }
    let adopted = SnapshotFile { path, ..snapshot.clone() };
    check(disk_seam, &adopted)?;
    for other in disk_seam.list(dir).map_err(disk("listing", dir))? {
        let is_older = other.name.ends_with(".snap") && other.name < name;
        let other = format!("{dir}/{}", other.name);
        if is_older && is_file(disk_seam, &other) {
            disk_seam.remove(&other).map_err(disk("removal", &other))?;
        }
    }
    Ok(adopted)
}

/// The whole body, compared with its digest.
pub fn read_body(disk_seam: &dyn Disk, snapshot: &SnapshotFile) -> Result<Vec<u8>, SnapshotError> {
    let path = &snapshot.path;
    let file = disk_seam.open(path, Open::Read).map_err(disk("opening", path))?;
    let mut body = Vec::new();
    let len = usize::try_from(snapshot.len).unwrap_or(usize::MAX);
    if body.try_reserve_exact(len).is_err() {
        return Err(damaged(path, format!("{len} bytes do not fit memory")));
    }
    body.resize(len, 0);
    let mut offset = snapshot.body_offset;
    for piece in body.chunks_mut(PIECE_BYTES) {
        file.read_at(offset, piece).map_err(disk("reading", path))?;
        offset += piece.len() as u64;
    }
    if *blake3::hash(&body).as_bytes() != snapshot.digest {
        return Err(damaged(path, "digest mismatch"));
    }
    Ok(body)
}

/// Finds the snapshot to start from, given how far the log is purged. Removes partial files.
pub fn load(
    disk_seam: &dyn Disk,
    dir: &str,
    purged: Option<LogId>,
) -> Result<Option<SnapshotFile>, SnapshotError> {
    disk_seam.create_dir(dir).map_err(disk("creation", dir))?;
    disk_seam.sync_dir("").map_err(synced("directory sync", ""))?;
    // A killed process may not have synced a name seen here, and the log is purged up to its
    // content.
    disk_seam.sync_dir(dir).map_err(synced("directory sync", dir))?;
    let mut names = Vec::new();
    for listed in disk_seam.list(dir).map_err(disk("listing", dir))? {
        let path = format!("{dir}/{}", listed.name);
        if !is_file(disk_seam, &path) {
            tracing::warn!(path, "not a snapshot file, left alone");
        } else if listed.name.ends_with(".part") {
            disk_seam.remove(&path).map_err(disk("removal", &path))?;
        } else if listed.name.ends_with(".snap") {
            names.push(path);
        }
    }
    let mut broken = Vec::new();
    let mut found = None;
    for path in names.into_iter().rev() {
        match open(disk_seam, &path) {
            Ok(snapshot) => {
                found = Some(snapshot);
                break;
            }
            Err(error @ SnapshotError::Damaged { .. }) => {
                tracing::error!(%path, %error, "snapshot is not usable");
                broken.push(path);
            }
            Err(error) => return Err(error),
        }
    }
    let reached = found.as_ref().and_then(|snapshot| snapshot.meta.last_log_id);
    match purged {
        Some(purged) if reached < Some(purged) => {
            Err(SnapshotError::NotCovered { purged, damaged: broken })
        }
        _ => Ok(found),
    }
}

/// Whether the path is a regular file. A directory or a FIFO put there from outside is not ours.
fn is_file(disk_seam: &dyn Disk, path: &str) -> bool {
    // On an error of this call, opening the file reports it again.
    disk_seam.stat(path).map_or(true, |found| found.is_file)
}

/// Last index of the newest sound snapshot on a disk. For tools and tests.
pub fn inspect(disk_seam: &dyn Disk, dir: &str) -> Result<Option<u64>, SnapshotError> {
    let found = load(disk_seam, dir, None)?;
    Ok(found.and_then(|snapshot| snapshot.meta.last_log_id).map(|id| id.index))
}

/// Opens a snapshot and checks it completely.
fn open(disk_seam: &dyn Disk, path: &str) -> Result<SnapshotFile, SnapshotError> {
    let file = disk_seam.open(path, Open::Read).map_err(disk("opening", path))?;
    let file_len = file.len().map_err(disk("length", path))?;
    let mut fixed = [0; FIXED_BYTES];
    if file_len < FIXED_BYTES as u64 {
        return Err(damaged(path, "too short"));
    }
    file.read_at(0, &mut fixed).map_err(disk("reading", path))?;
    let number = |at: usize| fixed[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
    let (version, head_len, crc) = (number(8), number(12), number(16));
    if fixed[..8] != MAGIC {
        return Err(damaged(path, "not a snapshot"));
    }
    if version != VERSION {
        return Err(damaged(path, format!("version {version} is unknown")));
    }
    let body_offset = FIXED_BYTES as u64 + u64::from(head_len);
    if head_len > HEAD_BYTES_MAX || body_offset > file_len {
        return Err(damaged(path, format!("impossible head length {head_len}")));
    }
    let mut head = vec![0; head_len as usize];
    file.read_at(FIXED_BYTES as u64, &mut head).map_err(disk("reading", path))?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&fixed[..16]);
    hasher.update(&head);
    if hasher.finalize() != crc {
        return Err(damaged(path, "head checksum mismatch"));
    }
    let head = wire::RaftSnapshotHead::decode(Bytes::from(head))
        .map_err(|error| damaged(path, error.to_string()))?;
    let (meta, len, digest) =
        codec::head_from_wire(Some(head)).map_err(|error| damaged(path, error.to_string()))?;
    if file_len != body_offset.saturating_add(len) {
        return Err(damaged(path, format!("{file_len} bytes, {len} announced")));
    }
    let snapshot = SnapshotFile { path: path.into(), body_offset, len, digest, meta };
    verify(&*file, &snapshot)?;
    Ok(snapshot)
}

/// Whether the body on the disk equals the written one.
pub fn check(disk_seam: &dyn Disk, snapshot: &SnapshotFile) -> Result<(), SnapshotError> {
    let path = &snapshot.path;
    let file = disk_seam.open(path, Open::Read).map_err(disk("opening", path))?;
    verify(&*file, snapshot)
}

fn verify(file: &dyn DiskFile, snapshot: &SnapshotFile) -> Result<(), SnapshotError> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < snapshot.len {
        let want = usize::try_from(snapshot.len - done).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        match file.read_at(snapshot.body_offset + done, &mut piece[..want]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(&snapshot.path, "cut short"));
            }
            Err(error) => return Err(disk("reading", &snapshot.path)(error)),
        }
        hasher.update(&piece[..want]);
        done += want as u64;
    }
    if *hasher.finalize().as_bytes() != snapshot.digest {
        return Err(damaged(&snapshot.path, "digest mismatch"));
    }
    Ok(())
}

fn damaged(path: &str, why: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged { path: path.into(), why: why.into() }
}
