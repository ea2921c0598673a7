//! The manifest of one part: its files, and the ranges of segments that hold their bytes.
//!
//! A manifest is read by whoever restores a checkpoint, from bytes that another client wrote. So
//! [`Manifest::decode`] accepts only what a restore can follow safely: names that stay inside the
//! target directory and do not collide, extents that lie inside their segments and add up to
//! their file. [`Manifest::encode`] of equal manifests gives equal bytes.

use std::collections::BTreeSet;

use crate::ids::SegmentDigest;
use crate::limits::{
    MANIFEST_BYTES_MAX, MANIFEST_ENTRIES_MAX, PATH_BYTES_MAX, PATH_COMPONENT_BYTES_MAX,
    SEGMENT_BYTES_MAX,
};
use bytes::Bytes;
use prost::Message;

use crate::convert::digest_to_wire;
use crate::wire;

/// Field numbers of `Manifest.files` and `FileEntry.extents`.
const FILES_TAG: u64 = 3;
const EXTENTS_TAG: u64 = 5;

/// Raised when a reader of the version before would misread a manifest.
pub const MANIFEST_VERSION: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The segments that extents refer to, with their raw lengths.
    pub segments: Vec<(SegmentDigest, u32)>,
    /// Ascending by name.
    pub files: Vec<FileEntry>,
    /// Ascending by name: directories whose mode matters or that hold no file.
    pub directories: Vec<DirectoryEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Relative path, `/` separated, bytes of the source system; see [`check_name`].
    pub name: Vec<u8>,
    pub mode: u32,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Bytes: the sum of the extents.
    pub len: u64,
    /// In file order.
    pub extents: Vec<Extent>,
    /// BLAKE3 of the file's bytes, given where the file shares a segment with others: where it
    /// lies then depends on its neighbours, and only this tells that two parts hold the same file.
    pub content: Option<[u8; 32]>,
}

/// A range of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Place in [`Manifest::segments`].
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Vec<u8>,
    pub mode: u32,
}

