//! The catalogue as openraft's state machine: decode, apply, snapshot, restore.

use std::sync::Arc;

use cairn_core::catalogue::Catalogue;
use cairn_core::command::Reply;
use cairn_proto::{convert, snapshot};

use crate::raft::{CatalogueMachine, Encode};

/// The applied catalogue. Writers: the state machine worker only.
#[derive(Default)]
pub struct CatalogueState {
    pub catalogue: Catalogue,
}

impl CatalogueMachine for CatalogueState {
    fn apply(&mut self, index: u64, command: &[u8]) -> Result<Reply, String> {
        let command = convert::decode_command(command)
            .map_err(|error| format!("log entry {index} cannot be applied: {error}"))?;
        Ok(self.catalogue.apply(index, &command))
    }

    fn snapshot(&self) -> Encode {
        let catalogue = self.catalogue.clone();
        Arc::new(move || snapshot::encode(&catalogue))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.catalogue = snapshot::decode(bytes).map_err(|error| error.to_string())?;
        Ok(())
    }
}
