//! `SealPart`: seals a part; sealing the last one commits the checkpoint.

use bytes::Bytes;

use super::OnWire;
#[cfg(test)]
use super::drawn::{Draw, Drawn};
use crate::convert::{ConvertError, fixed, manifest_place_from_wire, manifest_place_to_wire};
use crate::ids::{Attempt, CheckpointId, Run};
use crate::model::ManifestPlace;
use crate::wire;

/// The part's manifest was not read. Apply never seals such a part: no upload has so many.
pub const NOT_COMPARED: u32 = u32::MAX;

/// Seals a part; sealing the last one commits the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealPart {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    pub part: u32,
    pub run: Run,
    pub manifest: ManifestPlace,
    pub set_digest: [u8; 32],
    pub bytes: u64,
    pub files: u64,
    /// How many sealed parts of this attempt the leader has compared this one with; it fills
    /// this in. Parts of an attempt are never unsealed, so the number names them.
    pub compared: u32,
}

impl OnWire for SealPart {
    type Message = wire::SealPart;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, attempt, part, run, manifest, set_digest, bytes, files, compared } =
            self;
        wire::SealPart {
            checkpoint: checkpoint.0,
            attempt: attempt.0,
            part: *part,
            run: run.0,
            manifest: Some(manifest_place_to_wire(manifest)),
            set_digest: Bytes::copy_from_slice(set_digest),
            bytes: *bytes,
            files: *files,
            compared: *compared,
        }
    }

    fn from_wire(seal: Self::Message) -> Result<Self, ConvertError> {
        Ok(Self {
            checkpoint: CheckpointId(seal.checkpoint),
            attempt: Attempt(seal.attempt),
            part: seal.part,
            run: Run(seal.run),
            manifest: manifest_place_from_wire(seal.manifest)?,
            set_digest: fixed("set digest", &seal.set_digest)?,
            bytes: seal.bytes,
            files: seal.files,
            compared: seal.compared,
        })
    }
}

#[cfg(test)]
impl Drawn for SealPart {
    fn drawn(draw: &mut Draw) -> Self {
        let checkpoint = CheckpointId(draw.u64());
        let attempt = Attempt(draw.u64());
        let run = Run(draw.u64());
        let part = draw.u32();
        Self {
            checkpoint,
            attempt,
            part,
            run,
            manifest: draw.place(),
            set_digest: draw.digest().0,
            bytes: draw.u64(),
            files: draw.u64(),
            compared: draw.u32(),
        }
    }
}
