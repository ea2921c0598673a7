//! SealPart, and the commit that follows the last one.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::kinds::{Kind, Use};
use super::open_ended::check_inline;
use super::uploads::union;
use super::{Apply, Catalogue, Checkpoint, Entry, Upload, check_batch, malformed};
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{Refusal, Reply, SealPart};
use cairn_types::ids::{Attempt, CheckpointId, NodeId, SegmentId};
use cairn_types::limits::{
    BATCH_SEGMENTS_MAX, MANIFEST_BYTES_MAX, MANIFEST_INLINE_BYTES_MAX,
    OPEN_MANIFEST_INLINE_BYTES_MAX,
};
use cairn_types::model::{
    CheckpointState, Commit, DeletedFor, ManifestPlace, OpenPart, SealedPart,
};
use cairn_types::set_digest;

impl Apply for SealPart {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.seal_part(entry, self)
    }
}

fn sealed_part(seal: &SealPart) -> SealedPart {
    SealedPart {
        manifest: seal.manifest.clone(),
        set_digest: seal.set_digest,
        bytes: seal.bytes,
        files: seal.files,
    }
}

impl Catalogue {
    pub(super) fn seal_part(&mut self, entry: Entry, seal: &SealPart) -> Result<Reply, Refusal> {
        let SealPart { checkpoint, attempt, part, run, compared, .. } = *seal;
        let sealed = sealed_part(seal);
        if let Some(reply) = self.sealed_before(checkpoint, attempt, part, &sealed) {
            return reply;
        }
        let (record, upload, staged) = self.check_sealed(seal, &sealed)?;
        let parts = record.parts_wanted;
        let before = record.parts_version();
        if compared != before {
            return Err(Refusal::NotCompared { part, compared, sealed: before });
        }
        if record.open_ended {
            return self.seal_open_part(seal, sealed, staged);
        }
        if !seal.voids.is_empty() {
            return Err(Refusal::NotOpenEnded(checkpoint));
        }
        let parts_sealed = before + 1;
        let last = parts_sealed == parts || canary!("commit_without_part");
        if last && let Some(replaced) = self.replaced_by(record) {
            self.check_replaceable(replaced, upload)?;
        }
        let all = last.then(|| union(upload));
        if let Some(all) = &all
            && let Some(lacking) = self.lacking(record, all)
        {
            self.renew_lease(checkpoint);
            return Ok(lacking);
        }
        if last {
            self.check_sealed_sets(upload)?;
        }
        let upload = self.renew_lease(checkpoint).and_then(|record| record.open.as_mut());
        if let Some(upload) = upload {
            let part = upload.parts.or_default(part);
            part.part = OpenPart { run, sealed: Some(sealed) };
            part.staged = staged;
            upload.sealed += 1;
        }
        match all {
            Some(all) => self.commit(entry, checkpoint, &all),
            None => Ok(Reply::Sealed { parts_sealed, parts }),
        }
    }

    /// Refuses to seal a part, that is not sealed yet, as what was not staged for it. A leader asks
    /// before it reads a manifest: its segments could be anybody's.
    pub fn may_seal(&self, seal: &SealPart) -> Result<(), Refusal> {
        self.check_sealed(seal, &sealed_part(seal)).map(drop)
    }

    /// The upload of the part, and what was staged for it.
    fn check_sealed(
        &self,
        seal: &SealPart,
        sealed: &SealedPart,
    ) -> Result<(&Checkpoint, &Upload, SegmentSet), Refusal> {
        let SealPart { checkpoint, attempt, part, run, .. } = *seal;
        let (record, upload) = self.open_upload(checkpoint, attempt)?;
        record.check_part(part)?;
        let staged = match upload.parts.get(&part) {
            None => SegmentSet::default(),
            Some(part) if part.part.sealed.is_none() && part.part.run == run => part.staged.clone(),
            Some(_) => return Err(Refusal::OtherRun { part }),
        };
        if record.open_ended {
            check_inline(&sealed.manifest, OPEN_MANIFEST_INLINE_BYTES_MAX)?;
        }
        self.check_content(part, &staged, sealed)?;
        Ok((record, upload, staged))
    }

