//! The log file: redb on the disk seam.
//!
//! ```text
//! raft.redb   table `log`   index u64 -> crc32 | index | term | RaftEntry
//!             table `meta`  "vote", "committed", "purged" -> crc32 | message
//! ```
//!
//! One redb transaction is durable when [`LogFile::commit`] returns. The file is created under a
//! temporary name, because a crash while redb writes its first pages leaves a file that cannot be
//! opened. All functions block.

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use cairn_proto::wire;
use cairn_types::canary;
use prost::Message;
use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable,
    StorageError, TableDefinition,
};

use crate::disk::redb_file::RedbFile;
use crate::disk::{Disk, DiskFile, Open};
use crate::raft::codec;
use crate::raft::peers::promises::Promise;
use crate::raft::types::{Entry, LogId, Vote};
use crate::store::ballast::release_ballast_if_short;

const FILE: &str = "raft.redb";
const NEW_FILE: &str = "raft.redb.new";
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// redb's page cache, bytes. The log store keeps recent entries decoded. So this cache only has to
/// hold the inner pages of the tree.
const CACHE_BYTES: usize = 4 << 20;
/// CRC-32, index, term.
const RECORD_HEAD: usize = 4 + 8 + 8;

/// Why the log cannot be opened, read or written. No such error can be retried: the node stops.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{doing} of the raft log: {source}")]
    Disk { doing: &'static str, source: io::Error },
    #[error("{doing} of the raft log: {why}")]
    Store { doing: &'static str, why: String },
    #[error("raft log record {record} is damaged: {why}")]
    Damaged { record: String, why: String },
    /// Its pages differ from the written ones.
    #[error("the raft log's file is damaged: {0}")]
    Rotten(String),
    /// The record of this node's votes is lost: it must never vote under its id again.
    #[error("raft log was lost: {0}")]
    Lost(&'static str),
    /// The directory is an earlier state of itself. It lost entries or votes that the node had
    /// acknowledged.
    #[error("the data directory is older than what this node has told others it holds: {0}")]
    SetBack(Promise),
    #[error("raft log has a hole: record {found} follows where {expected} should be")]
    Hole { expected: u64, found: u64 },
}

fn disk(doing: &'static str) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::Disk { doing, source }
}

fn store<E: fmt::Display>(doing: &'static str) -> impl Fn(E) -> LogError {
    move |error| LogError::Store { doing, why: error.to_string() }
}

/// The content of the file when it was opened.
#[derive(Default)]
pub struct Stored {
    pub vote: Option<Vote>,
    /// Set only if the log holds, or has purged, exactly this entry. The committed id is saved with
    /// a later commit. So it may be ahead of a log that a crash or a snapshot cut short.
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
}

/// One change, in the order of the requests to the log store.
pub enum Change {
    Vote(Vote),
    Append(Vec<Entry>),
    /// Removes every entry from this index on, from the end backwards.
    TruncateFrom(u64),
    Purge(LogId),
    Committed(LogId),
}

/// The content of a log that no process has open. For tools and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// The term of the last vote.
    pub vote_term: Option<u64>,
    /// Index of the last entry, or of the last purged one.
    pub last: Option<u64>,
    pub promise: Option<Promise>,
}

/// Opens and checks the log on a disk. Repairs damage of a crash, as a start does.
pub fn inspect(disk_seam: &dyn Disk) -> Result<LogSummary, LogError> {
    let (_, stored) = LogFile::open(disk_seam, false)?;
    Ok(LogSummary {
        vote_term: stored.vote.map(|vote| vote.leader_id.term),
        last: stored.last.map(|last| last.index),
        promise: stored.vote.map(|vote| Promise::new(vote, stored.last)),
    })
}

pub struct LogFile(Database);

impl LogFile {
    /// Opens the log, or creates it if there is none, and checks every record. `expect_log` means
    /// that the node has voted or stored entries before. A log without votes and entries is then
    /// `Lost`.
    pub fn open(disk_seam: &dyn Disk, expect_log: bool) -> Result<(Self, Stored), LogError> {
        if !disk_seam.exists(FILE).map_err(disk("lookup"))? {
            if expect_log {
                return Err(LogError::Lost("its file is missing"));
            }
            create(disk_seam)?;
        }
        // The sync is always needed. A process that was killed between the rename and its sync left
        // a name that a power cut can still remove, and all later acknowledged entries with it.
        disk_seam.sync_dir("").map_err(disk("directory sync"))?;
        let file = disk_seam.open(FILE, Open::Write).map_err(disk("opening"))?;
        // The file gets its name only when it has content. redb would take an empty file for a new
        // database and fill it.
        if file.len().map_err(disk("lookup"))? == 0 {
            return Err(LogError::Lost("its file is empty"));
        }
        let log = Self(open_database(file)?);
        let stored = log.check()?;
        let nothing = stored.vote.is_none() && stored.last.is_none() && stored.purged.is_none();
        if expect_log && nothing {
            return Err(LogError::Lost("it holds no vote and no entry"));
        }
        Ok((log, stored))
    }

    fn check(&self) -> Result<Stored, LogError> {
        let doing = "check";
        let txn = self.read()?;
        let meta = txn.open_table(META).map_err(store(doing))?;
        let get = |key: &'static str| -> Result<Option<Bytes>, LogError> {
            let value = meta.get(key).map_err(store(doing))?;
            value.map(|value| open_meta(key, value.value())).transpose()
        };
        let vote = get("vote")?
            .map(|bytes| decode::<wire::RaftVote>("vote", bytes))
            .transpose()?
            .map(codec::vote_from_wire);
        let id = |key| -> Result<Option<LogId>, LogError> {
            let message = get(key)?.map(|bytes| decode::<wire::RaftLogId>(key, bytes));
            Ok(message.transpose()?.map(codec::log_id_from_wire))
        };
        let (purged, committed) = (id("purged")?, id("committed")?);

        let table = txn.open_table(LOG).map_err(store(doing))?;
        let mut last = purged;
        let mut committed_is_held = committed == purged;
        for record in table.iter().map_err(store(doing))? {
            let (key, value) = record.map_err(store(doing))?;
            let (log_id, _) = open_record(key.value(), value.value())?;
            let expected = last.map_or(0, |last| last.index + 1);
            if log_id.index != expected {
                return Err(LogError::Hole { expected, found: log_id.index });
            }
            committed_is_held |= committed == Some(log_id);
            last = Some(log_id);
        }
        Ok(Stored { vote, committed: committed.filter(|_| committed_is_held), purged, last })
    }

    /// Makes all of `changes` durable, or none.
    pub fn commit(&self, changes: &[Change]) -> Result<(), LogError> {
        let doing = "commit";
        let mut txn = self.0.begin_write().map_err(store(doing))?;
        let durability = if is_lazy(changes) { Durability::None } else { Durability::Immediate };
        txn.set_durability(durability).map_err(store(doing))?;
        {
            let mut log = txn.open_table(LOG).map_err(store(doing))?;
            let mut meta = txn.open_table(META).map_err(store(doing))?;
            for change in changes {
                match change {
                    Change::Vote(vote) => {
                        let value = seal_meta(&codec::vote_to_wire(vote));
                        meta.insert("vote", value.as_slice()).map_err(store(doing))?;
                    }
                    Change::Committed(id) => {
                        let value = seal_meta(&codec::log_id_to_wire(id));
                        meta.insert("committed", value.as_slice()).map_err(store(doing))?;
                    }
                    Change::Append(entries) => {
                        for entry in entries {
                            let value = seal_record(entry);
                            log.insert(entry.log_id.index, value.as_slice())
                                .map_err(store(doing))?;
                        }
                    }
                    Change::TruncateFrom(_) if canary!("truncation_stays") => {}
                    Change::TruncateFrom(index) => loop {
                        let last = log.last().map_err(store(doing))?.map(|(key, _)| key.value());
                        match last {
                            Some(last) if last >= *index => {
                                log.remove(last).map_err(store(doing))?;
                            }
                            _ => break,
                        }
                    },
                    Change::Purge(id) => {
                        let value = seal_meta(&codec::log_id_to_wire(id));
                        meta.insert("purged", value.as_slice()).map_err(store(doing))?;
                        log.retain_in(..=id.index, |_, _| false).map_err(store(doing))?;
                    }
                }
            }
        }
        txn.commit().map_err(store(doing))
    }

    /// A view of the file as it is now. Later commits do not change the view.
    pub fn read(&self) -> Result<ReadTransaction, LogError> {
        self.0.begin_read().map_err(store("read"))
    }
}

