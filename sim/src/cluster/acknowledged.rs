//! The state that nodes had acknowledged when their processes ended. Checkers compare it with their
//! disks after that.

use cairn_node::raft::LogSummary;
use cairn_types::ids::SegmentDigest;

use super::{Cluster, Inner, Running};
use crate::checkers::path_of;
use crate::disk::SimDisk;
use crate::process::ProcessId;
use crate::witness;

/// The state that consensus on a node had flushed, and may have acknowledged, when its process
/// ended.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub log: LogSummary,
    /// The last entry of its log, flushed or not. Together with the fields above it limits the
    /// content of its disk.
    pub appended: Option<u64>,
    /// The last entry it had applied. It is committed and never truncated.
    pub applied: u64,
    /// The last entry of its snapshot.
    pub snapshot: Option<u64>,
}

impl Inner {
    pub(super) fn note_end(&mut self, running: &Running, disk: Option<&SimDisk>) {
        let said = acknowledged_by(running);
        self.acknowledged.insert(running.process, said);
        self.see(running);
        // A node that ended by itself has lost nothing by that.
        let stored = self.stored.remove(&running.process).zip(disk);
        if let Some((mut stored, disk)) = stored {
            stored.retain(|digest, file| disk.file_id(&path_of(*digest)) == Some(*file));
            self.stored.insert(running.process, stored);
        }
    }
}

impl Cluster {
    /// Remembers a node's catalogue if it is the newest.
    pub(super) fn see(&self, running: &Running) {
        self.inner.lock().see(running);
    }

    /// Stores the promises of a node that is about to end.
    pub(super) fn note_end(&self, running: &Running) {
        self.note_stored();
        let disk = self.disk(running.process);
        self.inner.lock().note_end(running, disk.as_ref());
    }

    /// Stores the files of segments whose storage was acknowledged.
    pub fn note_stored(&self) {
        for (process, digest) in witness::take_stored() {
            let file = self.disk(process).and_then(|disk| disk.file_id(&path_of(digest)));
            if let Some(file) = file {
                self.inner.lock().stored.entry(process).or_default().insert(digest, file);
            }
        }
    }

    /// The segments that the node's previous life had acknowledged to clients and held when it
    /// ended. Returned only once.
    pub fn take_stored(&self, process: ProcessId) -> Vec<SegmentDigest> {
        let stored = self.inner.lock().stored.remove(&process);
        stored.unwrap_or_default().into_keys().collect()
    }

    /// The acknowledged state of the node's previous life. Returned only once.
    pub fn take_acknowledged(&self, process: ProcessId) -> Option<Acknowledged> {
        self.inner.lock().acknowledged.remove(&process)
    }
}

fn acknowledged_by(running: &Running) -> Acknowledged {
    let status = running.shared.member.consensus.status();
    let (vote_term, last) = (status.flushed_vote_term, status.flushed_log);
    let log = LogSummary { vote_term, last, promise: status.promise };
    let applied = running.shared.member.consensus.applied();
    Acknowledged { log, appended: status.last_log, applied, snapshot: status.snapshot }
}
