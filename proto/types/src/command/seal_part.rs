//! `SealPart`: seals a part; sealing the last one commits the checkpoint.

use bytes::Bytes;

#[cfg(test)]
use super::drawn::{Draw, Drawn};
use super::{OPEN_ENDED_LEVEL, OnWire};
use crate::convert::{
    ConvertError, at_most, fixed, manifest_place_from_wire, manifest_place_to_wire,
};
use crate::ids::{Attempt, CheckpointId, Run};
use crate::limits::BATCH_SEGMENTS_MAX;
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
    /// Which sealed parts of this attempt the leader has compared this one with; it fills this in.
    /// Their number, as parts are never unsealed. In an open-ended upload, where they are voided and
    /// dropped, a number that rises with each change of them.
    pub compared: u32,
    /// Of an open-ended upload: sealed parts that this one takes the place of, ascending. Each of
    /// their files is in this part again. The leader fills this in.
    pub voids: Vec<u32>,
}

impl OnWire for SealPart {
    type Message = wire::SealPart;

    fn to_wire(&self) -> Self::Message {
        let Self { checkpoint, attempt, part, run, manifest, set_digest, bytes, files, .. } = self;
        wire::SealPart {
            checkpoint: checkpoint.0,
            attempt: attempt.0,
            part: *part,
            run: run.0,
            manifest: Some(manifest_place_to_wire(manifest)),
            set_digest: Bytes::copy_from_slice(set_digest),
            bytes: *bytes,
            files: *files,
            compared: self.compared,
            voids: self.voids.clone(),
        }
    }

    /// Earlier builds do not know voided parts.
    fn feature_level(&self, in_table: u32) -> u32 {
        if self.voids.is_empty() { in_table } else { in_table.max(OPEN_ENDED_LEVEL) }
    }

    fn from_wire(seal: Self::Message) -> Result<Self, ConvertError> {
        at_most("voided parts", seal.voids.len(), BATCH_SEGMENTS_MAX)?;
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
            voids: seal.voids,
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
            voids: draw.list(Draw::u32),
        }
    }
}
