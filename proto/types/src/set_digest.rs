//! The digest of a set of segments: ties a part's manifest to what was staged for it.

use crate::ids::SegmentDigest;

/// Bytes hashed at once: enough to fill the widest vectors, however short an entry is.
const GATHER_BYTES: usize = 64 << 10;

/// BLAKE3 over the (digest, length as u32 little endian) of segments, sorted, each once.
pub fn set_digest(segments: impl IntoIterator<Item = (SegmentDigest, u32)>) -> [u8; 32] {
    let mut sorted: Vec<(SegmentDigest, u32)> = segments.into_iter().collect();
    // Digests differ in their first bytes, which are compared as one number.
    sorted.sort_unstable_by(|one, other| {
        first_bytes(one).cmp(&first_bytes(other)).then_with(|| one.cmp(other))
    });
    sorted.dedup();
    let mut hasher = blake3::Hasher::new();
    let mut gathered = Vec::with_capacity(GATHER_BYTES);
    for (digest, len) in sorted {
        gathered.extend_from_slice(&digest.0);
        gathered.extend_from_slice(&len.to_le_bytes());
        if gathered.len() > GATHER_BYTES - 64 {
            hasher.update(&gathered);
            gathered.clear();
        }
    }
    *hasher.update(&gathered).finalize().as_bytes()
}

fn first_bytes((SegmentDigest(digest), _): &(SegmentDigest, u32)) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored by clients and compared by nodes of any build.
    #[test]
    fn it_is_the_hash_of_all_entries_in_order() {
        for count in [0u32, 1, 2, 1819, 1820, 10_000] {
            let mut segments: Vec<(SegmentDigest, u32)> = (0..count)
                .map(|number| {
                    let mut digest = SegmentDigest::of(&(number / 2).to_le_bytes());
                    // Of each two, all but the last byte is the same.
                    digest.0[31] = number as u8;
                    (digest, number % 7 + 1)
                })
                .collect();
            segments.extend_from_within(..count as usize / 3);
            let mut hasher = blake3::Hasher::new();
            for (digest, len) in segments.iter().collect::<std::collections::BTreeSet<_>>() {
                hasher.update(&digest.0);
                hasher.update(&len.to_le_bytes());
            }
            assert_eq!(set_digest(segments), *hasher.finalize().as_bytes(), "{count}");
        }
    }
}
