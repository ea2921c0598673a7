//! SealPart, and the commit that the last one makes.

use std::sync::Arc;

use super::uploads::{check_part, union};
use super::{Catalogue, Checkpoint, Entry, Upload, check_batch, malformed};
use crate::canary;
use crate::command::{Refusal, Reply};
use crate::ids::{Attempt, CheckpointId, Run, SegmentDigest, SegmentId};
use crate::limits::{BATCH_SEGMENTS_MAX, MANIFEST_BYTES_MAX, MANIFEST_INLINE_BYTES_MAX};
use crate::model::{CheckpointState, Commit, ManifestPlace, OpenPart, SealedPart};
use crate::segment_set::SegmentSet;

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

impl Catalogue {
    pub(super) fn seal_part(
        &mut self,
        entry: Entry,
        checkpoint: CheckpointId,
        attempt: Attempt,
        part: u32,
        run: Run,
        sealed: SealedPart,
    ) -> Result<Reply, Refusal> {
        if let Some(reply) = self.sealed_before(checkpoint, attempt, part, &sealed) {
            return reply;
        }
        let (record, upload) = self.open_upload(checkpoint, attempt)?;
        check_part(part, record.parts_wanted)?;
        let staged = match upload.parts.get(&part) {
            None => SegmentSet::default(),
            Some(part) if part.part.sealed.is_none() && part.part.run == run => part.staged.clone(),
            Some(_) => return Err(Refusal::OtherRun { part }),
        };
        self.check_content(part, &staged, &sealed)?;

        let parts = record.parts_wanted;
        let parts_sealed = record.sealed_parts().len() as u32 + 1;
        let last = parts_sealed == parts || canary!("commit_without_part");
        if last && let Some(lacking) = self.lacking(record, upload) {
            self.renew_lease(checkpoint);
            return Ok(lacking);
        }
        let upload = self.renew_lease(checkpoint).and_then(|record| record.open.as_mut());
        if let Some(upload) = upload {
            let part = upload.parts.entry(part).or_default();
            part.part = OpenPart { run, sealed: Some(sealed) };
            part.staged = staged;
        }
        if last {
            self.commit(entry, checkpoint)
        } else {
            Ok(Reply::Sealed { parts_sealed, parts })
        }
    }

    /// The answer to a part that is sealed already: the same content is a retry.
    fn sealed_before(
        &mut self,
        id: CheckpointId,
        attempt: Attempt,
        part: u32,
        sealed: &SealedPart,
    ) -> Option<Result<Reply, Refusal>> {
        let record = self.checkpoints.get(&id).filter(|record| record.attempt == attempt)?;
        let before = match &record.open {
            Some(upload) => upload.parts.get(&part)?.part.sealed.as_ref()?,
            None if record.state == CheckpointState::Committed => {
                record.parts.get(part as usize)?
            }
            None => return None,
        };
        let same = before.set_digest == sealed.set_digest && before.manifest == sealed.manifest;
        if !same {
            return Some(Err(Refusal::PartSealed { part }));
        }
        let reply = if record.state == CheckpointState::Committed {
            Reply::Committed { checkpoint: id, durability: self.durability(record) }
        } else {
            let parts_sealed = record.sealed_parts().len() as u32;
            Reply::Sealed { parts_sealed, parts: record.parts_wanted }
        };
        self.renew_lease(id);
        Some(Ok(reply))
    }

    /// Whether the part's manifest and set are those that were staged.
    fn check_content(
        &self,
        part: u32,
        staged: &SegmentSet,
        sealed: &SealedPart,
    ) -> Result<(), Refusal> {
        match &sealed.manifest {
            ManifestPlace::Inline(bytes) => {
                check_batch("bytes of inline manifest", bytes.len(), MANIFEST_INLINE_BYTES_MAX)?;
            }
            ManifestPlace::Segments(digests) => {
                check_batch("manifest segments", digests.len(), BATCH_SEGMENTS_MAX)?;
                if digests.is_empty() {
                    return Err(malformed("a manifest of no segments"));
                }
                let mut manifest_bytes = 0;
                for digest in digests {
                    let segment = self
                        .segment_by_digest(digest)
                        .filter(|segment| staged.contains(segment.id))
                        .ok_or(Refusal::SegmentNotStaged(*digest))?;
                    manifest_bytes += u64::from(segment.len);
                }
                if manifest_bytes > MANIFEST_BYTES_MAX {
                    return Err(malformed(format!("a manifest of {manifest_bytes} bytes")));
                }
            }
        }
        let named = staged.iter().filter_map(|id| self.segments.get(id));
        if set_digest(named.map(|segment| (segment.digest, segment.len))) == sealed.set_digest {
            Ok(())
        } else {
            Err(Refusal::SetDigestMismatch { part })
        }
    }

