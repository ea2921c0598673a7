//! Every bound, with its reason. A queue, message, batch or retry without one is a bug.

/// Longest segment, bytes: large enough that a request costs nothing beside its bytes, small
/// enough that a retry, a repair and a buffer stay cheap.
pub const SEGMENT_BYTES_MAX: u64 = 32 << 20;
/// Raw bytes a block-table entry covers: the unit of verified partial reads, and a power-of-two
/// multiple of BLAKE3's 1 KiB chunk, so that each block is a whole subtree.
pub const BLOCK_BYTES: u64 = 1 << 20;
/// A tensor at least this long starts its own segment, bytes.
pub const TENSOR_BYTES_MIN: u64 = 256 << 10;
/// Small tensors and small files are packed together up to this many bytes.
pub const PACK_BYTES_MAX: u64 = 4 << 20;
/// Largest manifest kept in its checkpoint record, bytes; a longer one is stored in segments.
pub const MANIFEST_INLINE_BYTES_MAX: usize = 4 << 10;
/// Largest manifest at all, bytes: 100,000 small files take about 10 MiB.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// Segments in one `Stage`, `Durable`, `Lost`, `Removed`, `Reap` or slot command: keeps an entry
/// under about 200 KiB and its apply under a few milliseconds.
pub const BATCH_SEGMENTS_MAX: usize = 1024;
/// References dropped by one entry, so that deleting a huge checkpoint never holds up apply.
pub const DROP_REFERENCES_MAX: usize = 4096;
/// Parts of one checkpoint: the ranks of the largest runs.
pub const PARTS_MAX: u32 = 65_536;
/// Segments of one checkpoint.
pub const CHECKPOINT_SEGMENTS_MAX: usize = 4 << 20;
/// Labels of one checkpoint, and the bytes of one key or value.
pub const LABELS_MAX: usize = 32;
pub const LABEL_BYTES_MAX: usize = 255;
/// Largest replication factor: one per rack of a large cluster, and a slot list stays small.
pub const REPLICAS_MAX: u32 = 7;
/// Replies remembered for retried requests.
pub const REPLIES_MAX: usize = 65_536;
/// Nodes that one cluster registers over its life.
pub const NODES_MAX: usize = 4096;
/// Nonces that a data directory remembers of registrations whose fate it never heard: a node that
/// fails this often between proposing and hearing needs a person.
pub const NONCES_MAX: usize = 32;
/// Replaced nonces that a node's record keeps: a process that is told it was replaced starts no
/// more than a few times before somebody stops it.
pub const SUPERSEDED_MAX: usize = 8;
/// Inline manifests of all parts of one checkpoint together, bytes: with many parts each keeps
/// less inline, so that a checkpoint of thousands of ranks resolves in one answer.
pub const MANIFESTS_INLINE_BYTES_MAX: usize = 4 << 20;
/// Largest answer of the catalogue, bytes: a checkpoint of the most parts takes about 12 MiB.
pub const CATALOGUE_REPLY_BYTES_MAX: usize = 32 << 20;
/// Encoded size of one log command, bytes.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Largest manifest that a part of a checkpoint of `parts` parts keeps inline, bytes.
pub fn manifest_inline_bytes_max(parts: u32) -> usize {
    MANIFEST_INLINE_BYTES_MAX.min(MANIFESTS_INLINE_BYTES_MAX / (parts as usize).max(1))
}

/// Largest gRPC message, bytes: one 1 MiB block and its envelope, a full append batch.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// One forward step of the cluster clock at apply, milliseconds: one skewed leader cannot expire
/// the world.
pub const CLOCK_STEP_MS_MAX: u64 = 60_000;
/// Longest path of a file within a checkpoint, and of one of its components, bytes.
pub const PATH_BYTES_MAX: usize = 4096;
pub const PATH_COMPONENT_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SegmentDigest;

    #[test]
    fn a_checkpoint_of_the_most_parts_resolves_in_one_answer() {
        // Two digests and the numbers of a sealed part, with room for tags and lengths.
        let part_bytes = 2 * size_of::<SegmentDigest>() + 64;
        for parts in [1, 1000, PARTS_MAX] {
            let inline = manifest_inline_bytes_max(parts);
            assert!(parts as usize * (part_bytes + inline) < CATALOGUE_REPLY_BYTES_MAX, "{parts}");
        }
        assert_eq!(manifest_inline_bytes_max(1), MANIFEST_INLINE_BYTES_MAX);
    }
}
