//! A segment's record with its slots.

use std::io;

use cairn_types::convert::{
    ConvertError, digest_from_wire, digest_to_wire, slot_from_wire, slot_to_wire,
};
use cairn_types::form::Codecs;
use cairn_types::ids::SegmentId;
use cairn_types::limits::{REPLICAS_MAX, SEGMENT_BYTES_MAX};
use cairn_types::model::{Segment, Slot, SlotState};
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError, is_minted};
use crate::catalogue::Catalogue;

pub(super) struct Segments;

impl Stored for Segments {
    type Message = wire::SnapshotSegment;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.segments().iter().try_for_each(|segment| put(to_wire(segment)))
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        loader.segment(from_wire(&message)?)?;
        Ok(())
    }
}

impl Loader {
    pub fn segment(&mut self, segment: Segment) -> Result<(), LoadError> {
        let id = segment.id;
        let wrong = |what| LoadError::Segment { id, what };
        if !is_minted(id.0, &self.catalogue.cluster, |cluster| cluster.next_segment) {
            return Err(wrong("id was never minted"));
        }
        if !(1..=SEGMENT_BYTES_MAX).contains(&u64::from(segment.form.raw_len())) {
            return Err(wrong("length is out of range"));
        }
        // A removed node has slots until they are voided.
        if !segment.slots.iter().all(|slot| self.catalogue.node(slot.node).is_some()) {
            return Err(wrong("slot on an unknown node"));
        }
        if let Some(what) = slots_problem(&segment) {
            return Err(wrong(what));
        }
        if self.catalogue.segment_by_digest(&segment.digest).is_some() {
            return Err(LoadError::Digest(segment.digest));
        }
        self.catalogue.index.digests.insert(&segment.digest, id);
        self.catalogue.index.add_segment(&segment);
        if self.catalogue.segments.insert(segment).is_some() {
            return Err(wrong("is there twice"));
        }
        Ok(())
    }
}

fn to_wire(segment: &Segment) -> wire::SnapshotSegment {
    let references = segment.references.iter();
    wire::SnapshotSegment {
        id: segment.id.0,
        digest: digest_to_wire(&segment.digest),
        len: segment.form.raw_len(),
        codec: segment.form.codec().number(),
        stored_len: segment.form.stored_len(),
        references: references
            .map(|&(replicas, count)| wire::ReferenceCount { replicas, count })
            .collect(),
        reap_after_ms: segment.reap_after_ms,
        reaped: segment.reaped,
        slots: segment.slots.iter().map(|slot| slot_to_wire(&slot)).collect(),
    }
}

fn from_wire(record: &wire::SnapshotSegment) -> Result<Segment, ConvertError> {
    let references = record.references.iter();
    Ok(Segment {
        id: SegmentId(record.id),
        digest: digest_from_wire("segment digest", &record.digest)?,
        form: Codecs::KNOWN.form(record.codec, record.len, record.stored_len)?,
        references: references.map(|reference| (reference.replicas, reference.count)).collect(),
        reap_after_ms: record.reap_after_ms,
        reaped: record.reaped,
        slots: record.slots.iter().map(slot_from_wire).collect::<Result<_, _>>()?,
    })
}

fn slots_problem(segment: &Segment) -> Option<&'static str> {
    let slots: Vec<Slot> = segment.slots.iter().collect();
    let ascending =
        slots.windows(2).all(|pair| (pair[0].node, pair[0].epoch) < (pair[1].node, pair[1].epoch));
    // Of the slots on one node only the last one, which is the newest, may be live.
    let newest_live = slots
        .windows(2)
        .all(|pair| pair[0].node != pair[1].node || pair[0].state == SlotState::Released);
    let references = &segment.references;
    let counted = references.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && references
            .iter()
            .all(|(wanted, count)| (1..=REPLICAS_MAX).contains(wanted) && *count > 0);
    if !ascending {
        Some("slots are not in order")
    } else if !newest_live {
        Some("an old slot is live")
    } else if !counted {
        Some("references are not in order")
    } else if segment.reaped && (segment.is_referenced() || segment.live_slots().count() > 0) {
        Some("is reaped but in use")
    } else {
        None
    }
}
