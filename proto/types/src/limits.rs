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
/// Segments, files, directories and extents of one manifest: one entry may take two bytes encoded
/// and a hundred decoded, so their bytes alone bound nothing.
pub const MANIFEST_ENTRIES_MAX: u64 = 4 << 20;
/// Segments in one `Stage`, `Durable`, `Lost`, `Removed`, `Reap` or slot command: keeps an entry
/// under about 200 KiB and its apply under a few milliseconds.
pub const BATCH_SEGMENTS_MAX: usize = 1024;
/// Segments on which one entry voids the slots of a removed node.
pub const VOIDED_SEGMENTS_MAX: usize = 2048;
/// References dropped by one entry, so that deleting a huge checkpoint never holds up apply.
pub const DROP_REFERENCES_MAX: usize = 4096;
/// Commits that one `RepairTime` looks at, and of these the ones it changes: a changed record is
/// copied where a snapshot shares it, with its list of up to `PARTS_MAX` parts.
pub const REPAIR_COMMITS_MAX: usize = 4096;
pub const REPAIR_LABELS_MAX: usize = 64;
/// Checkpoints that a plan of such a repair names: what a person reads.
pub const REPAIR_NAMED_MAX: usize = 16;
/// Uploads open at once: as many runs as a cluster serves, and with the longest labels 70 MB of
/// records on each node.
pub const OPEN_UPLOADS_MAX: usize = 4096;
/// Of these, uploads that tokens of one name began: all runs of a team, and nobody takes every place.
pub const OPEN_UPLOADS_PER_SUBJECT_MAX: usize = 256;
/// Cluster time for which Renew alone keeps an upload's lease, after its attempt began or
/// its last Stage or SealPart: longer than the bytes of a full Stage (128 GiB) take at 2 MB/s.
pub const RENEWED_IDLE_MS_MAX: u64 = 86_400_000;
/// Parts of one checkpoint: the ranks of the largest runs.
pub const PARTS_MAX: u32 = 65_536;
/// Part numbers that one Begin of an open-ended upload hands out: as many as a checkpoint has parts.
pub const OPEN_PARTS_OF_BEGIN: u32 = PARTS_MAX;
/// Begins of one attempt of an open-ended upload: all ranges that part numbers have room for.
pub const OPEN_BEGINS_MAX: u32 = 65_536;
/// Sealed parts that one attempt of an open-ended upload voids or drops: more rewrites of files
/// belong to a file system. Keeps the number that tells its sets of parts apart within 32 bits.
pub const OPEN_REMOVED_MAX: u32 = 1 << 20;
/// Leases that an open-ended upload is kept without a command, 24 hours by default: its writers may be
/// requests to a door, without a process that renews.
pub const OPEN_LEASES: u64 = 1440;
/// Largest inline manifest of a part of an open-ended upload, bytes: one file of one segment. The
/// number of parts is not known, so the most parts resolve in one answer.
pub const OPEN_MANIFEST_INLINE_BYTES_MAX: usize = 256;
/// Missing parts that a listing names of each upload: enough to find the rank that hangs.
pub const MISSING_PARTS_MAX: usize = 16;
/// Parts in progress that a listing describes of each upload: each takes a walk over its segments.
pub const PARTS_BEGUN_MAX: usize = 16;
/// Segments of one checkpoint.
pub const CHECKPOINT_SEGMENTS_MAX: usize = 4 << 20;
/// Files and directories of a checkpoint of several parts: the leader compares their names, at
/// some 50 bytes each.
pub const CHECKPOINT_NAMES_MAX: usize = 4 << 20;
/// Metrics of one checkpoint: what a training run logs at an evaluation.
pub const METRICS_MAX: usize = 64;
/// Labels of one checkpoint, and the bytes of one key or value, or of a metric's name.
pub const LABELS_MAX: usize = 32;
pub const LABEL_BYTES_MAX: usize = 255;
/// Rules of retention of one kind: each is a walk over a namespace's commits.
pub const BEST_RULES_MAX: usize = 16;
pub const LABEL_RULES_MAX: usize = 16;
/// Name of a time zone, bytes: the longest of the IANA has 32.
pub const TIME_ZONE_BYTES_MAX: usize = 64;
/// Checkpoints of one page of a plan of retention: some 100 bytes each, and as much for each reason.
pub const RETENTION_PAGE_MAX: usize = 5_000;
/// What retention had let go and somebody undeleted is kept from retention for so long: time to
/// change the rules, or to hold it.
pub const UNDELETED_KEPT_MS: u64 = 86_400_000;
/// Namespaces of one page of policies: with the longest rules some 20 KB each.
pub const POLICIES_PAGE_MAX: usize = 200;
/// Refs of one namespace: a lookup of a checkpoint's refs walks them all.
pub const REFS_MAX: usize = 256;
/// Moves of one ref that are remembered.
pub const REF_HISTORY_MAX: usize = 32;
/// Holds on one checkpoint: each has an owner, and a person reads them.
pub const HOLDS_MAX: usize = 16;
/// Holds of the cluster.
pub const HOLDS_TOTAL_MAX: usize = 65_536;
/// Records that one `List` page looks at, whether it lists them or not: some milliseconds.
pub const LIST_RECORDS_MAX: usize = 16_384;
/// Events that a node keeps for those who watch: hours of them where thousands of checkpoints a day are
/// made, some 3 MB, and one more than the largest entry brings about (a rollback).
pub const EVENTS_MAX: usize = 2 * ROLLBACK_MAX;
/// Events, or checkpoints, of one message to a watcher.
pub const WATCH_BATCH_MAX: usize = 500;
/// Watchers of one node.
pub const WATCHERS_MAX: usize = 256;
/// A page of `Usage` ends after the namespace with which it has walked so many references to segments,
/// or after so many namespaces, so that one call does not hold a thread for all namespaces.
pub const USAGE_REFERENCES_MAX: u64 = 8 << 20;
pub const USAGE_PAGE_MAX: usize = 1000;
/// References to segments that one look for the checkpoint that shares most walks: under 0.1 s.
pub const SHARED_REFERENCES_MAX: u64 = 4 << 20;
/// Holds of one `ListHolds` page.
pub const HOLDS_PAGE_MAX: usize = 1000;
/// Bytes of a reason that a person gives.
pub const REASON_BYTES_MAX: usize = 1024;
/// Checkpoints that one rollback quarantines: apply copies each record once where a snapshot shares
/// it, at some microseconds each, as parts and segments are shared.
pub const ROLLBACK_MAX: usize = 16_384;
/// Largest replication factor: one per rack of a large cluster, and a slot list stays small.
pub const REPLICAS_MAX: u32 = 7;
/// Largest attempt that a caller may choose: above any time in nanoseconds, and far enough below
/// the end that the catalogue can always choose a higher one.
pub const ATTEMPT_MAX: u64 = 1 << 62;
/// Replies remembered for retried requests.
pub const REPLIES_MAX: usize = 65_536;
/// And their bytes, roughly, as they lie in memory: a reply to Begin names each sealed part.
pub const REPLIES_BYTES_MAX: usize = 64 << 20;
/// Nodes that a refusal names as full or down: what a person reads.
pub const SHORTAGE_NODES_MAX: usize = 12;
/// Nodes that one cluster has a record of: members, removed ones and those on their way in.
pub const NODES_MAX: usize = 4096;
/// A node that was given a number and has not registered for this long is forgotten: a join that
/// is tried again uses the same number for as long as it takes, and an hour is a long start.
pub const UNREGISTERED_KEPT_MS: u64 = 3_600_000;
/// In a full cluster such a node makes room for another one after this long.
pub const UNREGISTERED_MS_MIN: u64 = 600_000;
/// A removed node's record is kept this long for people to look at, and then forgotten.
pub const REMOVED_KEPT_MS: u64 = 7 * 86_400_000;
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
/// Largest manifest that a part of a checkpoint of `parts` parts keeps inline, bytes. With 0 their
/// number is open.
pub fn manifest_inline_bytes_max(parts: u32) -> usize {
    if parts == 0 {
        return OPEN_MANIFEST_INLINE_BYTES_MAX;
    }
    MANIFEST_INLINE_BYTES_MAX.min(MANIFESTS_INLINE_BYTES_MAX / (parts as usize).max(1))
}

