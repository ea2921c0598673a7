//! The digest of a set of segments: ties a part's manifest to what was staged for it.

use crate::ids::SegmentDigest;

/// BLAKE3 over the (digest, length as u32 little endian) of segments, sorted, each once.
pub fn set_digest(segments: impl IntoIterator<Item = (SegmentDigest, u32)>) -> [u8; 32] {
    let mut sorted: Vec<(SegmentDigest, u32)> = segments.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut hasher = blake3::Hasher::new();
    for (digest, len) in sorted {
        hasher.update(&digest.0);
        hasher.update(&len.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}
