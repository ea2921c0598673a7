//! The form of an audit file, and the walk along its chain.
//!
//! ```text
//!   audit/FIRST.log   header: magic 8 | version 4 | first record 8 | last log entry before it 8
//!                             | chain before it 32 | crc 4
//!                     frames: body length 4 | kind 4 | number of its last record 8 | crc 4
//!                             | body | chain behind it 32
//!   audit/durable     two places, written in turn: magic 8 | sequence 8 | file 8 | its length 8
//!                             | last record 8 | its log entry 8 | chain 32 | crc 4
//! ```
//!
//! Numbers are little-endian. A file is named by its first record. The frame of a gap stands for the
//! records that this node does not have. `durable` says how much of the newest file was synced:
//! bytes behind that are of a write that nobody relies on, and only they may be cut off.

use std::io;

use cairn_types::audit::{AuditGap, AuditHead, AuditRecord, next_hash};
use cairn_types::limits::AUDIT_RECORD_BYTES_MAX;
use cairn_types::wire;
use prost::Message;

use crate::disk::{Disk, DiskFile, Open};

pub const DIR: &str = "audit";
pub const MARK: &str = "audit/durable";

const FILE_MAGIC: &[u8; 8] = b"CAIRNAUD";
const MARK_MAGIC: &[u8; 8] = b"CAIRNADM";
const VERSION: u32 = 1;
pub const HEADER_BYTES: u64 = 64;
const FRAME_BYTES: usize = 20;
const HASH_BYTES: usize = 32;
const MARK_BYTES: usize = 84;
/// The second place of the mark is on another sector, so that a torn write hits one of them.
const MARK_PLACE: u64 = 4096;
const KIND_RECORD: u32 = 1;
const KIND_GAP: u32 = 2;
/// A walk reads this much at once.
const READ_BYTES: usize = 256 << 10;

pub fn path_of(first: u64) -> String {
    format!("{DIR}/{first:016x}.log")
}

fn first_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log").filter(|it| it.len() == 16)?;
    u64::from_str_radix(number, 16).ok()
}

/// The first records of all files, ascending.
pub fn files(disk: &dyn Disk) -> io::Result<Vec<u64>> {
    let mut files: Vec<u64> = disk.list(DIR)?.iter().filter_map(|it| first_of(&it.name)).collect();
    files.sort_unstable();
    Ok(files)
}

/// A place in the files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// The file's first record; zero while there is no file.
    pub file: u64,
    pub len: u64,
    pub head: AuditHead,
}

/// Bytes that are not what a node wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is damaged at byte {offset}: {what}")]
pub struct Damage {
    pub path: String,
    pub offset: u64,
    pub what: String,
}

/// Why a walk ends early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error(transparent)]
    Damage(#[from] Damage),
    #[error("read {path}: {source}")]
    Disk { path: String, source: io::Error },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Record(Box<AuditRecord>),
    Gap(AuditGap),
}

