//! Labels and metrics of a checkpoint that are known only after its commit.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_types::command::{Annotate, Refusal};
use cairn_types::ids::{Address, Selector};
use cairn_types::model::{CheckpointInfo, Metric};

use crate::cluster::{Answer, Client};
use crate::error::ClientError;

/// The change: first names are removed, then values are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotation {
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    /// Labels and metrics with these names are removed.
    pub remove: Vec<String>,
}

impl Client {
    /// Annotates the committed checkpoint that `address` names now. Returns its new state.
    pub fn annotate<'a>(
        &'a self,
        address: &'a Address,
        change: Annotation,
    ) -> Answer<'a, CheckpointInfo> {
        Box::pin(async move {
            let info = self.resolve(address).await?;
            let command_id = info.id;
            let Annotation { labels, metrics, remove } = change;
            let command = Annotate { checkpoint: info.id, labels, metrics, remove };
            self.execute(command.into(), Duration::ZERO).await?;
            let selector = Selector::Step(info.step);
            let now = self.resolve(&Address { namespace: info.namespace, selector }).await?;
            match now.id == command_id {
                true => Ok(now),
                // It was deleted, or replaced by another one, just after that.
                false => Err(ClientError::Refused(Refusal::UnknownCheckpoint(command_id))),
            }
        })
    }
}
