//! The expectations about nodes: the build that each starts with, whether it may end by itself, and
//! the node that the others must do without.

use cairn_types::command::FEATURE_LEVEL;
use tokio::time::Instant;

use super::{Cluster, End};
use crate::process::ProcessId;

impl Cluster {
    /// From now on it starts with a build that understands commands up to this level.
    pub fn set_feature_level(&self, process: ProcessId, level: u32) {
        self.inner.lock().levels.insert(process, level);
    }

    /// Only its next start uses a build that understands commands up to this level.
    pub fn start_older_once(&self, process: ProcessId, level: u32) {
        self.inner.lock().mistaken.insert(process, level);
    }

    /// The level of the build that this node starts with.
    pub fn feature_level(&self, process: ProcessId) -> u32 {
        self.inner.lock().levels.get(&process).copied().unwrap_or(FEATURE_LEVEL)
    }

    /// The lowest level of the builds of all nodes, whether they run or not.
    pub fn lowest_feature_level(&self) -> u32 {
        let levels = self.nodes().into_iter().map(|node| self.feature_level(node));
        levels.min().unwrap_or(FEATURE_LEVEL)
    }

    /// This is not the node's own disk, or the node is being removed. So it may stop, or may not
    /// start.
    pub fn excuse(&self, process: ProcessId) {
        self.inner.lock().excused.insert(process, None);
    }

    /// A fault is on this node's disk until that time. So it may stop, or may not start.
    pub fn excuse_until(&self, process: ProcessId, end: Instant) {
        let mut inner = self.inner.lock();
        let known = inner.excused.entry(process).or_insert(Some(end));
        *known = known.map(|known| known.max(end));
    }

    /// It has its own disk again, without a fault.
    pub fn excuse_no_more(&self, process: ProcessId) {
        self.inner.lock().excused.remove(&process);
    }

    /// All faults on disks are over.
    pub fn excuse_nobody(&self) {
        let mut inner = self.inner.lock();
        let nodes = inner.nodes.clone();
        inner.excused.retain(|process, _| !nodes.contains(process));
    }

    /// The reason of the last end of a process by itself.
    pub fn end(&self, process: ProcessId) -> Option<End> {
        self.inner.lock().ends.get(&process).copied()
    }

    /// From now on the others must do without this node. `None` means that all are needed.
    pub fn leave_out(&self, process: Option<ProcessId>) {
        self.inner.lock().left_out = process;
    }

    /// Whether the replicas on the node that is left out still count.
    pub fn count_left_out(&self, counts: bool) {
        self.inner.lock().left_out_counts = counts;
    }

    /// The nodes that must be in service.
    pub(super) fn core(&self) -> Vec<ProcessId> {
        let inner = self.inner.lock();
        inner.nodes.iter().copied().filter(|node| Some(*node) != inner.left_out).collect()
    }
}
