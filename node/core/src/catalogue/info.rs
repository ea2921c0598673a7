//! What a client learns of a checkpoint: its record, how safe its segments are, and how far it is
//! while it is open.

use std::sync::Arc;

use super::kinds::Totals;
use super::{Catalogue, Checkpoint, Upload, UploadPart};
use crate::segment_set::SegmentSet;
use cairn_types::limits::{MISSING_PARTS_MAX, PARTS_BEGUN_MAX};
use cairn_types::model::{CheckpointInfo, DeletedFor, Deletion, Durability, SealedPart};
use cairn_types::progress::{PartProgress, UploadProgress};

/// The segments of a checkpoint together.
struct Standing {
    durability: Durability,
    all: Totals,
    /// Raw bytes of those that have the replicas that a commit needs.
    quorum_bytes: u64,
}

impl Catalogue {
    /// The information about a checkpoint for a client. For an open upload: the sealed parts, and
    /// the segments staged so far.
    pub fn info(&self, record: &Checkpoint) -> CheckpointInfo {
        let parts = match record.open {
            Some(_) => sealed_parts(record).cloned().collect(),
            None => Arc::clone(&record.parts),
        };
        CheckpointInfo { parts, ..self.listed(record) }
    }

    /// Like [`Catalogue::info`], without the parts, because there may be many.
    pub fn listed(&self, record: &Checkpoint) -> CheckpointInfo {
        let open = record.open.is_some();
        let (mut parts_missing, mut first_missing) = (0, Vec::new());
        let (mut bytes, mut files) = (record.bytes, record.files);
        if let Some(upload) = &record.open {
            let is_sealed =
                |part: &u32| upload.parts.get(part).is_some_and(|part| part.part.sealed.is_some());
            let missing = (0..record.parts_wanted).filter(|part| !is_sealed(part));
            first_missing = missing.take(MISSING_PARTS_MAX).collect();
            parts_missing = record.parts_wanted.saturating_sub(upload.sealed);
            let sum = |of: fn(&SealedPart) -> u64| {
                sealed_parts(record).map(of).fold(0u64, u64::saturating_add)
            };
            (bytes, files) = (sum(|part| part.bytes), sum(|part| part.files));
        }
        let standing = self.standing(record);
        CheckpointInfo {
            id: record.id,
            namespace: record.namespace.clone(),
            step: record.step,
            attempt: record.attempt,
            state: record.state,
            policy: record.policy.clone(),
            commit: record.commit,
            labels: record.labels.clone(),
            metrics: record.metrics.clone(),
            bytes,
            files,
            segments: if open { record.loose.len() } else { record.segments.len() },
            segment_bytes: if open { standing.all.bytes } else { record.segment_bytes },
            new_bytes: Some(record.new_bytes),
            durability: standing.durability,
            parts: Arc::default(),
            parts_wanted: match record.parts_wanted {
                0 => record.sealed_count(),
                parts => parts,
            },
            open_ended: record.open_ended,
            parts_missing,
            first_missing,
            began: record.began.clone(),
            quarantine: record.quarantine.clone(),
            refs: self.refs_to(record).cloned().collect(),
            holds: self.active_holds(record.id).cloned().collect(),
            deletion: record.deleted_for.map(|reason| self.deletion(record, reason)),
            upload: record.open.as_ref().map(|upload| UploadProgress {
                durable_bytes: standing.quorum_bytes,
                ..self.progress(record, upload)
            }),
        }
    }

    fn deletion(&self, record: &Checkpoint, reason: DeletedFor) -> Deletion {
        let until_ms = record.trash_until_ms(self.trash_ms()).unwrap_or(0);
        Deletion {
            reason,
            by: record.deleted_by.clone(),
            wall_ms: record.deleted_wall_ms,
            restorable_ms: until_ms.saturating_sub(self.cluster.clock_ms),
        }
    }

    /// The durability of a checkpoint now. A checkpoint without segments has all the replicas it
    /// wants.
    pub fn durability(&self, record: &Checkpoint) -> Durability {
        self.standing(record).durability
    }

    /// Of the segments that a checkpoint names. For an open upload, of the segments that it has
    /// staged.
    fn standing(&self, record: &Checkpoint) -> Standing {
        let wanted = record.policy.replicas;
        let mut least = Durability {
            replicas_wanted: wanted,
            replicas_min: u32::MAX,
            racks_min: u32::MAX,
            ..Durability::default()
        };
        let (mut all, mut quorum_bytes) = (Totals::default(), 0);
        let quorum = self.quorum(&record.policy);
        let loose = record.open.is_some().then_some(&record.loose);
        let count = record.segments.len() + loose.map_or(0, SegmentSet::len);
        let ids = record.segments.iter().chain(loose.into_iter().flat_map(SegmentSet::iter));
        for (kind, totals) in self.index.kinds.of(ids, count) {
            let have = self.counting_on(kind.durable.iter().copied());
            all.segments += totals.segments;
            all.bytes += totals.bytes;
            quorum_bytes += if have.meets(quorum) { totals.bytes } else { 0 };
            least.replicas_min = least.replicas_min.min(have.replicas);
            least.racks_min = least.racks_min.min(have.racks);
            if have.replicas < wanted {
                least.segments_below += totals.segments;
                least.bytes_below += totals.bytes;
            }
            if have.replicas == 0 {
                least.segments_unavailable += totals.segments;
            }
        }
        if least.replicas_min == u32::MAX {
            least.replicas_min = wanted;
            least.racks_min = self.required_racks(&record.policy);
        }
        Standing { durability: least, all, quorum_bytes }
    }

    /// How far an open upload is, without `durable_bytes`.
    fn progress(&self, record: &Checkpoint, upload: &Upload) -> UploadProgress {
        let left_ms = |until_ms: u64| until_ms.saturating_sub(self.cluster.clock_ms);
        let is_begun = |part: &UploadPart| part.part.sealed.is_none() && !part.staged.is_empty();
        let begun = || upload.parts.iter().filter(|(_, part)| is_begun(part));
        let quorum = self.quorum(&record.policy);
        let part = |(number, part): (&u32, &UploadPart)| {
            let mut progress = PartProgress { part: *number, ..PartProgress::default() };
            for (kind, totals) in self.index.kinds.of(part.staged.iter(), part.staged.len()) {
                progress.segments += totals.segments;
                progress.bytes += totals.bytes;
                if self.counting_on(kind.durable.iter().copied()).meets(quorum) {
                    progress.durable_bytes += totals.bytes;
                }
            }
            progress
        };
        UploadProgress {
            durable_bytes: 0,
            lease_left_ms: left_ms(upload.lease_until_ms),
            deleted_in_ms: record
                .expires_after_ms(self.cluster.settings.grace_ms)
                .map_or(0, left_ms),
            idle_ms: self.cluster.clock_ms.saturating_sub(upload.idle_since_ms),
            parts_begun: begun().count() as u32,
            first_begun: begun().take(PARTS_BEGUN_MAX).map(part).collect(),
        }
    }
}

fn sealed_parts(record: &Checkpoint) -> impl Iterator<Item = &SealedPart> {
    let open = record.open.iter().flat_map(|upload| upload.parts.values());
    record.parts.iter().chain(open.filter_map(|part| part.part.sealed.as_ref()))
}
