//! The stored form of a whole catalogue. A node writes it to `snapshots/` and sends it to a node
//! that lags behind the log.
//!
//! ```text
//!   head  node*  namespace*  segment*  checkpoint*  ref*  hold*  issuer*  revoked*  reply*  tail
//!   each: length as varint, SnapshotRecord          tail: record count, BLAKE3 of all before it
//! ```
//!
//! Written and read as a stream, one record in memory at a time. Equal catalogues give equal bytes.
//! [`read`] checks everything: kinds must come in order, values are checked like those from the
//! network, the loader counts references again, and the checksum must match.

mod access;
mod checkpoint;
mod cluster;
mod hold;
mod loader;
mod named_ref;
mod namespace;
mod node;
mod reply;
mod segment;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, BufReader, Read, Write};

use cairn_types::canary;
use cairn_types::convert::{ConvertError, all_known};
use cairn_types::wire::{self, snapshot_record::Record};
use prost::Message;

use super::Catalogue;

pub use loader::{LoadError, Loader};
use loader::{is_minted, policy_is_sound};

/// Raised when a reader of the previous version would misread a snapshot.
pub const SNAPSHOT_VERSION: u32 = 2;

/// Longest record, bytes. A checkpoint of 65,536 parts with inline manifests of 4 KiB and 4 million
/// segments has about 280 MiB.
const RECORD_BYTES_MAX: u64 = 512 << 20;
/// Bytes collected before they are hashed and written, and bytes read at once.
const GATHER_BYTES: usize = 64 << 10;

/// Why bytes are not a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("read snapshot: {0}")]
    Io(#[from] io::Error),
    #[error("snapshot of version {0} is of an older build, which this one cannot read")]
    Past(u32),
    #[error("snapshot of version {version} and feature level {feature_level} is too new")]
    Future { version: u32, feature_level: u32 },
    #[error("snapshot ends early, in or after record {0}")]
    CutShort(u64),
    #[error("malformed snapshot, record {record}: {what}")]
    Malformed { record: u64, what: &'static str },
    #[error("undecodable snapshot, record {record}: {source}")]
    Undecodable { record: u64, source: prost::DecodeError },
    #[error("malformed snapshot, record {record}: {source}")]
    Value { record: u64, source: ConvertError },
    #[error("snapshot does not fit together: {0}")]
    Load(#[from] LoadError),
    #[error("snapshot does not match its checksum")]
    Checksum,
}

/// Receives the records of a kind, one after the other.
type Put<'a, M> = &'a mut dyn FnMut(M) -> io::Result<()>;

/// A kind of record.
trait Stored {
    type Message;
    /// All records of this kind, always in the same order.
    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()>;
    /// Loads one record, after the checks that need only this record.
    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError>;
}

/// Why a record is rejected.
enum StoredError {
    Value(ConvertError),
    Load(LoadError),
}

impl From<ConvertError> for StoredError {
    fn from(error: ConvertError) -> Self {
        Self::Value(error)
    }
}

impl From<LoadError> for StoredError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

/// One row for each kind, in the order of a snapshot, after the head: its message and the type that
/// stores it.
macro_rules! stored {
    ($($Kind:ident $Stored:path,)*) => {
        /// Passes every record of the catalogue to `put`, except head and tail.
        fn each_record(catalogue: &Catalogue, put: Put<'_, Record>) -> io::Result<()> {
            $(<$Stored>::each(catalogue, &mut |message| put(Record::$Kind(message)))?;)*
            Ok(())
        }

        fn load_record(record: Record, loader: &mut Loader) -> Result<(), StoredError> {
            match record {
                $(Record::$Kind(message) => <$Stored>::load(message, loader),)*
                Record::Head(_) | Record::Tail(_) => Ok(()),
            }
        }

        /// Position of a record's kind in the stream.
        fn kind(record: &Record) -> usize {
            let mut place = 1;
            $(
                place += 1;
                if matches!(record, Record::$Kind(_)) {
                    return place;
                }
            )*
            if matches!(record, Record::Head(_)) { 1 } else { place + 1 }
        }
    };
}
stored! {
    Node node::Nodes,
    Namespace namespace::Namespaces,
    Segment segment::Segments,
    Checkpoint checkpoint::Checkpoints,
    Ref named_ref::AllRefs,
    Hold hold::Holds,
    Issuer access::Issuers,
    Revoked access::RevokedTokens,
    Reply reply::Replies,
}

/// Writes `catalogue` to `out`.
pub fn write(catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = Writer::to(out);
    writer.put(Record::Head(cluster::to_wire(catalogue.cluster())))?;
    let counted = canary!("snapshot_without_tail");
    let mut left = if counted { catalogue.replies().count() } else { usize::MAX };
    each_record(catalogue, &mut |record| {
        let is_reply = matches!(record, Record::Reply(_));
        left -= usize::from(is_reply);
        if counted && is_reply && left == 0 {
            return Ok(());
        }
        writer.put(record)
    })?;
    writer.finish()
}

impl Catalogue {
    /// BLAKE3 over all stored records (C3). Derived indexes are not included.
    pub fn digest(&self) -> [u8; 32] {
        let mut nowhere = io::sink();
        let mut writer = Writer::to(&mut nowhere);
        writer
            .put(Record::Head(cluster::to_wire(self.cluster())))
            .and_then(|()| each_record(self, &mut |record| writer.put(record)))
            .and_then(|()| writer.flush())
            .expect("writing to nowhere cannot fail");
        *writer.hasher.finalize().as_bytes()
    }
}

/// Reads the output of [`write`], for a build that understands feature levels up to `level`.
/// `input` ends where the snapshot does.
pub fn read(input: &mut dyn Read, level: u32) -> Result<Catalogue, SnapshotError> {
    let input = BufReader::with_capacity(GATHER_BYTES, input);
    let mut reader = Reader { input, hasher: blake3::Hasher::new(), records: 0, kind: 0 };
    let Some(Record::Head(head)) = reader.next()? else {
        return Err(reader.malformed("no head"));
    };
    let (version, feature_level) = (head.version, head.feature_level);
    if version < SNAPSHOT_VERSION {
        return Err(SnapshotError::Past(version));
    }
    if version > SNAPSHOT_VERSION || feature_level > level {
        return Err(SnapshotError::Future { version, feature_level });
    }
    let cluster = cluster::from_wire(head).map_err(|source| reader.value(source))?;
    let mut loader = Loader::new(cluster)?;
    while let Some(record) = reader.next()? {
        reader.load(&mut loader, record)?;
    }
    Ok(loader.finish()?)
}

/// [`write`] into memory.
pub fn encode(catalogue: &Catalogue) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(catalogue, &mut bytes).expect("writing to a Vec cannot fail");
    bytes
}

/// [`read`] from memory.
pub fn decode(mut bytes: &[u8], level: u32) -> Result<Catalogue, SnapshotError> {
    read(&mut bytes, level)
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    gathered: Vec<u8>,
    hasher: blake3::Hasher,
    records: u64,
}

impl<'a> Writer<'a> {
    fn to(out: &'a mut dyn Write) -> Self {
        Self { out, gathered: Vec::new(), hasher: blake3::Hasher::new(), records: 0 }
    }

    fn put(&mut self, record: Record) -> io::Result<()> {
        let record = wire::SnapshotRecord { record: Some(record) };
        self.gathered.extend_from_slice(&record.encode_length_delimited_to_vec());
        self.records += 1;
        if self.gathered.len() >= GATHER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.gathered);
        self.out.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let checksum = self.hasher.finalize().as_bytes().to_vec().into();
        let records = self.records;
        self.put(Record::Tail(wire::SnapshotTail { records, checksum }))?;
        self.flush()
    }
}

