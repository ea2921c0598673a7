//! D2 at the seam of consensus: a vote and a log index that were flushed, and so perhaps
//! acknowledged, before a crash are on the disk after it. The durable file is read with the real
//! log store.

use cairn_node::disk::{Disk, Open};
use cairn_node::raft::{LogSummary, inspect_log};

use crate::cluster::Cluster;
use crate::disk::SimDisk;
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;

const LOG: &str = "raft.redb";

#[derive(Default)]
pub struct Checker;

impl Checker {
    pub fn look(&mut self, cluster: &Cluster, process: ProcessId) {
        let Some(before) = cluster.take_acknowledged(process) else { return };
        let Some(disk) = cluster.disk(process) else { return };
        trace::count("checked.logs_after_crash", 1);
        let after = match disk.peek(LOG) {
            Some(bytes) => inspect(&bytes),
            None => Err("the log is gone".to_owned()),
        };
        let text = match after {
            Ok(after) if keeps(&before, &after) => return,
            Ok(after) => format!("{after:?}"),
            Err(text) => text,
        };
        let text = format!("{} had {before:?} before the crash, after it: {text}", disk.name);
        cluster.world().violation("D2", text);
    }
}

/// A vote never goes back, nor do the entries of its own term. Older ones may have been cut by the
/// job that the crash found in flight.
fn keeps(before: &LogSummary, after: &LogSummary) -> bool {
    after.vote_term >= before.vote_term
        && before
            .promise
            .is_none_or(|promised| after.promise.is_some_and(|held| !held.is_behind(&promised)))
}

fn inspect(bytes: &[u8]) -> Result<LogSummary, String> {
    let disk = SimDisk::new("look", 0, &Stream::new(0)).mount();
    let write = || -> std::io::Result<()> {
        let file = disk.open(LOG, Open::Create)?;
        file.write_at(0, bytes)?;
        file.sync()
    };
    write().map_err(|error| error.to_string())?;
    inspect_log(&disk).map_err(|error| error.to_string())
}
