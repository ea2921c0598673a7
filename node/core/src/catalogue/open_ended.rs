//! Open-ended uploads: the number of parts stays open until Close commits those that are sealed.
//!
//! ```text
//!   Begin, 0 parts     a range of part numbers, which no other Begin gets
//!   Stage, SealPart    the part is sealed, durable on W nodes. It voids the parts whose files
//!                      it has again
//!   DropPart           the part is removed, sealed or not
//!   Close              the sealed parts are committed, numbered from 0 in their order
//! ```
//!
//! A removed part gives its segments back: each segment that no other part holds loses its reference,
//! at most `DROP_REFERENCES_MAX` in the entry itself, the others by DropReferences. So an open-ended
//! upload refers only to what its parts hold and to what waits in `voided` (D6).

use std::sync::Arc;

use super::uploads::subtract_reference;
use super::{Apply, Catalogue, Checkpoint, Entry, Upload, malformed};
use crate::segment_set::SegmentSet;
use cairn_types::canary;
use cairn_types::command::{Close, DropPart, Refusal, Reply, SealPart};
use cairn_types::ids::{CheckpointId, SegmentId};
use cairn_types::limits::{
    DROP_REFERENCES_MAX, OPEN_BEGINS_MAX, OPEN_PARTS_OF_BEGIN, OPEN_REMOVED_MAX, PARTS_MAX,
};
use cairn_types::model::{CheckpointState, ManifestPlace, OpenPart, SealedPart};

impl Apply for DropPart {
    fn apply(&self, catalogue: &mut Catalogue, _: Entry) -> Result<Reply, Refusal> {
        catalogue.drop_part(self)
    }
}

impl Apply for Close {
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal> {
        catalogue.close(entry, self)
    }
}

impl Checkpoint {
    /// Refuses a part number that the upload does not have.
    pub fn check_part(&self, part: u32) -> Result<(), Refusal> {
        let begins = self.open.as_ref().map_or(0, |upload| upload.begins);
        let (is_known, parts) = match self.open_ended {
            true => {
                (part / OPEN_PARTS_OF_BEGIN < begins, begins.saturating_mul(OPEN_PARTS_OF_BEGIN))
            }
            false => (part < self.parts_wanted, self.parts_wanted),
        };
        if is_known { Ok(()) } else { Err(Refusal::PartOutOfRange { part, parts }) }
    }

    /// Names the set of sealed parts of an open upload: no two sets of one attempt have the same
    /// number. A seal adds one at least, and so does the removal of a part.
    pub fn parts_version(&self) -> u32 {
        self.open.as_ref().map_or(0, |upload| upload.sealed + 2 * upload.removed)
    }
}

impl Catalogue {
    /// The number that a leader names as `compared` in the next SealPart.
    pub fn parts_version(&self, checkpoint: CheckpointId) -> u32 {
        self.checkpoint(checkpoint).map_or(0, |record| record.parts_version())
    }

    /// Gives a Begin its part numbers; the first of them.
    pub(super) fn hand_out_parts(&mut self, id: CheckpointId) -> u32 {
        let record = self.checkpoints.get_mut(&id).map(Arc::make_mut);
        let Some(upload) = record.and_then(|record| record.open.as_mut()) else { return 0 };
        let first = upload.begins.saturating_mul(OPEN_PARTS_OF_BEGIN);
        upload.begins += 1;
        first
    }

    /// Seals a part of an open-ended upload in place of the parts that it voids. Not before its
    /// segments have W replicas that count: its writer may leave, and the commit may come long after.
    pub(super) fn seal_open_part(
        &mut self,
        seal: &SealPart,
        sealed: SealedPart,
        staged: SegmentSet,
    ) -> Result<Reply, Refusal> {
        let SealPart { checkpoint: id, attempt, part, run, ref voids, .. } = *seal;
        let (record, upload) = self.open_upload(id, attempt)?;
        check_voids(upload, part, voids)?;
        check_room_for_part(upload, part)?;
        if let Some(lacking) = self.lacking(record, &staged) {
            self.renew_lease(id);
            return Ok(lacking);
        }
        let upload = self.renew_lease(id).and_then(|record| record.open.as_mut());
        let Some(upload) = upload else { return Err(Refusal::NotOpen(id)) };
        let own = upload.parts.or_default(part);
        (own.part, own.staged) = (OpenPart { run, sealed: Some(sealed) }, staged);
        upload.sealed += 1;
        if !canary!("voided_part_stays") {
            voids.iter().for_each(|part| upload.remove_part(*part));
        }
        let parts_sealed = upload.sealed;
        self.drop_voided(id);
        Ok(Reply::Sealed { parts_sealed, parts: 0 })
    }

    fn drop_part(&mut self, drop: &DropPart) -> Result<Reply, Refusal> {
        let DropPart { checkpoint: id, attempt, part } = *drop;
        let (record, upload) = self.open_upload(id, attempt)?;
        if !record.open_ended {
            return Err(Refusal::NotOpenEnded(id));
        }
        record.check_part(part)?;
        check_removals(upload, 1)?;
        if let Some(upload) = self.renew_lease(id).and_then(|record| record.open.as_mut()) {
            upload.remove_part(part);
        }
        self.drop_voided(id);
        Ok(Reply::Done)
    }