/// Whether these changes may be lost in a crash. Always false, except for two canaries.
fn is_lazy(changes: &[Change]) -> bool {
    let all = |are: fn(&Change) -> bool| {
        changes.iter().all(|change| are(change) || matches!(change, Change::Committed(_)))
    };
    (canary!("vote_not_durable") && all(|change| matches!(change, Change::Vote(_))))
        || (canary!("append_not_durable") && all(|change| matches!(change, Change::Append(_))))
}

/// Makes sure that there is room for a commit of `bytes` bytes. Releases the ballast if needed.
pub fn keep_room(disk_seam: &dyn Disk, bytes: u64) -> Result<(), LogError> {
    release_ballast_if_short(disk_seam, bytes).map_err(disk("making of room"))
}

/// Entries of `range`, in order and without a gap. Stops after the entry that reaches `bytes_max`.
pub fn read_entries(
    txn: &ReadTransaction,
    range: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<Entry>, LogError> {
    let doing = "read";
    let table = txn.open_table(LOG).map_err(store(doing))?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut expected = range.start;
    for record in table.range(range.clone()).map_err(store(doing))? {
        let (key, value) = record.map_err(store(doing))?;
        let (log_id, message) = open_record(key.value(), value.value())?;
        if log_id.index != expected {
            return Err(LogError::Hole { expected, found: log_id.index });
        }
        expected += 1;
        bytes += message.len();
        let record = || format!("{}", log_id.index);
        let message: wire::RaftEntry = decode(&record(), message)?;
        let entry = codec::entry_from_wire(message)
            .map_err(|error| LogError::Damaged { record: record(), why: error.to_string() })?;
        entries.push(entry);
        if bytes >= bytes_max {
            return Ok(entries);
        }
    }
    if expected != range.end {
        return Err(LogError::Hole { expected, found: range.end });
    }
    Ok(entries)
}

fn create(disk_seam: &dyn Disk) -> Result<(), LogError> {
    let doing = "creation";
    if disk_seam.exists(NEW_FILE).map_err(disk(doing))? {
        disk_seam.remove(NEW_FILE).map_err(disk(doing))?;
    }
    let database = open_database(disk_seam.open(NEW_FILE, Open::Create).map_err(disk(doing))?)?;
    let mut txn = database.begin_write().map_err(store(doing))?;
    txn.set_durability(Durability::Immediate).map_err(store(doing))?;
    txn.open_table(LOG).map_err(store(doing))?;
    txn.open_table(META).map_err(store(doing))?;
    txn.commit().map_err(store(doing))?;
    database.close().map_err(store(doing))?;
    let file = disk_seam.open(NEW_FILE, Open::Write).map_err(disk(doing))?;
    file.sync().map_err(disk(doing))?;
    disk_seam.rename(NEW_FILE, FILE).map_err(disk(doing))
}

/// Checks every page. A flipped bit in an inner page would hide or misplace records that are each
/// correct by themselves.
fn open_database(file: Box<dyn DiskFile>) -> Result<Database, LogError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(RedbFile(file))
        .map_err(|error| match error {
            DatabaseError::Storage(StorageError::Corrupted(why)) => LogError::Rotten(why),
            // The first bytes are damaged, or the version in them.
            DatabaseError::Storage(StorageError::Io(why))
                if why.kind() == io::ErrorKind::InvalidData =>
            {
                LogError::Rotten(format!("not a redb file: {why}"))
            }
            DatabaseError::UpgradeRequired(version) => {
                LogError::Rotten(format!("it says it is of redb's version {version}"))
            }
            error => store("opening")(error),
        })
}