    /// The answer for a part that is sealed already. The same content counts as a retry.
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
            // The commit has numbered the parts of an open-ended upload again.
            None if record.state == CheckpointState::Committed && !record.open_ended => {
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
            Reply::Sealed { parts_sealed: record.sealed_count(), parts: record.parts_wanted }
        };
        self.renew_lease(id);
        Some(Ok(reply))
    }

    /// Whether the part's manifest and set match the staged ones.
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
                    manifest_bytes += u64::from(segment.form.raw_len());
                }
                if manifest_bytes > MANIFEST_BYTES_MAX {
                    return Err(malformed(format!("a manifest of {manifest_bytes} bytes")));
                }
            }
        }
        self.check_set(part, staged, sealed)
    }

    fn check_set(
        &self,
        part: u32,
        staged: &SegmentSet,
        sealed: &SealedPart,
    ) -> Result<(), Refusal> {
        let named = staged.iter().filter_map(|id| self.segments.get(id));
        match set_digest(named.map(|segment| (segment.digest, segment.form.raw_len()))) {
            set if set == sealed.set_digest => Ok(()),
            _ => Err(Refusal::SetDigestMismatch { part }),
        }
    }

    /// Refuses to commit parts that were sealed when the length of a segment was only a claim, and
    /// another length was proven since. Such a part cannot be restored.
    pub(super) fn check_sealed_sets(&self, upload: &Upload) -> Result<(), Refusal> {
        for (part, record) in upload.parts.iter() {
            if let Some(sealed) = &record.part.sealed {
                self.check_set(*part, &record.staged, sealed)?;
            }
        }
        Ok(())
    }

    /// Names the segments that keep the upload from committing, if there are any.
    pub(super) fn lacking(&self, record: &Checkpoint, all: &SegmentSet) -> Option<Reply> {
        let quorum = self.quorum(&record.policy);
        let kinds = self.index.kinds.of(all.iter(), all.len());
        let meets = |nodes: &[NodeId]| self.counting_on(nodes.iter().copied()).meets(quorum);
        if kinds.iter().all(|(kind, _)| meets(&kind.durable)) {
            return None;
        }
        let mut lacking = self.below_quorum(record, all.iter());
        let segments: Vec<SegmentId> = lacking.by_ref().take(BATCH_SEGMENTS_MAX).collect();
        let total = segments.len() as u64 + lacking.count() as u64;
        (total > 0).then_some(Reply::Lacking { segments, total })
    }

    /// The segments that would keep `checkpoint` from committing if `part` were sealed now. Empty
    /// also if other parts are still missing. In an open-ended upload those that keep the part from
    /// being sealed.
    pub fn lacking_if_sealed(&self, checkpoint: CheckpointId, part: u32) -> Vec<SegmentId> {
        let Some(record) = self.checkpoint(checkpoint) else { return Vec::new() };
        let Some(upload) = &record.open else { return Vec::new() };
        let own = upload.parts.get(&part);
        if record.open_ended {
            let staged = own.into_iter().flat_map(|own| own.staged.iter());
            return self.below_quorum(record, staged).collect();
        }
        let own = own.is_some_and(|own| own.part.sealed.is_some());
        if record.sealed_count() - u32::from(own) + 1 < record.parts_wanted {
            return Vec::new();
        }
        self.below_quorum(record, union(upload).iter()).collect()
    }

    /// From the sealed parts of an open upload: at most `most` segments below the commit's quorum,
    /// each once.
    pub(crate) fn lacking_in(&self, record: &Checkpoint, most: usize) -> BTreeSet<SegmentId> {
        let parts = record.open.iter().flat_map(|upload| upload.parts.values());
        let sealed = parts.filter(|part| part.part.sealed.is_some());
        let mut lacking = BTreeSet::new();
        for id in self.below_quorum(record, sealed.flat_map(|part| part.staged.iter())) {
            if lacking.len() >= most {
                break;
            }
            lacking.insert(id);
        }
        lacking
    }

    /// Those of `lacking` that are still below the quorum of `checkpoint`'s policy.
    pub fn still_lacking(&self, checkpoint: CheckpointId, lacking: &[SegmentId]) -> Vec<SegmentId> {
        let Some(record) = self.checkpoint(checkpoint) else { return Vec::new() };
        self.below_quorum(record, lacking.iter().copied()).collect()
    }

    /// Those of `segments` that do not have the counting replicas and racks that the checkpoint's
    /// policy requires. Only this function decides a commit's quorum.
    fn below_quorum(
        &self,
        record: &Checkpoint,
        segments: impl Iterator<Item = SegmentId>,
    ) -> impl Iterator<Item = SegmentId> {
        let quorum = match canary!("quorum_of_namespace") {
            true => self.quorum(&self.policy(&record.namespace)),
            false => self.quorum(&record.policy),
        };
        segments.filter(move |id| {
            !self.segments.get(*id).is_some_and(|segment| self.meets(segment, quorum))
        })
    }

    /// Refuses to replace a protected checkpoint: one that left quarantine after the upload began,
    /// or that a ref or a hold protects.
    pub(super) fn check_replaceable(
        &self,
        replaced: &Checkpoint,
        upload: &Upload,
    ) -> Result<(), Refusal> {
        if !upload.replace && replaced.quarantine.is_none() {
            return Err(Refusal::StepExists {
                namespace: replaced.namespace.clone(),
                step: replaced.step,
                checkpoint: replaced.id,
            });
        }
        self.check_unprotected(replaced)
    }

    /// The checkpoint that the commit of an upload replaces.
    pub(super) fn replaced_by(&self, record: &Checkpoint) -> Option<&Arc<Checkpoint>> {
        self.checkpoints_at(&record.namespace, record.step).find(|other| other.is_committed())
    }

    /// Makes an upload with all parts sealed visible, and replaces the previous checkpoint. `all`
    /// is the union of its parts' segments.
    pub(super) fn commit(
        &mut self,
        entry: Entry,
        id: CheckpointId,
        all: &SegmentSet,
    ) -> Result<Reply, Refusal> {
        let record = self.checkpoints.get(&id).ok_or(Refusal::UnknownCheckpoint(id))?;
        let upload = record.open.as_ref().ok_or(Refusal::NotOpen(id))?;
        let (keep_last, by) = (upload.keep_last, record.began.client.clone());
        let kinds = self.index.kinds.of(all.iter(), all.len());
        let segment_bytes = kinds.iter().map(|(_, totals)| totals.bytes).sum();
        let is_new = |kind: &Kind| kind.used != Use::Committed;
        let new = kinds.iter().filter(|(kind, _)| is_new(kind));
        let new_bytes = new.map(|(_, totals)| totals.bytes).sum();
        let namespace = record.namespace.clone();
        let replaced = self.replaced_by(record).map(|other| other.id);
        if let Some(replaced) = replaced {
            self.mark_deleted(entry, replaced, DeletedFor::Replaced, &by);
            // Another checkpoint may now be the best, or the newest of its day.
            self.note_change(replaced);
        }
        // The upload's changes to the policy take effect now and not earlier.
        self.say_keep_last(entry, &namespace, keep_last);
        let keep_last = self.policy(&namespace).keep_last;
        let names = self.namespaces.or_default(namespace);
        names.last_wall_ms = entry.wall_after(names.last_wall_ms);
        let commit = Commit { index: entry.index, wall_ms: names.last_wall_ms };
        self.change_checkpoint(id, |record| {
            let parts = record.open.take().map(|upload| upload.parts).unwrap_or_default();
            record.parts = parts.values().filter_map(|part| part.part.sealed.clone()).collect();
            let sum = |of: fn(&SealedPart) -> u64| {
                record.parts.iter().map(of).fold(0u64, u64::saturating_add)
            };
            if record.open_ended {
                record.parts_wanted = record.parts.len() as u32;
            }
            (record.bytes, record.files) = (sum(|part| part.bytes), sum(|part| part.files));
            (record.segment_bytes, record.new_bytes) = (segment_bytes, new_bytes);
            record.segments = all.to_id_set();
            record.loose.subtract(all);
            // Stored so that a retry of this put can be compared with it.
            record.policy.keep_last = keep_last;
            record.commit = Some(commit);
            record.state = CheckpointState::Committed;
        });
        self.index.committed.add_all(all);
        self.index.kinds.commit(all);
        let record = self.checkpoints.get(&id).map(Arc::as_ref);
        let durability = record.map(|record| self.durability(record)).unwrap_or_default();
        Ok(Reply::Committed { checkpoint: id, durability })
    }
}