/// Why bytes are not a manifest that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("this build cannot read manifest version {0}")]
    FutureVersion(u32),
    #[error("manifest of {0} bytes is too long")]
    TooLong(usize),
    #[error("undecodable manifest: {0}")]
    Undecodable(#[from] prost::DecodeError),
    #[error("malformed segment {place} in manifest: {what}")]
    Segment { place: usize, what: &'static str },
    #[error("malformed name {name:?} in manifest: {what}")]
    Name { name: String, what: &'static str },
    #[error("malformed extent of {name:?} in manifest: {what}")]
    Extent { name: String, what: &'static str },
    #[error("malformed content digest of {name:?} in manifest: {len} bytes")]
    Content { name: String, len: usize },
    #[error("manifest of {0} entries is too long")]
    TooManyEntries(u64),
}

impl Manifest {
    pub fn encode(&self) -> Vec<u8> {
        let segments = self
            .segments
            .iter()
            .map(|(digest, len)| wire::SegmentRef { digest: digest_to_wire(digest), len: *len });
        let files = self.files.iter().map(|file| wire::FileEntry {
            name: file.name.clone().into(),
            mode: file.mode,
            mtime_ns: file.mtime_ns,
            len: file.len,
            extents: file.extents.iter().map(extent_to_wire).collect(),
            content: file.content.map_or(Bytes::new(), |content| Bytes::copy_from_slice(&content)),
        });
        let directories = self.directories.iter().map(|directory| wire::DirectoryEntry {
            name: directory.name.clone().into(),
            mode: directory.mode,
        });
        wire::Manifest {
            version: MANIFEST_VERSION,
            segments: segments.collect(),
            files: files.collect(),
            directories: directories.collect(),
        }
        .encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let entries = count_entries(bytes);
        if entries > MANIFEST_ENTRIES_MAX {
            return Err(ManifestError::TooManyEntries(entries));
        }
        let message = wire::Manifest::decode(bytes)?;
        if message.version != MANIFEST_VERSION {
            return Err(ManifestError::FutureVersion(message.version));
        }
        let segments = message.segments.iter().enumerate().map(segment_from_wire);
        let manifest = Self {
            segments: segments.collect::<Result<_, _>>()?,
            files: message.files.into_iter().map(file_from_wire).collect::<Result<_, _>>()?,
            directories: message.directories.into_iter().map(directory_from_wire).collect(),
        };
        manifest.check()?;
        Ok(manifest)
    }

    /// What a file holds, as one value that is equal for equal bytes however they were packed.
    ///
    /// Cuts depend on a file's content alone except where small files share a segment. So it is
    /// the given digest there, the segment's digest where the file is one whole segment, and else
    /// a digest of the list of extents.
    pub fn content_of(&self, file: &FileEntry) -> [u8; 32] {
        if let Some(content) = file.content {
            return content;
        }
        let segment = |extent: &Extent| self.segments.get(extent.segment as usize);
        if file.extents.is_empty() {
            return *blake3::hash(b"").as_bytes();
        }
        if let [extent] = file.extents[..]
            && let Some((digest, len)) = segment(&extent)
            && (extent.offset, extent.len) == (0, *len)
        {
            return digest.0;
        }
        let mut hasher = blake3::Hasher::new_derive_key("cairn 2026-11 extents of a file");
        for extent in &file.extents {
            let digest = segment(extent).map_or(SegmentDigest([0; 32]), |(digest, _)| *digest);
            hasher.update(&digest.0);
            hasher.update(&extent.offset.to_le_bytes());
            hasher.update(&extent.len.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// What [`Self::decode`] guarantees; a writer asks the same before it encodes.
    pub fn check(&self) -> Result<(), ManifestError> {
        for (place, (_, len)) in self.segments.iter().enumerate() {
            if !(1..=SEGMENT_BYTES_MAX).contains(&u64::from(*len)) {
                return Err(ManifestError::Segment { place, what: "length out of range" });
            }
        }
        self.check_names()?;
        self.files.iter().try_for_each(|file| self.check_extents(file))
    }

    fn check_names(&self) -> Result<(), ManifestError> {
        check_ascending(self.files.iter().map(|file| &file.name[..]))?;
        check_ascending(self.directories.iter().map(|directory| &directory.name[..]))?;
        let files: BTreeSet<&[u8]> = self.files.iter().map(|file| &file.name[..]).collect();
        for directory in &self.directories {
            if files.contains(&directory.name[..]) {
                return Err(bad_name(&directory.name, "both a file and a directory"));
            }
        }
        let directories = self.directories.iter().map(|directory| &directory.name[..]);
        for name in files.iter().copied().chain(directories) {
            let mut slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            if slashes.any(|(end, _)| files.contains(&name[..end])) {
                return Err(bad_name(name, "lies below a file"));
            }
        }
        Ok(())
    }

    fn check_extents(&self, file: &FileEntry) -> Result<(), ManifestError> {
        let bad = |what| Err(ManifestError::Extent { name: show(&file.name), what });
        let mut left = file.len;
        for extent in &file.extents {
            let Some((_, segment_len)) = self.segments.get(extent.segment as usize) else {
                return bad("no such segment");
            };
            if extent.len == 0 {
                return bad("empty");
            }
            let end = u64::from(extent.offset) + u64::from(extent.len);
            if end > u64::from(*segment_len) {
                return bad("beyond its segment's end");
            }
            let Some(rest) = left.checked_sub(extent.len.into()) else {
                return bad("extents are longer than the file");
            };
            left = rest;
        }
        if left == 0 { Ok(()) } else { bad("extents are shorter than the file") }
    }
}

/// Whether `name` may be written below a target directory: relative, 1 to 4096 bytes, components
/// of 1 to 255 bytes that are not `.` or `..`, no NUL.
pub fn check_name(name: &[u8]) -> Result<(), ManifestError> {
    match name_problem(name) {
        None => Ok(()),
        Some(what) => Err(bad_name(name, what)),
    }
}

/// What is wrong with the name of a file or directory: the one rule for sources and manifests.
pub fn name_problem(name: &[u8]) -> Option<&'static str> {
    if name.is_empty() {
        return Some("empty");
    }
    if name.len() > PATH_BYTES_MAX {
        return Some("longer than 4096 bytes");
    }
    if name[0] == b'/' {
        return Some("not relative");
    }
    if name.contains(&0) {
        return Some("holds a NUL");
    }
    name.split(|byte| *byte == b'/').find_map(|component| match component {
        b"" => Some("an empty component"),
        b"." | b".." => Some("a component '.' or '..'"),
        _ if component.len() > PATH_COMPONENT_BYTES_MAX => Some("a component above 255 bytes"),
        _ => None,
    })
}

fn check_ascending<'a>(names: impl Iterator<Item = &'a [u8]>) -> Result<(), ManifestError> {
    let mut before: Option<&[u8]> = None;
    for name in names {
        check_name(name)?;
        if before.is_some_and(|before| before >= name) {
            return Err(bad_name(name, "not in ascending order, or there twice"));
        }
        before = Some(name);
    }
    Ok(())
}

fn bad_name(name: &[u8], what: &'static str) -> ManifestError {
    ManifestError::Name { name: show(name), what }
}

/// A name as people read it, its first bytes only.
pub fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned()
}

fn extent_to_wire(extent: &Extent) -> wire::Extent {
    wire::Extent { segment: extent.segment, offset: extent.offset, len: extent.len }
}

fn segment_from_wire(
    (place, segment): (usize, &wire::SegmentRef),
) -> Result<(SegmentDigest, u32), ManifestError> {
    let what = "digest is not 32 bytes";
    let digest =
        segment.digest[..].try_into().map_err(|_| ManifestError::Segment { place, what })?;
    Ok((SegmentDigest(digest), segment.len))
}

fn file_from_wire(file: wire::FileEntry) -> Result<FileEntry, ManifestError> {
    let content = match file.content[..] {
        [] => None,
        ref bytes => Some(
            bytes
                .try_into()
                .map_err(|_| ManifestError::Content { name: show(&file.name), len: bytes.len() })?,
        ),
    };
    let extent = |extent: &wire::Extent| Extent {
        segment: extent.segment,
        offset: extent.offset,
        len: extent.len,
    };
    Ok(FileEntry {
        name: file.name.into(),
        mode: file.mode,
        mtime_ns: file.mtime_ns,
        len: file.len,
        extents: file.extents.iter().map(extent).collect(),
        content,
    })
}

/// Messages inside an encoded manifest: segments, files, directories and the extents of files.
/// Two bytes may stand for an entry of a hundred in memory, so they are counted before they are
/// decoded. Bytes that are no manifest give some number; decoding refuses them.
fn count_entries(bytes: &[u8]) -> u64 {
    let mut entries = 0;
    for (tag, field) in Fields(bytes) {
        entries += 1;
        if tag == FILES_TAG {
            entries += Fields(field).filter(|(tag, _)| *tag == EXTENTS_TAG).count() as u64;
        }
    }
    entries
}

/// The fields of an encoded message, as far as it can be walked: (tag, bytes of a
/// length-delimited one).
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let key = take_varint(&mut self.0)?;
        let len = match key & 7 {
            0 => {
                take_varint(&mut self.0)?;
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut self.0)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some((key >> 3, field))
    }
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn directory_from_wire(directory: wire::DirectoryEntry) -> DirectoryEntry {
    DirectoryEntry { name: directory.name.into(), mode: directory.mode }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, extents: &[(u32, u32, u32)]) -> FileEntry {
        FileEntry {
            name: name.into(),
            mode: 0o644,
            mtime_ns: -5,
            len: extents.iter().map(|(_, _, len)| u64::from(*len)).sum(),
            extents: extents
                .iter()
                .map(|&(segment, offset, len)| Extent { segment, offset, len })
                .collect(),
            content: None,
        }
    }

    fn directory(name: &str) -> DirectoryEntry {
        DirectoryEntry { name: name.into(), mode: 0o755 }
    }

    fn manifest() -> Manifest {
        Manifest {
            segments: vec![
                (SegmentDigest([1; 32]), 100),
                (SegmentDigest([2; 32]), SEGMENT_BYTES_MAX as u32),
            ],
            files: vec![
                file("a", &[]),
                file("a-b", &[(0, 0, 60)]),
                file("d/x", &[(0, 60, 40), (1, 0, SEGMENT_BYTES_MAX as u32)]),
            ],
            directories: vec![directory("d"), directory("e")],
        }
    }

    /// What decoding says after `change`.
    fn after(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = manifest();
        change(&mut manifest);
        Manifest::decode(&manifest.encode()).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_reads_back_equal() {
        for manifest in [manifest(), Manifest::default()] {
            assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
        }
    }

    #[test]
    fn the_stored_form_does_not_change() {
        let manifest = Manifest {
            segments: vec![(SegmentDigest([7; 32]), 3)],
            files: vec![file("f", &[(0, 1, 2)])],
            directories: vec![directory("g")],
        };
        let digest = "07".repeat(32);
        assert_eq!(
            hex::encode(manifest.encode()),
            format!(
                "080112240a20{digest}100\
                     31a100a016610a403180920022a041001180222060a016710ed03"
            )
        );
    }

    #[test]
    fn names_that_leave_the_target_or_cannot_be_files_are_refused() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2048) + "xx";
        for name in
            ["", "/a", "a//b", "a/", ".", "..", "a/../b", "../a", "a/./b", "a\0b", &long, &deep]
        {
            assert!(
                matches!(check_name(name.as_bytes()), Err(ManifestError::Name { .. })),
                "{name}"
            );
        }
        for name in ["a", "...", ".a/..b", &long[..255], &deep[..4095], "a b/\u{e9}"] {
            check_name(name.as_bytes()).unwrap();
        }
        assert!(after(|m| m.files[0].name = b"../etc".to_vec()).contains("'..'"));
    }

    #[test]
    fn names_that_collide_are_refused() {
        assert!(after(|m| m.files.swap(0, 1)).contains("ascending"));
        assert!(after(|m| m.files.insert(0, file("a", &[]))).contains("there twice"));
        assert!(after(|m| m.directories[0].name = b"a".to_vec()).contains("both"));
        assert!(after(|m| m.directories[0].name = b"a/b/c".to_vec()).contains("below a file"));
        // "a-b" sorts between "a" and "a/x": neighbours alone would not show the collision.
        assert!(after(|m| m.files.insert(2, file("a/x", &[]))).contains("below a file"));
    }

    #[test]
    fn extents_outside_their_segment_or_file_are_refused() {
        assert!(after(|m| m.files[1].extents[0].segment = 2).contains("no such segment"));
        assert!(after(|m| m.files[1].extents[0].offset = 41).contains("beyond"));
        assert!(after(|m| m.files[1].extents[0].offset = u32::MAX).contains("beyond"));
        assert!(after(|m| m.files[1].extents[0].len = 0).contains("empty"));
        assert!(after(|m| m.files[1].len = 59).contains("longer"));
        assert!(after(|m| m.files[1].len = u64::MAX).contains("shorter"));
        assert!(after(|m| m.segments[0].1 = 0).contains("length out of range"));
        assert!(after(|m| m.segments[1].1 += 1).contains("length out of range"));
    }

    #[test]
    fn equal_bytes_are_equal_content_however_they_are_packed() {
        let digest = SegmentDigest::of(b"hello");
        let alone = Manifest {
            segments: vec![(digest, 5)],
            files: vec![file("f", &[(0, 0, 5)])],
            directories: vec![],
        };
        let mut packed = Manifest {
            segments: vec![(SegmentDigest::of(b"1234hello"), 9)],
            files: vec![file("e", &[(0, 0, 4)]), file("f", &[(0, 4, 5)])],
            directories: vec![],
        };
        let own = |manifest: &Manifest, place: usize| manifest.content_of(&manifest.files[place]);
        assert_ne!(own(&alone, 0), own(&packed, 1), "nothing tells what the file holds");
        packed.files[1].content = Some(digest.0);
        assert_eq!(own(&alone, 0), own(&packed, 1));
        assert_eq!(Manifest::decode(&packed.encode()).unwrap(), packed);
        let mut other = alone.clone();
        other.files[0].extents[0].len = 4;
        assert_ne!(own(&alone, 0), own(&other, 0), "a part of a segment is not the whole");
        let empty = Manifest { files: vec![file("f", &[])], ..Manifest::default() };
        assert_eq!(own(&empty, 0), *blake3::hash(b"").as_bytes());
        let large = [(0, 0, 5), (0, 0, 5)];
        let cut = |files| Manifest { segments: vec![(digest, 5)], files, directories: vec![] };
        let (one, two) = (cut(vec![file("f", &large)]), cut(vec![file("f", &large[..1])]));
        assert_eq!(own(&one, 0), own(&one.clone(), 0));
        assert_ne!(own(&one, 0), own(&two, 0));
    }

    #[test]
    fn entries_are_counted_before_they_are_decoded() {
        let count = |manifest: &Manifest| count_entries(&manifest.encode());
        assert_eq!(count(&manifest()), 11, "the version, 2 segments, 3 files, 3 extents, 2 more");
        // A file entry without any field is two bytes long.
        let many = [0x1a, 0].repeat(MANIFEST_ENTRIES_MAX as usize + 1);
        let refused = Manifest::decode(&many).unwrap_err();
        assert_eq!(refused, ManifestError::TooManyEntries(MANIFEST_ENTRIES_MAX + 1));
    }

    #[test]
    fn hostile_bytes_are_an_error_and_never_a_panic() {
        let good = manifest().encode();
        for end in 1..good.len() {
            let _ = Manifest::decode(&good[..end]);
        }
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = Manifest::decode(&bytes);
        }
        // A length of 4 GiB before nothing.
        assert!(Manifest::decode(&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
        assert_eq!(Manifest::decode(&[]), Err(ManifestError::FutureVersion(0)));
    }
}
