//! Waiting until a checkpoint is there. Built on a watch: it hears of it at once, from any node.

use std::ops::ControlFlow;

use cairn_types::command::Refusal;
use cairn_types::ids::Address;
use cairn_types::model::CheckpointInfo;
use futures::StreamExt;

use crate::cluster::Client;
use crate::error::ClientError;
use crate::watch::{WatchOptions, Watched};

impl Client {
    /// Waits until the checkpoint that a step or a ref names is committed; with `full`, until all R
    /// replicas of it are durable. Waits without end: the caller sets the time limit. `missing` is
    /// called with the committed checkpoint that is not full yet, and with `None` while there is none.
    pub async fn wait_for(
        &self,
        address: &Address,
        full: bool,
        mut missing: impl FnMut(Option<&CheckpointInfo>) + Send,
    ) -> Result<CheckpointInfo, ClientError> {
        loop {
            let prefix = Some(address.namespace.clone());
            let mut watch = self.watch(WatchOptions { prefix, from: None });
            // A node that comes back makes replicas count without an event: each heartbeat is a
            // reason to look, too.
            while let Some(told) = watch.next().await {
                match told {
                    Ok(Watched::Seam(_) | Watched::Event(_) | Watched::Cursor(_)) => {
                        let looked = self.look(address, full, &mut missing).await?;
                        if let ControlFlow::Break(info) = looked {
                            return Ok(info);
                        }
                    }
                    Ok(_) => {}
                    Err(ClientError::Refused(
                        Refusal::CursorTooOld { .. } | Refusal::WatcherTooSlow,
                    )) => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn look(
        &self,
        address: &Address,
        full: bool,
        missing: &mut (impl FnMut(Option<&CheckpointInfo>) + Send),
    ) -> Result<ControlFlow<CheckpointInfo>, ClientError> {
        let info = match self.resolve(address).await {
            Ok(info) => info,
            Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => {
                missing(None);
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error),
        };
        if let Some(quarantine) = &info.quarantine {
            let (checkpoint, reason) = (info.id, quarantine.reason.clone());
            return Err(ClientError::Refused(Refusal::Quarantined { checkpoint, reason }));
        }
        let durability = &info.durability;
        let is_full =
            durability.segments_below == 0 && durability.replicas_min >= durability.replicas_wanted;
        if !full || is_full {
            return Ok(ControlFlow::Break(info));
        }
        missing(Some(&info));
        Ok(ControlFlow::Continue(()))
    }
}