    fn close(&mut self, entry: Entry, close: &Close) -> Result<Reply, Refusal> {
        let Close { checkpoint: id, attempt } = *close;
        let closed = self.checkpoint(id).filter(|record| {
            record.state == CheckpointState::Committed
                && record.open_ended
                && record.attempt == attempt
        });
        if let Some(record) = closed {
            let durability = self.durability(record);
            return Ok(Reply::Committed { checkpoint: id, durability });
        }
        let (record, upload) = self.open_upload(id, attempt)?;
        if !record.open_ended {
            return Err(Refusal::NotOpenEnded(id));
        }
        if upload.sealed == 0 {
            return Err(Refusal::NothingSealed(id));
        }
        if let Some(replaced) = self.replaced_by(record) {
            self.check_replaceable(replaced, upload)?;
        }
        let mut all = SegmentSet::default();
        for part in upload.parts.values() {
            if part.part.sealed.is_some() || canary!("close_takes_unsealed") {
                all.unite(&part.staged);
            }
        }
        if let Some(lacking) = self.lacking(record, &all) {
            self.renew_lease(id);
            return Ok(lacking);
        }
        self.check_sealed_sets(upload)?;
        self.commit(entry, id, &all)
    }

    /// The first segments of removed parts lose their references, unless a part holds them. How many
    /// are left to be looked at.
    pub(super) fn drop_voided(&mut self, id: CheckpointId) -> u64 {
        let clock_ms = self.cluster.clock_ms;
        let reap_after_ms = clock_ms.saturating_add(self.cluster.settings.grace_ms);
        let Some(record) = self.checkpoints.get_mut(&id).map(Arc::make_mut) else { return 0 };
        let replicas = record.policy.replicas;
        let Some(upload) = record.open.as_mut() else { return 0 };
        let batch: Vec<SegmentId> = upload.voided.iter().take(DROP_REFERENCES_MAX).collect();
        let mut dropped = Vec::new();
        for segment in batch {
            upload.voided.remove(segment);
            if upload.held.get(segment) == 0 && record.loose.remove(segment) {
                dropped.push(segment);
            }
        }
        let left = upload.voided.len();
        self.index.note_voided(record);
        for segment in dropped {
            self.change_segment(segment, |segment| {
                subtract_reference(segment, replicas);
                if !segment.is_referenced() {
                    segment.reap_after_ms = segment.reap_after_ms.max(reap_after_ms);
                }
            });
        }
        left
    }
}

impl Upload {
    /// Removes a part. Its segments wait in `voided` for their references to be dropped.
    fn remove_part(&mut self, part: u32) {
        let Some(gone) = self.parts.remove(&part) else { return };
        if gone.part.sealed.is_some() {
            self.sealed -= 1;
            self.removed += 1;
        }
        self.give_back(&gone.staged);
    }

    /// A part no longer holds these segments.
    pub(super) fn give_back(&mut self, staged: &SegmentSet) {
        self.held.subtract_all(staged);
        if !canary!("voided_keeps_references") {
            self.voided.unite(staged);
        }
    }
}

/// Refuses one more Begin when no range of part numbers is left for it.
pub(super) fn check_room_for_begin(upload: &Upload) -> Result<(), Refusal> {
    match upload.begins < OPEN_BEGINS_MAX {
        true => Ok(()),
        false => Err(malformed(format!("{OPEN_BEGINS_MAX} begins of one attempt, no more"))),
    }
}

/// Refuses a further part of an upload that has the most.
pub(super) fn check_room_for_part(upload: &Upload, part: u32) -> Result<(), Refusal> {
    match upload.parts.len() < PARTS_MAX as usize || upload.parts.contains_key(&part) {
        true => Ok(()),
        false => Err(malformed(format!("an upload of over {PARTS_MAX} parts"))),
    }
}

/// Refuses a manifest that the answers of a checkpoint of the most parts have no room for.
pub(super) fn check_inline(manifest: &ManifestPlace, most: usize) -> Result<(), Refusal> {
    match manifest {
        ManifestPlace::Inline(bytes) if bytes.len() > most => {
            Err(malformed(format!("an inline manifest of {} bytes, limit {most}", bytes.len())))
        }
        _ => Ok(()),
    }
}

fn check_voids(upload: &Upload, part: u32, voids: &[u32]) -> Result<(), Refusal> {
    let is_sealed = |number: &u32| {
        let voided = upload.parts.get(number).filter(|_| *number != part);
        voided.is_some_and(|voided| voided.part.sealed.is_some())
    };
    if !voids.iter().all(is_sealed) || !voids.is_sorted_by(|one, two| one < two) {
        return Err(malformed(format!("part {part} voids parts that are not sealed")));
    }
    check_removals(upload, voids.len() as u32)
}

fn check_removals(upload: &Upload, more: u32) -> Result<(), Refusal> {
    match upload.removed.saturating_add(more) <= OPEN_REMOVED_MAX {
        true => Ok(()),
        false => {
            Err(malformed(format!("{OPEN_REMOVED_MAX} parts of one attempt removed, no more")))
        }
    }
}