struct Reader<'a> {
    input: BufReader<&'a mut dyn Read>,
    /// The hash of all records so far.
    hasher: blake3::Hasher,
    records: u64,
    /// Kind of the last record.
    kind: usize,
}

impl Reader<'_> {
    /// The next record. `None` after a valid tail at the end.
    fn next(&mut self) -> Result<Option<Record>, SnapshotError> {
        let frame = self.frame()?;
        let record = wire::SnapshotRecord::decode_length_delimited(&frame[..])
            .map_err(|source| SnapshotError::Undecodable { record: self.records, source })?;
        let body_bytes = frame.len() - prost::length_delimiter_len(record.encoded_len());
        all_known("record", &record, body_bytes).map_err(|source| self.value(source))?;
        let Some(record) = record.record else {
            return Err(self.malformed("unknown kind"));
        };
        if kind(&record) < self.kind || (self.kind == 1 && kind(&record) == 1) {
            return Err(self.malformed("kinds are out of order"));
        }
        self.kind = kind(&record);
        if let Record::Tail(tail) = record {
            let checksum = self.hasher.finalize();
            if tail.records != self.records || tail.checksum[..] != checksum.as_bytes()[..] {
                return Err(SnapshotError::Checksum);
            }
            if !self.input.fill_buf()?.is_empty() {
                return Err(self.malformed("bytes after the tail"));
            }
            return Ok(None);
        }
        self.hasher.update(&frame);
        self.records += 1;
        Ok(Some(record))
    }

    /// The next record's bytes with its length prefix. Allocates memory only for bytes that exist.
    fn frame(&mut self) -> Result<Vec<u8>, SnapshotError> {
        let mut frame = Vec::new();
        let mut len = 0u64;
        loop {
            let mut byte = [0];
            if self.input.read(&mut byte)? == 0 {
                return Err(SnapshotError::CutShort(self.records));
            }
            len |= u64::from(byte[0] & 0x7f) << (7 * frame.len());
            frame.push(byte[0]);
            if byte[0] & 0x80 == 0 {
                break;
            }
            if frame.len() > 4 {
                return Err(self.malformed("length of a record is too large"));
            }
        }
        if len > RECORD_BYTES_MAX {
            return Err(self.malformed("length of a record is too large"));
        }
        let got = self.input.by_ref().take(len).read_to_end(&mut frame)?;
        if (got as u64) < len {
            return Err(SnapshotError::CutShort(self.records));
        }
        Ok(frame)
    }

    fn load(&self, loader: &mut Loader, record: Record) -> Result<(), SnapshotError> {
        load_record(record, loader).map_err(|error| match error {
            StoredError::Value(source) => self.value(source),
            StoredError::Load(error) => error.into(),
        })
    }

    fn malformed(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Malformed { record: self.records, what }
    }

    fn value(&self, source: ConvertError) -> SnapshotError {
        SnapshotError::Value { record: self.records, source }
    }
}
