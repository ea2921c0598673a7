//! Converts manifests to files and the segments that they need.

use std::collections::BTreeMap;

use cairn_types::blocks::block_count;
use cairn_types::ids::SegmentDigest;
use cairn_types::limits::BLOCK_BYTES;
use cairn_types::manifest::{FileEntry, Manifest};

use crate::error::ClientError;
use crate::sink::{FileExtent, FileTarget, shown};

/// A range of a file that a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PieceOf {
    /// Index into the targets.
    pub file: usize,
    pub file_offset: u64,
    pub offset: u32,
    pub len: u32,
}

/// One segment and all wanted pieces of it.
#[derive(Debug, Clone)]
pub(super) struct SegmentWork {
    pub digest: SegmentDigest,
    pub len: u32,
    pub pieces: Vec<PieceOf>,
}

impl SegmentWork {
    /// The smallest range of blocks that holds these pieces.
    pub fn blocks<'a>(
        pieces: impl IntoIterator<Item = &'a PieceOf>,
    ) -> Option<std::ops::Range<usize>> {
        let mut range: Option<(u64, u64)> = None;
        for piece in pieces {
            let (from, to) = (u64::from(piece.offset), u64::from(piece.offset + piece.len));
            range = Some(range.map_or((from, to), |(a, b)| (a.min(from), b.max(to))));
        }
        range.map(|(from, to)| (from / BLOCK_BYTES) as usize..to.div_ceil(BLOCK_BYTES) as usize)
    }

    pub fn all_blocks(&self) -> std::ops::Range<usize> {
        0..block_count(u64::from(self.len))
    }
}

/// The manifest of a part, with the part's number.
pub type PartManifest = (u32, Manifest);

/// The wanted content of one directory.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Ascending by name, each name once.
    pub files: Vec<FileTarget>,
    /// Names and modes, ascending by name.
    pub directories: Vec<(Vec<u8>, u32)>,
}

/// The files and directories that `include` selects, by name. A file that several parts name must
/// be the same in each. A name must not be a file in one part and a directory in another.
pub(super) fn targets(
    manifests: &[PartManifest],
    include: impl Fn(&[u8]) -> bool,
) -> Result<Wanted, ClientError> {
    let mut files: BTreeMap<&[u8], (u32, [u8; 32], FileTarget)> = BTreeMap::new();
    for (part, manifest) in manifests {
        for entry in manifest.files.iter().filter(|entry| include(&entry.name)) {
            let content = manifest.content_of(entry);
            match files.get(&entry.name[..]) {
                // Ranks write the same small files at slightly different times, so times are not
                // compared.
                Some((_, known, first)) if first.len == entry.len && *known == content => {}
                Some((first, ..)) => {
                    return Err(conflict(&entry.name, *first, *part, "with different content"));
                }
                None => {
                    files.insert(&entry.name, (*part, content, target_of(manifest, entry)));
                }
            }
        }
    }
    let mut directories: BTreeMap<&[u8], (u32, u32)> = BTreeMap::new();
    for (part, manifest) in manifests {
        for entry in manifest.directories.iter().filter(|entry| include(&entry.name)) {
            directories.entry(&entry.name).or_insert((*part, entry.mode));
        }
    }
    let file_parts = files.iter().map(|(name, (part, ..))| (*name, *part));
    let directory_parts = directories.iter().map(|(name, (part, _))| (*name, *part));
    for (name, part) in file_parts.chain(directory_parts.clone()) {
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        if let Some((above, (other, ..))) = ends
            .map(|(end, _)| &name[..end])
            .find_map(|above| files.get(above).map(|found| (above, found)))
        {
            return Err(conflict(above, *other, part, "once as a file and once as a directory"));
        }
    }
    for (name, part) in directory_parts {
        if let Some((other, ..)) = files.get(name) {
            return Err(conflict(name, *other, part, "once as a file and once as a directory"));
        }
    }
    Ok(Wanted {
        directories: directories.iter().map(|(name, (_, mode))| (name.to_vec(), *mode)).collect(),
        files: files.into_values().map(|(.., target)| target).collect(),
    })
}

