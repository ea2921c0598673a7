//! D2 at the consensus seam. A vote, a log index and a snapshot that were flushed before a crash,
//! and so perhaps acknowledged, are on the disk after it. Nothing else is there: no entry that was
//! never appended, and no entry whose truncation was acknowledged. The durable files are read as a
//! node reads them.

use cairn_node::disk::{Disk, Open};
use cairn_node::raft::{LogSummary, inspect_log, inspect_snapshots};

use crate::cluster::{Acknowledged, Cluster};
use crate::disk::{Mount, SimDisk};
use crate::process::ProcessId;
use crate::seed::Stream;
use crate::trace;

pub const LOG: &str = "raft.redb";
pub const SNAPSHOTS: &str = "snapshots";

#[derive(Default)]
pub struct Checker;

impl Checker {
    pub fn look(&mut self, cluster: &Cluster, process: ProcessId) {
        let Some(before) = cluster.take_acknowledged(process) else { return };
        let Some(disk) = cluster.disk(process) else { return };
        trace::count("checked.logs_after_crash", 1);
        let checked = log(&disk, &before).and_then(|()| match before.snapshot {
            Some(index) => snapshot(&disk, index),
            None => Ok(()),
        });
        if let Err(text) = checked {
            let text = format!("{} had {before:?} before the crash, after it: {text}", disk.name);
            cluster.world().violation("D2", text);
        }
    }
}

fn log(disk: &SimDisk, before: &Acknowledged) -> Result<(), String> {
    let after = read_log(disk)?;
    match keeps(before, &after) && adds_nothing(before, &after) {
        true => Ok(()),
        false => Err(format!("{after:?}")),
    }
}

/// An appended entry may exist although it was not flushed. A truncated entry may exist until the
/// truncation was flushed. A snapshot that replaced the log purges it up to its last entry.
fn adds_nothing(before: &Acknowledged, after: &LogSummary) -> bool {
    let log = before.log.last.max(before.appended);
    after.last <= log.max(before.snapshot)
}

/// The log that a node would find on a disk that no process uses.
pub fn read_log(disk: &SimDisk) -> Result<LogSummary, String> {
    let look = copy(disk, |path| path == LOG)?;
    inspect_log(&look).map_err(|error| error.to_string())
}

/// A vote never goes back. The entries of its own term and all flushed and committed entries stay.
/// Other entries may have been truncated by the job that was in flight at the crash.
fn keeps(before: &Acknowledged, after: &LogSummary) -> bool {
    after.vote_term >= before.log.vote_term
        && after.last >= before.log.last.min(Some(before.applied))
        && before
            .log
            .promise
            .is_none_or(|promised| after.promise.is_some_and(|held| !held.is_behind(&promised)))
}

/// That snapshot exists, or a newer one that replaced it.
fn snapshot(disk: &SimDisk, before: u64) -> Result<(), String> {
    trace::count("checked.snapshots_after_crash", 1);
    let look = copy(disk, |path| path.starts_with(SNAPSHOTS))?;
    let after = inspect_snapshots(&look, SNAPSHOTS).map_err(|error| error.to_string())?;
    if after >= Some(before) { Ok(()) } else { Err(format!("sound snapshots up to {after:?}")) }
}

/// Some files of a disk, copied whole to a separate disk, because reading them may change them.
pub fn copy(disk: &SimDisk, which: fn(&str) -> bool) -> Result<Mount, String> {
    let look = SimDisk::new("look", 0, &Stream::new(0)).mount();
    let write = |path: &str| -> std::io::Result<()> {
        if let Some((dir, _)) = path.rsplit_once('/') {
            look.create_dir(dir)?;
        }
        let file = look.open(path, Open::Create)?;
        file.write_at(0, &disk.peek(path).unwrap_or_default())?;
        file.sync()
    };
    for path in disk.paths().iter().filter(|path| which(path)) {
        write(path).map_err(|error| format!("copy of {path}: {error}"))?;
    }
    Ok(look)
}
