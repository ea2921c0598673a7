//! Bits that rot in what consensus keeps on a disk: its log and its snapshot.

use std::time::Duration;

use cairn_types::ids::NodeId;
use tokio::time::Instant;

use super::{AIM_LOOK, EXCUSED_FOR, Faults, Later, Strike};
use crate::checkers::d2_log::{LOG, SNAPSHOTS, read_log};
use crate::cluster::{Cluster, End};
use crate::disk::{Crash, SimDisk};
use crate::process::ProcessId;
use crate::trace;

/// A node that finds its log damaged says so within this, whatever else is slow or fails.
const SAYS_WITHIN: Duration = Duration::from_secs(30);
/// Most of the log's file is of no use; until a bit is hit that is.
const TRIES: u32 = 16;
/// So often it is the snapshot.
const SNAPSHOT: f64 = 0.4;

/// What flipped, and what a node that starts on it must do.
enum Rotten {
    /// Its records cannot be read: it must not run.
    Log,
    /// It may do without, as long as the log reaches back far enough.
    Snapshot,
}

impl Faults {
    /// The fragile node dies, and before it comes back a bit of its log or snapshot flips. If it
    /// cannot run on what is left the operator replaces it, and its disk counts as the one that
    /// was lost.
    pub(super) async fn rot_log(&mut self, mut strike: Strike) {
        let Some((node, disk)) = self.fragile_disk() else { return };
        let Some(id) = self.cluster.id_of(node) else { return };
        if self.operator.has_lost_a_disk() || disk.is_stuck() {
            return;
        }
        let how = if strike.chance.chance(0.5) { Crash::Kill } else { Crash::Power };
        self.cluster.crash(node, how);
        self.checkers.crashed(node);
        let Some((rotten, what)) = flip(&mut strike, &disk) else {
            // Still a crash, and to be found among the faults.
            strike.says(format_args!("{}: nothing that it would meet", disk.name));
            self.after(&mut strike, 6_000, Later::Start(node));
            return;
        };
        strike.says(format_args!("{}: {what}", disk.name));
        let began = Instant::now();
        self.start_on(&mut strike, (node, id), rotten).await;
        self.held += began.elapsed();
    }

    async fn start_on(
        &mut self,
        strike: &mut Strike,
        (node, id): (ProcessId, NodeId),
        rotten: Rotten,
    ) {
        let end = Instant::now() + self.plan.paced(SAYS_WITHIN);
        self.later.retain(|(_, what)| !matches!(what, Later::Start(it) if *it == node));
        self.cluster.excuse_until(node, end + EXCUSED_FOR);
        self.cluster.start_node(node);
        let world = self.cluster.world().clone();
        let name = self.cluster.name(node);
        let is_refused =
            |cluster: &Cluster| !world.is_up(node) && cluster.end(node) == Some(End::Refused);
        // One that ends for another reason is started again.
        while self.cluster.running_node(node).is_none()
            && !is_refused(&self.cluster)
            && Instant::now() < end
        {
            self.wait_until(Instant::now() + AIM_LOOK).await;
        }
        if is_refused(&self.cluster) {
            trace::count("checked.rotten_logs_refused", 1);
            self.later.retain(|(_, what)| !matches!(what, Later::Start(it) if *it == node));
            self.lose_disk(strike, node, id);
        } else if self.cluster.running_node(node).is_none() {
            world.violation(
                "identity",
                format!("{name} neither runs on what has rotted nor says so"),
            );
        } else if matches!(rotten, Rotten::Log) {
            world.violation("D2", format!("{name} runs on a log with a rotten bit"));
        }
    }
}

/// Flips a bit that a node may meet, and says which.
fn flip(strike: &mut Strike, disk: &SimDisk) -> Option<(Rotten, String)> {
    let paths = disk.paths();
    let is_snapshot = |path: &&String| path.starts_with(SNAPSHOTS) && path.ends_with(".snap");
    let snapshot = paths.iter().rev().find(is_snapshot);
    if let Some(path) = snapshot
        && strike.chance.chance(SNAPSHOT)
    {
        let (at, bit) = flip_one(strike, disk, path)?;
        return Some((Rotten::Snapshot, format!("{path} byte {at} bit {bit}")));
    }
    read_log(disk).ok()?;
    for _ in 0..TRIES {
        let (at, bit) = flip_one(strike, disk, LOG)?;
        // One that takes back the last transaction is what `old_disk` is about; others are in
        // pages that nobody reads.
        match read_log(disk) {
            Err(why) => return Some((Rotten::Log, format!("byte {at} bit {bit}: {why}"))),
            Ok(_) => drop(disk.flip_bit(LOG, at, bit)),
        }
    }
    None
}

fn flip_one(strike: &mut Strike, disk: &SimDisk, path: &str) -> Option<(u64, u8)> {
    let len = disk.peek(path).map_or(0, |bytes| bytes.len() as u64);
    let (at, bit) = (strike.chance.below(len), strike.chance.below(8) as u8);
    disk.flip_bit(path, at, bit).then_some((at, bit))
}