    /// Names the segments that keep the upload from committing, if there are any.
    fn lacking(&self, record: &Checkpoint, upload: &Upload) -> Option<Reply> {
        let all = union(upload);
        let mut lacking = self.below_quorum(record, all.iter());
        let segments: Vec<SegmentId> = lacking.by_ref().take(BATCH_SEGMENTS_MAX).collect();
        let total = segments.len() as u64 + lacking.count() as u64;
        (total > 0).then_some(Reply::Lacking { segments, total })
    }

    /// What would keep `checkpoint` from committing if `part` were sealed now; empty also where
    /// other parts are still to come.
    pub fn lacking_if_sealed(&self, checkpoint: CheckpointId, part: u32) -> Vec<SegmentId> {
        let Some(record) = self.checkpoint(checkpoint) else { return Vec::new() };
        let Some(upload) = &record.open else { return Vec::new() };
        let others = record.sealed_parts().into_iter().filter(|sealed| *sealed != part);
        if others.count() as u32 + 1 < record.parts_wanted {
            return Vec::new();
        }
        self.below_quorum(record, union(upload).iter()).collect()
    }

    /// Of the first `most` segments of an open upload, those that lack what its commit asks for.
    pub(crate) fn lacking_in(&self, record: &Checkpoint, most: usize) -> Vec<SegmentId> {
        let Some(upload) = &record.open else { return Vec::new() };
        self.below_quorum(record, union(upload).iter().take(most)).collect()
    }

    /// Which of `lacking` still lack what `checkpoint`'s policy asks for.
    pub fn still_lacking(&self, checkpoint: CheckpointId, lacking: &[SegmentId]) -> Vec<SegmentId> {
        let Some(record) = self.checkpoint(checkpoint) else { return Vec::new() };
        self.below_quorum(record, lacking.iter().copied()).collect()
    }

    /// Of `segments`, those without the replicas that count and the racks that the checkpoint's
    /// policy asks for: the one place where a commit's quorum is decided.
    fn below_quorum(
        &self,
        record: &Checkpoint,
        segments: impl Iterator<Item = SegmentId>,
    ) -> impl Iterator<Item = SegmentId> {
        let quorum = self.quorum(&record.policy);
        segments.filter(move |id| {
            !self.segments.get(*id).is_some_and(|segment| self.meets(segment, quorum))
        })
    }

    /// Makes an upload whose parts are all sealed visible, in place of what it replaces.
    fn commit(&mut self, entry: Entry, id: CheckpointId) -> Result<Reply, Refusal> {
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        let upload = record.open.as_ref().ok_or(Refusal::NotOpen(id))?;
        let all = union(upload);
        let segment_bytes =
            all.iter().filter_map(|s| self.segments.get(s)).map(|s| u64::from(s.len)).sum();
        let namespace = record.namespace.clone();
        let replaced = self
            .checkpoints_at(&namespace, record.step)
            .find(|other| other.state == CheckpointState::Committed)
            .map(|other| other.id);
        if let Some(replaced) = replaced {
            self.mark_deleted(replaced, false);
        }
        let names = self.namespaces.entry(namespace).or_default();
        names.last_wall_ms = entry.wall_after(names.last_wall_ms);
        let commit = Commit { index: entry.index, wall_ms: names.last_wall_ms };
        self.change_checkpoint(id, |record| {
            let parts = record.open.take().map(|upload| upload.parts).unwrap_or_default();
            record.parts = parts.into_values().filter_map(|part| part.part.sealed).collect();
            let sum = |of: fn(&SealedPart) -> u64| {
                record.parts.iter().map(of).fold(0u64, u64::saturating_add)
            };
            (record.bytes, record.files) = (sum(|part| part.bytes), sum(|part| part.files));
            record.segment_bytes = segment_bytes;
            record.segments = all.to_id_set();
            for segment in all.iter() {
                record.loose.remove(segment);
            }
            record.commit = Some(commit);
            record.state = CheckpointState::Committed;
        });
        for segment in all.iter() {
            self.index.committed.add(segment);
        }
        let record = self.checkpoints.get(&id).map(Arc::as_ref);
        let durability = record.map(|record| self.durability(record)).unwrap_or_default();
        Ok(Reply::Committed { checkpoint: id, durability })
    }
}
