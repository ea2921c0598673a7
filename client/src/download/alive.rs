//! Whether a checkpoint that is being read still exists.

use cairn_types::command::Refusal;
use cairn_types::ids::{Address, CheckpointId, Selector};
use cairn_types::model::CheckpointInfo;

use crate::cluster::Client;
use crate::error::ClientError;

/// A checkpoint that is being read. It may be deleted during the read. A reader that finds no
/// replica of a segment checks this.
#[derive(Debug, Clone)]
pub(super) struct Alive {
    address: Address,
    id: CheckpointId,
}

impl Alive {
    pub fn of(info: &CheckpointInfo) -> Self {
        let selector = Selector::Step(info.step);
        Self { address: Address { namespace: info.namespace.clone(), selector }, id: info.id }
    }

    /// Returns an error if the checkpoint was deleted or replaced. Also learns the nodes'
    /// addresses.
    pub async fn check(&self, client: &Client) -> Result<(), ClientError> {
        match client.resolve(&self.address).await {
            Ok(info) if info.id == self.id => Ok(()),
            Ok(_)
            | Err(ClientError::Refused(
                Refusal::NoSuchCheckpoint { .. } | Refusal::UnknownCheckpoint(_),
            )) => Err(ClientError::Deleted { address: self.address.to_string() }),
            Err(error) => Err(error),
        }
    }
}
