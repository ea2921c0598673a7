//! Segments' lengths, slots, and where manifests are.

use crate::ids::{Epoch, NodeId};
use crate::limits::{BATCH_SEGMENTS_MAX, MANIFEST_INLINE_BYTES_MAX, SEGMENT_BYTES_MAX};
use crate::model::{ManifestPlace, SealedPart, Slot, SlotState};
use bytes::Bytes;

use super::{ConvertError, at_most, digest_from_wire, digest_to_wire, fixed, required};
use crate::wire;

/// A segment's raw length: 1 byte to 32 MiB.
pub fn segment_len_from_wire(len: u32) -> Result<u32, ConvertError> {
    if (1..=SEGMENT_BYTES_MAX).contains(&u64::from(len)) {
        Ok(len)
    } else {
        Err(ConvertError::Value { field: "segment length", got: len.into() })
    }
}

pub fn slot_to_wire(slot: &Slot) -> wire::Slot {
    let state = match slot.state {
        SlotState::Assigned => wire::SlotState::Assigned,
        SlotState::Durable => wire::SlotState::Durable,
        SlotState::Released => wire::SlotState::Released,
    };
    wire::Slot {
        node: slot.node.0,
        epoch: slot.epoch.0,
        state: state.into(),
        until_ms: slot.until_ms,
    }
}

pub fn slot_from_wire(slot: &wire::Slot) -> Result<Slot, ConvertError> {
    let state = match wire::SlotState::try_from(slot.state) {
        Ok(wire::SlotState::Assigned) => SlotState::Assigned,
        Ok(wire::SlotState::Durable) => SlotState::Durable,
        Ok(wire::SlotState::Released) => SlotState::Released,
        Ok(wire::SlotState::Unspecified) | Err(_) => {
            let got = u64::from(slot.state as u32);
            return Err(ConvertError::Value { field: "slot state", got });
        }
    };
    let (node, epoch) = (NodeId(slot.node), Epoch(slot.epoch));
    Ok(Slot { node, epoch, state, until_ms: slot.until_ms })
}

pub fn manifest_place_to_wire(place: &ManifestPlace) -> wire::ManifestPlace {
    use wire::manifest_place::Place;
    let place = match place {
        ManifestPlace::Inline(bytes) => Place::Inline(bytes.clone()),
        ManifestPlace::Segments(digests) => Place::Segments(wire::Manifests {
            digests: digests.iter().map(digest_to_wire).collect(),
        }),
    };
    wire::ManifestPlace { place: Some(place) }
}

pub fn manifest_place_from_wire(
    place: Option<wire::ManifestPlace>,
) -> Result<ManifestPlace, ConvertError> {
    use wire::manifest_place::Place;
    match required("manifest", place.and_then(|place| place.place))? {
        Place::Inline(bytes) => {
            at_most("inline manifest", bytes.len(), MANIFEST_INLINE_BYTES_MAX)?;
            // Copied, so that a record kept for long does not hold the whole message it came in.
            Ok(ManifestPlace::Inline(Bytes::copy_from_slice(&bytes)))
        }
        Place::Segments(list) => {
            at_most("manifest segments", list.digests.len(), BATCH_SEGMENTS_MAX)?;
            if list.digests.is_empty() {
                return Err(ConvertError::Missing { field: "manifest segments" });
            }
            let read = |bytes: &Bytes| digest_from_wire("manifest segment digest", bytes);
            Ok(ManifestPlace::Segments(list.digests.iter().map(read).collect::<Result<_, _>>()?))
        }
    }
}

pub fn sealed_part_to_wire(part: &SealedPart) -> wire::SealedPart {
    wire::SealedPart {
        manifest: Some(manifest_place_to_wire(&part.manifest)),
        set_digest: Bytes::copy_from_slice(&part.set_digest),
        bytes: part.bytes,
        files: part.files,
    }
}

pub fn sealed_part_from_wire(part: wire::SealedPart) -> Result<SealedPart, ConvertError> {
    Ok(SealedPart {
        manifest: manifest_place_from_wire(part.manifest)?,
        set_digest: fixed("set digest", &part.set_digest)?,
        bytes: part.bytes,
        files: part.files,
    })
}
