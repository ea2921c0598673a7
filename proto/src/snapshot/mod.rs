//! The stored form of a whole catalogue: what a node writes to `snapshots/` and sends to one that
//! lags behind the log.
//!
//! ```text
//!   head  node*  namespace*  segment*  checkpoint*  reply*  tail
//!   each: length as varint, SnapshotRecord          tail: record count, BLAKE3 of all before it
//! ```
//!
//! Written and read as a stream, one record in memory at a time. Equal catalogues give equal
//! bytes. [`read`] trusts nothing: kinds must come in order, values are checked as those from the
//! network are, references are counted anew by `cairn-core`'s loader, and the checksum must fit.

mod records;
#[cfg(test)]
mod tests;

use std::io::{self, BufRead, BufReader, Read, Write};

use cairn_core::canary;
use cairn_core::catalogue::{Catalogue, LoadError, Loader};
use cairn_core::ids::RequestId;
use prost::Message;

use crate::convert::{
    ConvertError, id128_from_wire, id128_to_wire, reply_from_wire, reply_to_wire,
};
use crate::envelope::FEATURE_LEVEL;
use crate::wire::{self, snapshot_record::Record};

/// Raised when a reader of the version before would misread a snapshot.
pub const SNAPSHOT_VERSION: u32 = 1;

/// Longest record, bytes: a checkpoint of 65,536 parts with inline manifests of 4 KiB and 4
/// million segments has some 280 MiB.
const RECORD_BYTES_MAX: u64 = 512 << 20;
/// Bytes gathered before they are hashed and written, and read at once.
const GATHER_BYTES: usize = 64 << 10;

/// Why bytes are not a catalogue.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("read snapshot: {0}")]
    Io(#[from] io::Error),
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

/// Writes `catalogue` to `out`.
pub fn write(catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    let mut writer =
        Writer { out, gathered: Vec::new(), hasher: blake3::Hasher::new(), records: 0 };
    writer.put(Record::Head(records::head_to_wire(catalogue.cluster())))?;
    for node in catalogue.nodes() {
        writer.put(Record::Node(records::node_to_wire(node)))?;
    }
    for (name, record) in catalogue.namespaces() {
        writer.put(Record::Namespace(records::namespace_to_wire(name, record)))?;
    }
    for segment in catalogue.segments().iter() {
        writer.put(Record::Segment(records::segment_to_wire(segment)))?;
    }
    for checkpoint in catalogue.checkpoints() {
        writer.put(Record::Checkpoint(records::checkpoint_to_wire(checkpoint)))?;
    }
    let mut replies = catalogue.replies().peekable();
    while let Some((request, reply)) = replies.next() {
        if canary!("snapshot_without_tail") && replies.peek().is_none() {
            break;
        }
        let request = id128_to_wire(request.0);
        let reply = Some(reply_to_wire(reply));
        writer.put(Record::Reply(wire::SnapshotReply { request, reply }))?;
    }
    writer.finish()
}

/// Reads what [`write`] wrote; `input` ends where the snapshot does.
pub fn read(input: &mut dyn Read) -> Result<Catalogue, SnapshotError> {
    let input = BufReader::with_capacity(GATHER_BYTES, input);
    let mut reader = Reader { input, hasher: blake3::Hasher::new(), records: 0, kind: 0 };
    let Some(Record::Head(head)) = reader.next()? else {
        return Err(reader.malformed("no head"));
    };
    let (version, feature_level) = (head.version, head.feature_level);
    if version != SNAPSHOT_VERSION || feature_level > FEATURE_LEVEL {
        return Err(SnapshotError::Future { version, feature_level });
    }
    let cluster = records::head_from_wire(head).map_err(|source| reader.value(source))?;
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
pub fn decode(mut bytes: &[u8]) -> Result<Catalogue, SnapshotError> {
    read(&mut bytes)
}

/// Place of a record's kind in the stream.
fn kind(record: &Record) -> u8 {
    match record {
        Record::Head(_) => 1,
        Record::Node(_) => 2,
        Record::Namespace(_) => 3,
        Record::Segment(_) => 4,
        Record::Checkpoint(_) => 5,
        Record::Reply(_) => 6,
        Record::Tail(_) => 7,
    }
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    gathered: Vec<u8>,
    hasher: blake3::Hasher,
    records: u64,
}

impl Writer<'_> {
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
    /// Of all records so far.
    hasher: blake3::Hasher,
    records: u64,
    /// Kind of the last record.
    kind: u8,
}

impl Reader<'_> {
    /// The next record; `None` after a tail that is right and the last.
    fn next(&mut self) -> Result<Option<Record>, SnapshotError> {
        let frame = self.frame()?;
        let record = wire::SnapshotRecord::decode_length_delimited(&frame[..])
            .map_err(|source| SnapshotError::Undecodable { record: self.records, source })?;
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

    /// The next record's bytes with its length prefix. Takes memory only for bytes that are there.
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
        let value = |source| self.value(source);
        match record {
            Record::Head(_) | Record::Tail(_) => return Err(self.malformed("out of place")),
            Record::Node(node) => loader.node(records::node_from_wire(node).map_err(value)?)?,
            Record::Namespace(record) => {
                let (name, record) = records::namespace_from_wire(record).map_err(value)?;
                loader.namespace(name, record)?;
            }
            Record::Segment(segment) => {
                loader.segment(records::segment_from_wire(&segment).map_err(value)?)?;
            }
            Record::Checkpoint(checkpoint) => {
                loader.checkpoint(records::checkpoint_from_wire(checkpoint).map_err(value)?)?;
            }
            Record::Reply(record) => {
                let request = id128_from_wire("request id", &record.request).map_err(value)?;
                let reply = record.reply.ok_or_else(|| self.malformed("reply is missing"))?;
                let reply = reply_from_wire(reply).map_err(value)?;
                loader.reply(RequestId(request), &reply)?;
            }
        }
        Ok(())
    }

    fn malformed(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Malformed { record: self.records, what }
    }

    fn value(&self, source: ConvertError) -> SnapshotError {
        SnapshotError::Value { record: self.records, source }
    }
}