/// Bytes of a subject's name: a person, a job or a service.
pub const SUBJECT_BYTES_MAX: usize = 64;
/// Namespaces that one token is for: each is compared with that of every call.
pub const TOKEN_NAMESPACES_MAX: usize = 16;
/// Blocks of one token: what its issuer signed, and each narrowing by its holders. Each costs a
/// signature to verify.
pub const TOKEN_BLOCKS_MAX: usize = 8;
/// A token travels in the headers of each call: 16 KiB is all that a server takes of them.
pub const TOKEN_BYTES_MAX: usize = 6 << 10;
/// Longest validity of a token. Revocations are kept as long.
pub const TOKEN_VALID_MS_MAX: u64 = 400 * 86_400_000;
/// Clocks of issuers, nodes and holders differ: a token is taken so long before it begins and after
/// it ends.
pub const TOKEN_SKEW_MS: u64 = 60_000;
/// Issuers of one cluster: the operators' key, and a second one while they change it.
pub const ISSUERS_MAX: usize = 16;
/// Revoked tokens that have not expired; a cluster with more changes its issuer's key.
pub const REVOKED_MAX: usize = 16_384;
/// A revoked token's record outlives the token by so much: wall clocks are set back, too.
pub const REVOKED_KEPT_MS: u64 = 86_400_000;
/// A subject that may write and not delete names no attempt later than this beside the leader's
/// wall clock, so that it fences nobody for longer.
pub const ATTEMPT_AHEAD_MS: u64 = 3_600_000;

/// Largest gRPC message, bytes: one 1 MiB block and its envelope, a full append batch.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// One forward step of the cluster clock at apply, milliseconds: one skewed leader cannot expire
/// the world.
pub const CLOCK_STEP_MS_MAX: u64 = 60_000;
/// Longest path of a file within a checkpoint, and of one of its components, bytes.
pub const PATH_BYTES_MAX: usize = 4096;
pub const PATH_COMPONENT_BYTES_MAX: usize = 255;

/// A record of the audit, encoded. Names, a refusal and a reason are far below that.
pub const AUDIT_RECORD_BYTES_MAX: usize = 64 << 10;
/// Text in a record of the audit that a client chose: what is longer is cut.
pub const AUDIT_TEXT_BYTES_MAX: usize = 1024;

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
        let open = PARTS_MAX as usize * (part_bytes + manifest_inline_bytes_max(0));
        assert!(open < CATALOGUE_REPLY_BYTES_MAX);
        assert_eq!(manifest_inline_bytes_max(1), MANIFEST_INLINE_BYTES_MAX);
    }
}
