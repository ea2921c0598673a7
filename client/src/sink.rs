//! The target of a download's files.
//!
//! A file is written as a part file, where no other run writes. It gets its own name only when
//! every byte is verified. [`crate::local_sink::LocalSink`] writes below a directory,
//! [`MemorySink`] into memory. Methods may block: they are called only on `Lane::Client`.
//!
//! ```text
//! begin --> check_room --> per file: create, write_at ..., finish --> complete
//! ```

use std::collections::BTreeMap;
use std::io;

use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

/// A range of a segment that is a range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    pub digest: SegmentDigest,
    /// Whole length of the segment.
    pub segment_len: u32,
    /// Start of the range in the segment.
    pub segment_offset: u32,
    /// Start of the range in the file.
    pub file_offset: u64,
    pub len: u32,
}

/// One file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTarget {
    /// Relative, checked by the manifest's decoder.
    pub name: Vec<u8>,
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

/// The object at a file's place before the download.
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

/// The files and directories that one run will write.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// No name is below another one, and no name occurs twice.
    pub files: &'a [FileTarget],
    /// Names and modes, ascending by name. No name is a file's name or below one.
    pub directories: &'a [(Vec<u8>, u32)],
    /// Whether existing files with other content are replaced.
    pub replace: bool,
}

pub trait Sink: Send + Sync + 'static {
    /// Looks at the existing objects and makes the directories. Called once, before all other
    /// methods. Returns one presence per file. If an object is in the way of a file, nothing is
    /// changed.
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError>;

    /// Takes over part files of killed runs for these files. The files exist with content that will
    /// be replaced. Returns for each file whether there was a part file. From here on such a file
    /// is a [`Presence::Part`].
    fn resume(&self, files: &[FileTarget]) -> Result<Vec<bool>, SinkError> {
        Ok(vec![false; files.len()])
    }

    /// Fails if there is no room for this many more bytes of these files.
    fn check_room(&self, missing: &[(&FileTarget, u64)]) -> Result<(), SinkError>;

    /// Makes an empty part file of the file's length.
    fn create(&self, file: &FileTarget) -> Result<(), SinkError>;

    /// Fills `buffer` from the object that [`Sink::begin`] found: the part file or the file itself.
    fn read_at(
        &self,
        file: &FileTarget,
        from: Presence,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), SinkError>;

    /// Writes verified bytes into the part file.
    fn write_at(&self, file: &FileTarget, offset: u64, bytes: &[u8]) -> Result<(), SinkError>;

    /// Makes the part file durable and gives it its mode, time and final name. An existing file is
    /// replaced only if `replace` is true. An existing file with the same bytes stays.
    fn finish(&self, file: &FileTarget, replace: bool) -> Result<(), SinkError>;

    /// Those of the finished files that another run has replaced with other files of the same
    /// length. From here on [`Sink::read_at`] reads the new ones, and [`Sink::complete`] treats
    /// them as verified, so the caller must verify them first.
    fn replaced(&self, _files: &[FileTarget]) -> Result<Vec<usize>, SinkError> {
        Ok(Vec::new())
    }

    /// Called when all files are finished. Makes their names durable, sets the modes of
    /// directories, and checks that every name is still the file that this run wrote or verified.
    fn complete(&self) -> Result<(), SinkError>;
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    #[error("{name} exists and differs from the checkpoint")]
    WouldOverwrite { name: String },
    /// An object that is not a plain file or directory is in the place of one.
    #[error("{name} cannot be written: {why}")]
    Unsafe { name: String, why: &'static str },
    /// A file that this run wrote or verified has been replaced by another file.
    #[error("{name} was replaced by another process while this one worked")]
    Replaced { name: String },
    #[error(
        "the target file system has too little space: {} free, {} needed",
        iec(*.free), iec(*.needed)
    )]
    NoRoom { needed: u64, free: u64 },
    #[error("{verb} {name}: {error}")]
    Io { verb: &'static str, name: String, error: io::Error },
}

impl SinkError {
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::WouldOverwrite { .. } => "restore into another directory, or overwrite",
            Self::Unsafe { .. } => "links are never followed; restore into a clean directory",
            Self::Replaced { .. } => {
                "another process writes other files with these names; run one at a time"
            }
            Self::NoRoom { .. } => {
                "free some space, or ignore what the file system says (for one that compresses)"
            }
            Self::Io { error, .. } if error.raw_os_error() == Some(28) => {
                "free some space and run the same command again; it continues"
            }
            Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// A name as text for people.
pub fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// `1.5 GiB`.
fn iec(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let power = (count.max(1).ilog2() / 10).min(5);
    match power {
        0 => format!("{count} B"),
        _ => {
            format!("{:.1} {}", count as f64 / (1u64 << (10 * power)) as f64, UNITS[power as usize])
        }
    }
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

    /// Bytes that downloads have written, in finished files and part files.
    pub fn bytes_written(&self) -> u64 {
        self.state.lock().bytes_written
    }

    /// Adds a file before a download.
    pub fn insert(&self, name: &[u8], content: Vec<u8>) {
        self.state.lock().files.insert(name.to_vec(), content);
    }
}

fn out_of_range(file: &FileTarget, verb: &'static str) -> SinkError {
    SinkError::Io { verb, name: file.shown(), error: io::ErrorKind::UnexpectedEof.into() }
}

impl Sink for MemorySink {
    fn begin(&self, plan: &Plan<'_>) -> Result<Vec<Presence>, SinkError> {
        let state = self.state.lock();
        let presence = |file: &FileTarget| {
            let is_right = |content: &Vec<u8>| content.len() as u64 == file.len;
            match (state.files.get(&file.name), state.parts.get(&file.name)) {
                (Some(content), _) if is_right(content) => Ok(Presence::Final),
                (Some(_), _) if plan.replace => Ok(Presence::Other),
                (Some(_), _) => Err(SinkError::WouldOverwrite { name: file.shown() }),
                (None, Some(part)) if is_right(part) => Ok(Presence::Part),
                (None, _) => Ok(Presence::Absent),
            }
        };
        plan.files.iter().map(presence).collect()
    }

    fn check_room(&self, _missing: &[(&FileTarget, u64)]) -> Result<(), SinkError> {
        Ok(())
    }

    fn create(&self, file: &FileTarget) -> Result<(), SinkError> {
        let len = usize::try_from(file.len).map_err(|_| out_of_range(file, "create"))?;
        self.state.lock().parts.insert(file.name.clone(), vec![0; len]);
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
            Presence::Part => state.parts.get(&file.name),
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
            .get_mut(&file.name)
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
        let part = state.parts.remove(&file.name);
        let part = part.ok_or_else(|| out_of_range(file, "finish"))?;
        state.files.insert(file.name.clone(), part);
        Ok(())
    }

    fn complete(&self) -> Result<(), SinkError> {
        Ok(())
    }
}
