//! A part in the catalogue's terms: its manifest, where that is kept, and its set digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_types::ids::SegmentDigest;
use cairn_types::limits::{
    BATCH_SEGMENTS_MAX, MANIFEST_BYTES_MAX, SEGMENT_BYTES_MAX, manifest_inline_bytes_max,
};
use cairn_types::manifest::{DirectoryEntry, Extent, FileEntry, Manifest};
use cairn_types::model::ManifestPlace;
use cairn_types::set_digest;

use super::pipeline::{Feed, SegmentHash};
use crate::error::ClientError;

/// What a part is sealed as. Depends only on the source and its cuts.
pub(super) struct Described {
    pub place: ManifestPlace,
    /// The encoded manifest, cut; empty where it is inline.
    pub manifest_segments: Vec<Bytes>,
    /// Each distinct segment with its length, the manifest's included.
    pub set: BTreeMap<SegmentDigest, u32>,
    pub set_digest: [u8; 32],
    pub bytes: u64,
    pub files: u64,
}

impl Described {
    /// `hashes` are those of the planned segments, in order; `parts` those of the checkpoint.
    pub fn of(feed: &Feed, hashes: &[SegmentHash], parts: u32) -> Result<Self, ClientError> {
        let manifest = build(feed, hashes);
        let malformed = |problem: String| ClientError::Malformed {
            what: "the source's list of files".to_owned(),
            problem,
        };
        manifest.check().map_err(|error| malformed(error.to_string()))?;
        let encoded = Bytes::from(manifest.encode());
        if encoded.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(ClientError::TooLarge {
                what: "the manifest, bytes",
                got: encoded.len() as u64,
                max: MANIFEST_BYTES_MAX,
            });
        }
        let mut set: BTreeMap<SegmentDigest, u32> = manifest.segments.iter().copied().collect();
        let mut manifest_segments = Vec::new();
        let place = if encoded.len() <= manifest_inline_bytes_max(parts) {
            ManifestPlace::Inline(encoded)
        } else {
            let mut named = Vec::new();
            for start in (0..encoded.len()).step_by(SEGMENT_BYTES_MAX as usize) {
                let end = encoded.len().min(start + SEGMENT_BYTES_MAX as usize);
                let segment = encoded.slice(start..end);
                let digest = SegmentDigest::of(&segment);
                set.insert(digest, segment.len() as u32);
                named.push(digest);
                manifest_segments.push(segment);
            }
            debug_assert!(named.len() <= BATCH_SEGMENTS_MAX, "bounded by MANIFEST_BYTES_MAX");
            ManifestPlace::Segments(named)
        };
        let entries = feed.source().entries();
        Ok(Self {
            place,
            manifest_segments,
            set_digest: set_digest(set.iter().map(|(digest, len)| (*digest, *len))),
            set,
            bytes: entries.iter().map(|entry| entry.len).sum(),
            files: entries.len() as u64,
        })
    }
}

fn build(feed: &Feed, hashes: &[SegmentHash]) -> Manifest {
    let source = feed.source();
    let file = |entry: &crate::source::SourceEntry| FileEntry {
        name: entry.name.clone(),
        mode: entry.mode,
        mtime_ns: entry.mtime_ns,
        len: entry.len,
        extents: Vec::new(),
        content: None,
    };
    let mut files: Vec<FileEntry> = source.entries().iter().map(file).collect();
    let mut segments: Vec<(SegmentDigest, u32)> = Vec::new();
    let mut places: BTreeMap<SegmentDigest, u32> = BTreeMap::new();
    for (planned, hash) in feed.plan().segments.iter().zip(hashes) {
        let digest = hash.digest;
        let place = *places.entry(digest).or_insert_with(|| {
            segments.push((digest, planned.len));
            segments.len() as u32 - 1
        });
        let mut offset = 0;
        // Only small files share a segment, each with all its bytes.
        for (piece, content) in planned.pieces.iter().zip(&hash.pieces) {
            files[piece.file].content = Some(*content);
        }
        for piece in &planned.pieces {
            let extent = Extent { segment: place, offset, len: piece.len };
            files[piece.file].extents.push(extent);
            offset += piece.len;
        }
    }
    let directories = source
        .directories()
        .iter()
        .map(|directory| DirectoryEntry { name: directory.name.clone(), mode: directory.mode });
    Manifest { segments, files, directories: directories.collect() }
}
