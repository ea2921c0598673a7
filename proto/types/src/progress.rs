//! How far an open upload is: what a listing says of it beside its checkpoint.

/// Of an upload in progress. Times are cluster time at the moment of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadProgress {
    /// Raw bytes of the staged segments (`CheckpointInfo::segment_bytes`) that have as many replicas
    /// as a commit needs.
    pub durable_bytes: u64,
    /// Until its lease ends, if the client does not renew it. Zero if it has ended.
    pub lease_left_ms: u64,
    /// Until the cluster deletes it, if the client does not renew the lease: the lease and the grace.
    pub deleted_in_ms: u64,
    /// Since its attempt began, or since its last Stage or SealPart.
    pub idle_ms: u64,
    /// Parts that are staged and not sealed.
    pub parts_begun: u32,
    /// The first `PARTS_BEGUN_MAX` of them, ascending.
    pub first_begun: Vec<PartProgress>,
}

/// Of a part that is staged and not sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartProgress {
    pub part: u32,
    /// What its current run has staged: segments, and their raw bytes.
    pub segments: u64,
    pub bytes: u64,
    /// As for the whole upload.
    pub durable_bytes: u64,
}
