//! From manifests to files and the segments they need.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::blocks::block_count;
use cairn_core::ids::SegmentDigest;
use cairn_core::limits::{BLOCK_BYTES, PATH_COMPONENT_BYTES_MAX};
use cairn_proto::manifest::{FileEntry, Manifest};

use crate::error::ClientError;
use crate::sink::{FileExtent, FileTarget, PART_SUFFIX, shown};

/// A range of a file that a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PieceOf {
    /// Index into the targets.
    pub file: usize,
    pub file_offset: u64,
    pub offset: u32,
    pub len: u32,
}

/// One segment and everything wanted from it.
#[derive(Debug, Clone)]
pub(super) struct SegmentWork {
    pub digest: SegmentDigest,
    pub len: u32,
    pub pieces: Vec<PieceOf>,
}

impl SegmentWork {
    /// The least range of blocks that holds these pieces.
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

/// The files that `include` takes, by name; a file that several parts name must be the same in
/// each.
pub(super) fn targets(
    manifests: &[Manifest],
    include: impl Fn(&[u8]) -> bool,
) -> Result<Vec<FileTarget>, ClientError> {
    let mut files: BTreeMap<&[u8], (usize, FileTarget)> = BTreeMap::new();
    for (part, manifest) in manifests.iter().enumerate() {
        for entry in manifest.files.iter().filter(|entry| include(&entry.name)) {
            let target = target_of(manifest, entry);
            match files.get(&entry.name[..]) {
                // Ranks write the same small files at slightly different times.
                Some((_, first)) if first.len == target.len && first.extents == target.extents => {}
                Some((first, _)) => {
                    let file = shown(&entry.name);
                    return Err(ClientError::ConflictingParts {
                        file,
                        first: *first,
                        second: part,
                    });
                }
                None => {
                    files.insert(&entry.name, (part, target));
                }
            }
        }
    }
    let mut targets: Vec<FileTarget> = files.into_values().map(|(_, target)| target).collect();
    let names: BTreeSet<Vec<u8>> = targets.iter().map(|target| target.name.clone()).collect();
    for target in &mut targets {
        target.part_name = part_name(&target.name, &names);
    }
    Ok(targets)
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
        part_name: Vec::new(),
        mode: entry.mode,
        mtime_ns: entry.mtime_ns,
        len: entry.len,
        extents,
    }
}

/// `NAME.cairn-part`; where that is too long, or the name of another file, a name made of the
/// name's hash.
fn part_name(name: &[u8], names: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let leaf_at = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let plain = [name, PART_SUFFIX].concat();
    let fits = plain.len() - leaf_at <= PATH_COMPONENT_BYTES_MAX;
    if fits && !names.contains(&plain) {
        return plain;
    }
    let hash = blake3::hash(name).to_hex();
    [&name[..leaf_at], b".", &hash.as_bytes()[..32], PART_SUFFIX].concat()
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
    use cairn_proto::manifest::Extent;

    use super::*;

    fn manifest(files: &[(&str, u32, u32)]) -> Manifest {
        let file = |(name, offset, len): &(&str, u32, u32)| FileEntry {
            name: name.as_bytes().to_vec(),
            mode: 0o644,
            mtime_ns: 0,
            len: u64::from(*len),
            extents: vec![Extent { segment: 0, offset: *offset, len: *len }],
        };
        Manifest {
            segments: vec![(SegmentDigest::of(b"s"), 4 << 20)],
            files: files.iter().map(file).collect(),
            directories: vec![],
        }
    }

    #[test]
    fn the_same_file_in_two_parts_must_be_the_same() {
        let (one, same) = (manifest(&[("a", 0, 5)]), manifest(&[("a", 0, 5), ("b", 5, 5)]));
        let targets = super::targets(&[one.clone(), same], |_| true).unwrap();
        assert_eq!(targets.len(), 2);
        let error = super::targets(&[one, manifest(&[("a", 1, 5)])], |_| true).unwrap_err();
        assert!(matches!(error, ClientError::ConflictingParts { first: 0, second: 1, .. }));
    }

    #[test]
    fn part_names_never_meet_a_file_and_always_fit() {
        let long = format!("d/{}", "n".repeat(250));
        let parts = manifest(&[("a", 0, 1), ("a.cairn-part", 1, 1), (&long, 2, 1)]);
        let targets = super::targets(&[parts], |_| true).unwrap();
        assert_ne!(targets[0].part_name, targets[1].name);
        assert_eq!(targets[1].part_name, b"a.cairn-part.cairn-part");
        assert!(targets[2].part_name.starts_with(b"d/."));
        assert!(targets[2].part_name.len() < 100);
    }

    #[test]
    fn only_the_blocks_that_hold_wanted_bytes_are_read() {
        let targets =
            super::targets(&[manifest(&[("a", 0, 9), ("b", 3 << 20, 7)])], |n| n == b"b").unwrap();
        let works = segment_works(&targets);
        assert_eq!(SegmentWork::blocks(&works[0].pieces), Some(3..4));
        assert_eq!(works[0].all_blocks(), 0..4);
    }
}
