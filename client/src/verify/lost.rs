//! A cluster as it would be without some of its nodes, and what cannot be restored from it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_types::ids::{Address, NodeId, Selector};
use cairn_types::model::CheckpointInfo;

use crate::cluster::{Answer, Client};
use crate::download::GetOptions;
use crate::error::ClientError;
use crate::sink::MemorySink;
use crate::status::NodeInfo;

/// Files that a list of lost ones names; the search ends there.
pub(super) const LOST_FILES_MAX: usize = 1_000;
/// How long the replicas of one file are asked for it: they were asked before.
const FILE_DEADLINE: Duration = Duration::from_secs(5);

/// Nodes that are taken as lost: nothing is read from them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    pub racks: BTreeSet<String>,
    pub hosts: BTreeSet<String>,
    pub nodes: BTreeSet<NodeId>,
}

impl Lost {
    pub fn is_empty(&self) -> bool {
        self.racks.is_empty() && self.hosts.is_empty() && self.nodes.is_empty()
    }

    pub fn has(&self, node: &NodeInfo) -> bool {
        self.nodes.contains(&node.id)
            || self.racks.contains(&node.rack)
            || self.hosts.contains(&node.host)
    }
}

/// A file that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostFile {
    /// For people; the exact one is in the manifest.
    pub name: String,
    pub part: u32,
    pub bytes: u64,
    pub why: String,
}

impl Client {
    /// The same cluster as if these nodes were lost: no segment is read from them. Which nodes those
    /// are is known once this client has seen a status.
    pub fn as_if_lost(&self, lost: Lost) -> Self {
        Self { lost: Arc::new(lost), ..self.clone() }
    }

    /// The files of a checkpoint that cannot be restored now, the first thousand of them. Reads and
    /// verifies all others.
    pub fn lost_files<'a>(&'a self, info: &'a CheckpointInfo) -> Answer<'a, Vec<LostFile>> {
        Box::pin(async move {
            let mut options = (*self.options).clone();
            let deadline = options.deadline.unwrap_or(FILE_DEADLINE);
            options.deadline = Some(deadline.min(FILE_DEADLINE));
            let client = Self { options: Arc::new(options), ..self.clone() };
            let address = address(info);
            let mut lost = Vec::new();
            for (part, manifest) in client.part_manifests(info, None).await? {
                for file in manifest.files {
                    if lost.len() >= LOST_FILES_MAX {
                        return Ok(lost);
                    }
                    let wanted = file.name.clone();
                    let options = GetOptions {
                        include: Some(Box::new(move |name| name == wanted)),
                        part: Some(part),
                        verify_only: true,
                        quarantined: true,
                        ..GetOptions::default()
                    };
                    match client.get(&address, Arc::new(MemorySink::default()), options).await {
                        Ok(_) => {}
                        Err(error @ ClientError::Damaged { .. }) => lost.push(LostFile {
                            name: crate::sink::shown(&file.name),
                            part,
                            bytes: file.len,
                            why: error.to_string(),
                        }),
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(lost)
        })
    }
}

pub(super) fn address(info: &CheckpointInfo) -> Address {
    Address { namespace: info.namespace.clone(), selector: Selector::Step(info.step) }
}