fn conflict(file: &[u8], first: u32, second: u32, how: &'static str) -> ClientError {
    ClientError::ConflictingParts { file: shown(file), first, second, how }
}

fn target_of(manifest: &Manifest, entry: &FileEntry) -> FileTarget {
    let mut file_offset = 0;
    let mut extents = Vec::with_capacity(entry.extents.len());
    for extent in &entry.extents {
        // Decoding has checked that the place exists.
        let Some((digest, segment_len)) = manifest.segments.get(extent.segment as usize) else {
            continue;
        };
        extents.push(FileExtent {
            digest: *digest,
            segment_len: *segment_len,
            segment_offset: extent.offset,
            file_offset,
            len: extent.len,
        });
        file_offset += u64::from(extent.len);
    }
    FileTarget {
        name: entry.name.clone(),
        mode: entry.mode,
        mtime_ns: entry.mtime_ns,
        len: entry.len,
        extents,
    }
}

/// The segments that targets need, in the order of first use.
pub(super) fn segment_works(targets: &[FileTarget]) -> Vec<SegmentWork> {
    let mut works: Vec<SegmentWork> = Vec::new();
    let mut places: BTreeMap<(SegmentDigest, u32), usize> = BTreeMap::new();
    for (file, target) in targets.iter().enumerate() {
        for extent in &target.extents {
            let place = *places.entry((extent.digest, extent.segment_len)).or_insert_with(|| {
                works.push(SegmentWork {
                    digest: extent.digest,
                    len: extent.segment_len,
                    pieces: Vec::new(),
                });
                works.len() - 1
            });
            works[place].pieces.push(PieceOf {
                file,
                file_offset: extent.file_offset,
                offset: extent.segment_offset,
                len: extent.len,
            });
        }
    }
    works
}

#[cfg(test)]
mod tests {
    use cairn_types::manifest::{DirectoryEntry, Extent};

    use super::*;

    fn manifest(files: &[(&str, u32, u32)]) -> Manifest {
        let file = |(name, offset, len): &(&str, u32, u32)| FileEntry {
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: u64::from(*len),
            extents: vec![Extent { segment: 0, offset: *offset, len: *len }],
            content: None,
        };
        Manifest {
            segments: vec![(SegmentDigest::of(b"s"), 4 << 20)],
            files: files.iter().map(file).collect(),
            directories: vec![],
        }
    }

    #[test]
    fn the_same_file_in_two_parts_must_be_the_same() {
        let one = (0, manifest(&[("a", 0, 5)]));
        let same = (1, manifest(&[("a", 0, 5), ("b", 5, 5)]));
        let targets = super::targets(&[one.clone(), same], |_| true).unwrap();
        assert_eq!(targets.files.len(), 2);
        let other = (4, manifest(&[("a", 1, 5)]));
        let error = super::targets(&[one, other], |_| true).unwrap_err();
        assert!(matches!(error, ClientError::ConflictingParts { first: 0, second: 4, .. }));
    }

    #[test]
    fn a_name_is_a_file_or_a_directory() {
        let file = (0, manifest(&[("a", 0, 5)]));
        let below = (1, manifest(&[("a/b", 0, 5)]));
        let mut directory = (1, manifest(&[]));
        directory.1.directories.push(DirectoryEntry { name: b"a".to_vec(), mode: 0o755 });
        for other in [below, directory] {
            let error = super::targets(&[file.clone(), other], |_| true).unwrap_err();
            let is_right = matches!(
                &error,
                ClientError::ConflictingParts { file, first: 0, second: 1, .. } if file == "a"
            );
            assert!(is_right, "{error}");
        }
    }

    #[test]
    fn only_the_blocks_that_hold_wanted_bytes_are_read() {
        let targets =
            super::targets(&[(0, manifest(&[("a", 0, 9), ("b", 3 << 20, 7)]))], |n| n == b"b");
        let works = segment_works(&targets.unwrap().files);
        assert_eq!(SegmentWork::blocks(&works[0].pieces), Some(3..4));
        assert_eq!(works[0].all_blocks(), 0..4);
    }
}