fn seal_record(entry: &Entry) -> Vec<u8> {
    let message = codec::entry_to_wire(entry);
    let mut record = Vec::with_capacity(RECORD_HEAD + message.encoded_len());
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(&entry.log_id.index.to_le_bytes());
    record.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    record.extend_from_slice(&message.encode_to_vec());
    let crc = crc32fast::hash(&record[4..]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    record
}

/// Checks a record's envelope and returns its log id and message.
fn open_record(key: u64, record: &[u8]) -> Result<(LogId, Bytes), LogError> {
    let damaged = |why: &str| LogError::Damaged { record: key.to_string(), why: why.into() };
    let number = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(record.get(at..at + 8)?.try_into().ok()?))
    };
    let crc = record.first_chunk::<4>().ok_or_else(|| damaged("too short"))?;
    let (Some(index), Some(term)) = (number(4), number(12)) else {
        return Err(damaged("too short"));
    };
    if crc32fast::hash(&record[4..]) != u32::from_le_bytes(*crc) {
        return Err(damaged("checksum mismatch"));
    }
    if index != key {
        return Err(damaged(&format!("it says index {index}")));
    }
    let message = Bytes::copy_from_slice(&record[RECORD_HEAD..]);
    Ok((LogId::new_term_index(term, index), message))
}

fn seal_meta(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut value = crc32fast::hash(&body).to_le_bytes().to_vec();
    value.extend_from_slice(&body);
    value
}

fn open_meta(key: &str, value: &[u8]) -> Result<Bytes, LogError> {
    match value.split_first_chunk::<4>() {
        Some((crc, body)) if crc32fast::hash(body) == u32::from_le_bytes(*crc) => {
            Ok(Bytes::copy_from_slice(body))
        }
        _ => Err(LogError::Damaged { record: key.into(), why: "checksum mismatch".into() }),
    }
}

fn decode<M: Message + Default>(record: &str, bytes: Bytes) -> Result<M, LogError> {
    M::decode(bytes)
        .map_err(|error| LogError::Damaged { record: record.into(), why: error.to_string() })
}

/// Flips a bit of a record's message and leaves its checksum as it was.
#[cfg(test)]
pub(in crate::raft) fn damage_record(disk_seam: &dyn Disk, index: u64) {
    let file = disk_seam.open(FILE, Open::Write).unwrap();
    let database = open_database(file).unwrap();
    let txn = database.begin_write().unwrap();
    {
        let mut log = txn.open_table(LOG).unwrap();
        let mut record = log.get(index).unwrap().unwrap().value().to_vec();
        record[RECORD_HEAD] ^= 1;
        log.insert(index, record.as_slice()).unwrap();
    }
    txn.commit().unwrap();
}