pub fn header(before: &AuditHead) -> Vec<u8> {
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((before.count + 1).to_le_bytes());
    bytes.extend(before.index.to_le_bytes());
    bytes.extend(before.hash);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

fn push_frame(bytes: &mut Vec<u8>, kind: u32, last: u64, body: &[u8], hash: &[u8; 32]) {
    let start = bytes.len();
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(last.to_le_bytes());
    bytes.extend(crc32fast::hash(&bytes[start..]).to_le_bytes());
    bytes.extend(body);
    bytes.extend(hash);
}

pub fn push_record(bytes: &mut Vec<u8>, body: &[u8], head: &AuditHead) {
    push_frame(bytes, KIND_RECORD, head.count, body, &head.hash);
}

pub fn push_gap(bytes: &mut Vec<u8>, gap: &AuditGap) {
    push_frame(bytes, KIND_GAP, gap.last, &gap.to_wire().encode_to_vec(), &gap.hash);
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn hash_at(bytes: &[u8], at: usize) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(&bytes[at..at + HASH_BYTES]);
    hash
}

/// The newest place in `audit/durable` that is whole, with its sequence number. `None` if none is.
pub fn read_mark(disk: &dyn Disk) -> io::Result<Option<(u64, Place)>> {
    let file = match disk.open(MARK, Open::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    let mut newest = None;
    for at in [0, MARK_PLACE] {
        if len < at + MARK_BYTES as u64 {
            continue;
        }
        let mut bytes = [0; MARK_BYTES];
        file.read_at(at, &mut bytes)?;
        let (body, crc) = bytes.split_at(MARK_BYTES - 4);
        if &body[..8] != MARK_MAGIC || u32_at(crc, 0) != crc32fast::hash(body) {
            continue;
        }
        let head =
            AuditHead { count: u64_at(body, 32), index: u64_at(body, 40), hash: hash_at(body, 48) };
        let place = Place { file: u64_at(body, 16), len: u64_at(body, 24), head };
        let sequence = u64_at(body, 8);
        if newest.is_none_or(|(known, _)| sequence > known) {
            newest = Some((sequence, place));
        }
    }
    Ok(newest)
}

/// Writes a place where the one before the last was. The caller syncs the file.
pub fn write_mark(file: &dyn DiskFile, sequence: u64, place: &Place) -> io::Result<()> {
    let mut bytes = MARK_MAGIC.to_vec();
    for number in [sequence, place.file, place.len, place.head.count, place.head.index] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(place.head.hash);
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    file.write_at((sequence % 2) * MARK_PLACE, &bytes)
}

/// A walk along one file, up to a length.
pub struct Walk {
    path: String,
    file: Box<dyn DiskFile>,
    end: u64,
    offset: u64,
    head: AuditHead,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl Walk {
    /// Opens the file of this first record. `end`: how much of it counts; all of it by default.
    pub fn open(disk: &dyn Disk, first: u64, end: Option<u64>) -> Result<Self, WalkError> {
        let path = path_of(first);
        let failed = |source| WalkError::Disk { path: path.clone(), source };
        let damage = |what: &str| Damage { path: path.clone(), offset: 0, what: what.to_owned() };
        let file = match disk.open(&path, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damage("it is missing").into());
            }
            file => file.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        let end = end.unwrap_or(len);
        if len < end || end < HEADER_BYTES {
            let text = format!("it has {len} bytes of {}", end.max(HEADER_BYTES));
            return Err(damage(&text).into());
        }
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_at(0, &mut bytes).map_err(failed)?;
        let (body, crc) = bytes.split_at(HEADER_BYTES as usize - 4);
        if &body[..8] != FILE_MAGIC || u32_at(crc, 0) != crc32fast::hash(body) {
            return Err(damage("its header is not one").into());
        }
        if u32_at(body, 8) != VERSION {
            return Err(damage(&format!("version {} is unknown", u32_at(body, 8))).into());
        }
        let named = u64_at(body, 12);
        if named != first || named == 0 {
            return Err(damage(&format!("its header says record {named}")).into());
        }
        let head = AuditHead { count: first - 1, index: u64_at(body, 20), hash: hash_at(body, 28) };
        let (buffer, buffer_at) = Default::default();
        Ok(Self { path, file, end, offset: HEADER_BYTES, head, buffer, buffer_at })
    }

    /// The chain up to here.
    pub fn head(&self) -> &AuditHead {
        &self.head
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn damage(&self, what: impl Into<String>) -> WalkError {
        Damage { path: self.path.clone(), offset: self.offset, what: what.into() }.into()
    }

    fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], WalkError> {
        let held = self.buffer_at..self.buffer_at + self.buffer.len() as u64;
        if !(held.contains(&at) && at + len as u64 <= held.end) {
            let most = (self.end - at).min(READ_BYTES.max(len) as u64);
            self.buffer.resize(most as usize, 0);
            self.buffer_at = at;
            let read = self.file.read_at(at, &mut self.buffer);
            read.map_err(|source| WalkError::Disk { path: self.path.clone(), source })?;
        }
        let start = (at - self.buffer_at) as usize;
        Ok(&self.buffer[start..start + len])
    }

    /// The frame at this place: kind, number of its last record, length of its body.
    fn frame_head(&mut self) -> Result<Option<(u32, u64, usize)>, WalkError> {
        let left = self.end - self.offset;
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME_BYTES as u64 {
            return Err(self.damage("a record is cut short"));
        }
        let bytes = self.bytes(self.offset, FRAME_BYTES)?;
        let is_good = u32_at(bytes, 16) == crc32fast::hash(&bytes[..16]);
        let (len, kind) = (u32_at(bytes, 0) as usize, u32_at(bytes, 4));
        let last = u64_at(bytes, 8);
        if !is_good || len > AUDIT_RECORD_BYTES_MAX {
            return Err(self.damage("this is no record"));
        }
        if left < (FRAME_BYTES + len + HASH_BYTES) as u64 {
            return Err(self.damage("a record is cut short"));
        }
        Ok(Some((kind, last, len)))
    }

    /// Passes over the frames of records before `number`, without a look into them.
    pub fn skip_to(&mut self, number: u64) -> Result<(), WalkError> {
        while let Some((_, last, len)) = self.frame_head()? {
            if last >= number {
                break;
            }
            let hash_place = self.offset + (FRAME_BYTES + len) as u64;
            let hash = hash_at(self.bytes(hash_place, HASH_BYTES)?, 0);
            // The log entry of the last one passed over is not read: zero takes any.
            self.head = AuditHead { count: last, index: 0, hash };
            self.offset = hash_place + HASH_BYTES as u64;
        }
        Ok(())
    }

    /// The next frame, checked against the chain. `None` at the end.
    pub fn step(&mut self) -> Result<Option<Frame>, WalkError> {
        let Some((kind, last, len)) = self.frame_head()? else { return Ok(None) };
        let before = self.head;
        let bytes = self.bytes(self.offset, FRAME_BYTES + len + HASH_BYTES)?;
        let body = &bytes[FRAME_BYTES..FRAME_BYTES + len];
        let hash = hash_at(bytes, FRAME_BYTES + len);
        let (frame, head) = match kind {
            KIND_RECORD => {
                let chained = next_hash(&before.hash, body) == hash;
                let record = AuditRecord::decode(body);
                if !chained {
                    return Err(self.damage(format!("record {last} does not fit the chain")));
                }
                let record = record.map_err(|error| self.damage(error.to_string()))?;
                if record.number != last || last != before.count + 1 || record.index < before.index
                {
                    let text = format!("record {} follows record {}", record.number, before.count);
                    return Err(self.damage(text));
                }
                let head = AuditHead { count: last, index: record.index, hash };
                (Frame::Record(Box::new(record)), head)
            }
            KIND_GAP => {
                let gap = wire::AuditGap::decode(body).ok();
                let gap = gap.and_then(|gap| AuditGap::from_wire(&gap).ok());
                let fits = |gap: &AuditGap| {
                    let is_next = gap.first == before.count + 1 && gap.last == last;
                    is_next && gap.after_index >= before.index && gap.hash == hash
                };
                let Some(gap) = gap.filter(fits) else {
                    return Err(self.damage("a gap does not fit the chain"));
                };
                (Frame::Gap(gap), AuditHead { count: last, index: gap.until_index, hash })
            }
            kind => return Err(self.damage(format!("kind {kind} is unknown"))),
        };
        self.offset += (FRAME_BYTES + len + HASH_BYTES) as u64;
        self.head = head;
        Ok(Some(frame))
    }
}
