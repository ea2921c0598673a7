//! A hold's record.

use std::io;

use cairn_types::convert::{hold_from_wire, hold_to_wire, required};
use cairn_types::ids::CheckpointId;
use cairn_types::marks::Hold;
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError};
use crate::catalogue::Catalogue;

pub(super) struct Holds;

impl Stored for Holds {
    type Message = wire::SnapshotHold;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        let mut holds = catalogue.holds_after(None);
        holds.try_for_each(|(id, hold)| {
            put(wire::SnapshotHold { checkpoint: id.0, hold: Some(hold_to_wire(hold)) })
        })
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        let hold = hold_from_wire(required("hold", message.hold)?)?;
        loader.hold(CheckpointId(message.checkpoint), hold)?;
        Ok(())
    }
}

impl Loader {
    /// Call it after the checkpoints are loaded.
    pub fn hold(&mut self, checkpoint: CheckpointId, hold: Hold) -> Result<(), LoadError> {
        let is_known = self.catalogue.checkpoints.contains_key(&checkpoint);
        let key = (checkpoint, hold.owner.clone());
        if !is_known || self.catalogue.holds.insert(key, hold).is_some() {
            return Err(LoadError::Hold(checkpoint));
        }
        Ok(())
    }
}
