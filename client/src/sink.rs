//! Where a download's files go.
//!
//! A file is written under its part name and takes its own only when every byte is verified;
//! [`crate::local_sink::LocalSink`] writes below a directory, [`MemorySink`] into memory. Methods
//! may block: they are called on `Lane::Client` only.

use std::collections::BTreeMap;
use std::io;

use cairn_core::ids::SegmentDigest;
use parking_lot::Mutex;

/// Ends the name of a file that is not complete yet.
pub const PART_SUFFIX: &[u8] = b".cairn-part";

/// A range of a segment that makes up a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    pub digest: SegmentDigest,
    /// Whole length of the segment.
    pub segment_len: u32,
    /// Where the range starts in the segment.
    pub segment_offset: u32,
    /// Where it starts in the file.
    pub file_offset: u64,
    pub len: u32,
}

/// One file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    /// Relative, checked by the manifest's decoder.
    pub name: Vec<u8>,
    /// The name while incomplete: beside the final one, and no file's final name.
    pub part_name: Vec<u8>,
    pub mode: u32,
    pub mtime_ns: i64,
    pub len: u64,
    /// In file order, without gaps.
    pub extents: Vec<FileExtent>,
}

impl FileTarget {
    pub fn shown(&self) -> String {
        shown(&self.name)
    }
}

/// What is at a file's place before the download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Absent,
    /// A part file of the right length: some of its bytes may be right.
    Part,
    /// A file of that name and length.
    Final,
    /// A file of that name and another length.
    Other,
}

pub trait Sink: Send + Sync + 'static {
    fn probe(&self, file: &FileTarget) -> Result<Presence, SinkError>;

    /// Makes an empty part file of the file's length.
    fn create(&self, file: &FileTarget) -> Result<(), SinkError>;

    /// Fills `buffer` from what [`Sink::probe`] found: the part, or the file itself.
    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError>;

    /// Writes verified bytes into the part file.
    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError>;

    /// Makes the part file durable and gives it its mode, time and final name; a file already
    /// there is replaced only if `replace`.
    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError>;

    fn make_directory(&self, name: &[u8], mode: u32) -> Result<(), SinkError>;

    /// All files are finished: makes their names durable.
    fn complete(&self) -> Result<(), SinkError>;
}

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("{name} exists and differs from the checkpoint")]
    WouldOverwrite { name: String },
    /// Something that is not a plain file or directory stands where one must go.
    #[error("{name} cannot be written: {why}")]
    Unsafe { name: String, why: &'static str },
    #[error("{verb} {name}: {error}")]
    Io { verb: &'static str, name: String, error: io::Error },
}

impl SinkError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::WouldOverwrite { .. } => "restore into another directory, or pass --overwrite",
            Self::Unsafe { .. } => "links are never followed; restore into a clean directory",
            Self::Io { error, .. } if error.raw_os_error() == Some(28) => {
                "free some space and run the same command again; it continues"
            }
            Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// A name for people.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Files in memory.
#[derive(Debug, Default)]
pub struct MemorySink {
    state: Mutex<MemoryFiles>,
}

#[derive(Debug, Default)]
struct MemoryFiles {
    parts: BTreeMap<Vec<u8>, Vec<u8>>,
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes_written: u64,
}

impl MemorySink {
    /// The finished files.
    pub fn files(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state.lock().files.clone()
    }

    /// Bytes that downloads have written, of whole files and of parts.
    pub fn bytes_written(&self) -> u64 {
        self.state.lock().bytes_written
    }

    /// Puts a file there before a download.
    pub fn insert(&self, name: &[u8], content: Vec<u8>) {
        self.state.lock().files.insert(name.to_vec(), content);
    }
}

fn out_of_range(file: &FileTarget, verb: &'static str) -> SinkError {
    SinkError::Io { verb, name: file.shown(), error: io::ErrorKind::UnexpectedEof.into() }
}

impl Sink for MemorySink {
    fn probe(&self, file: &FileTarget) -> Result<Presence, SinkError> {
        let state = self.state.lock();
        let is_right = |content: &Vec<u8>| content.len() as u64 == file.len;
        Ok(match (state.files.get(&file.name), state.parts.get(&file.part_name)) {
            (Some(content), _) if is_right(content) => Presence::Final,
            (Some(_), _) => Presence::Other,
            (None, Some(part)) if is_right(part) => Presence::Part,
            (None, _) => Presence::Absent,
        })
    }

    fn create(&self, file: &FileTarget) -> Result<(), SinkError> {
        let len = usize::try_from(file.len).map_err(|_| out_of_range(file, "create"))?;
        self.state.lock().parts.insert(file.part_name.clone(), vec![0; len]);
        Ok(())
    }

    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError> {
        let state = self.state.lock();
        let content = match from {
            Presence::Part => state.parts.get(&file.part_name),
            _ => state.files.get(&file.name),
        };
        let start = offset as usize;
        let bytes = content.and_then(|content| content.get(start..start + buffer.len()));
        buffer.copy_from_slice(bytes.ok_or_else(|| out_of_range(file, "read"))?);
        Ok(())
    }

    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        let start = offset as usize;
        let place = state
            .parts
            .get_mut(&file.part_name)
            .and_then(|part| part.get_mut(start..start + bytes.len()));
        place.ok_or_else(|| out_of_range(file, "write"))?.copy_from_slice(bytes);
        state.bytes_written += bytes.len() as u64;
        Ok(())
    }

    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError> {
        let mut state = self.state.lock();
        if !replace && state.files.contains_key(&file.name) {
            return Err(SinkError::WouldOverwrite { name: file.shown() });
        }
        let part = state.parts.remove(&file.part_name);
        let part = part.ok_or_else(|| out_of_range(file, "finish"))?;
        state.files.insert(file.name.clone(), part);
        Ok(())
    }

    fn make_directory(&self, _name: &[u8], _mode: u32) -> Result<(), SinkError> {
        Ok(())
    }

    fn complete(&self) -> Result<(), SinkError> {
        Ok(())
    }
}
