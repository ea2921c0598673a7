//! What holds of open-ended uploads: they refer to what their parts hold and to nothing else, and a
//! commit takes exactly the parts that were sealed and not removed.

use std::collections::BTreeSet;

use super::ensure;
use crate::catalogue::{Catalogue, Checkpoint};
use crate::segment_set::SegmentCounts;
use cairn_types::ids::SegmentId;
use cairn_types::model::{CheckpointState, SealedPart};

/// The references of an open upload, counted again from its parts.
pub(super) fn check_references(record: &Checkpoint) -> Result<(), String> {
    let (id, Some(upload)) = (record.id, &record.open) else { return Ok(()) };
    if !record.open_ended {
        let is_plain = upload.begins == 0
            && upload.removed == 0
            && upload.voided.is_empty()
            && upload.held == SegmentCounts::default();
        return ensure(is_plain, || {
            format!("C2: upload {id} of a fixed number of parts lost some")
        });
    }
    let mut held = SegmentCounts::default();
    upload.parts.values().for_each(|part| held.add_all(&part.staged));
    ensure(held == upload.held, || format!("D6: upload {id} counts its parts' segments wrongly"))?;
    let stray = record
        .loose
        .iter()
        .find(|segment| held.get(*segment) == 0 && !upload.voided.contains(*segment));
    ensure(stray.is_none(), || {
        format!("D6: upload {id} refers to segment {stray:?}, which no part holds")
    })?;
    let unheld = upload.voided.iter().find(|segment| !record.loose.contains(*segment));
    ensure(unheld.is_none(), || {
        format!("D6: upload {id} would drop a reference on {unheld:?} that it does not hold")
    })
}

/// The sealed parts of an open upload, by number.
fn sealed(record: &Checkpoint) -> Vec<(u32, &SealedPart)> {
    let parts = record.open.iter().flat_map(|upload| upload.parts.iter());
    parts.filter_map(|(number, part)| Some((*number, part.part.sealed.as_ref()?))).collect()
}

pub(super) fn check_step(before: &Catalogue, after: &Catalogue) -> Result<(), String> {
    for new in after.checkpoints().filter(|record| record.open_ended) {
        let Some(old) = before.checkpoint(new.id).filter(|old| old.open.is_some()) else {
            continue;
        };
        match new.state {
            CheckpointState::Open if old.attempt == new.attempt => {
                let (is_same, versions) =
                    (sealed(old) == sealed(new), (old.parts_version(), new.parts_version()));
                let fits = if is_same { versions.0 == versions.1 } else { versions.0 < versions.1 };
                ensure(fits, || {
                    format!("C2: upload {} went from version {versions:?} of its parts", new.id)
                })?;
            }
            CheckpointState::Committed => check_close(old, new)?,
            CheckpointState::Open | CheckpointState::Deleted => {}
        }
    }
    Ok(())
}

/// The commit has the sealed parts, in their order, and the segments that were staged for them.
fn check_close(old: &Checkpoint, new: &Checkpoint) -> Result<(), String> {
    let parts = sealed(old).into_iter().map(|(_, part)| part);
    ensure(parts.eq(new.parts.iter()), || {
        format!("C2: checkpoint {} does not have the sealed parts of its upload", new.id)
    })?;
    let all = old.open.iter().flat_map(|upload| upload.parts.values());
    let named: BTreeSet<SegmentId> =
        all.filter(|part| part.part.sealed.is_some()).flat_map(|part| part.staged.iter()).collect();
    ensure(new.segments.iter().eq(named.iter().copied()), || {
        format!("C2: checkpoint {} names segments of parts that were not sealed", new.id)
    })
}
