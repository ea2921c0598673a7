//! Whether a checkpoint that is being read still is there.

use cairn_types::command::Refusal;
use cairn_types::ids::{Address, CheckpointId, Selector};
use cairn_types::model::CheckpointInfo;

use crate::cluster::Client;
use crate::error::ClientError;

/// A checkpoint under a reader. Nothing keeps it from deletion; a reader that finds a segment
/// nowhere asks here why.
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

    /// An error if the checkpoint was deleted or replaced. Learns where nodes are, too.
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
