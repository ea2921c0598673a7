//! The named promises (DESIGN section 9), checked from outside while a cluster runs and once more
//! when it has settled. Each checker has one file. It looks at the cluster and reports broken
//! promises to the world.

pub mod c1_history;
mod c2_catalogue;
mod c3_digests;
pub mod c5_labels;
pub mod c5_watch;
mod d1_replicas;
pub mod d2_log;
mod d3_files;
mod graces;
pub mod linearizable;
pub mod marks;
mod steps;
mod t2_audit;
mod time;

pub use d1_replicas::{footer_of, path_of};

use std::sync::Arc;
use std::time::Duration;

use cairn_types::ids::SegmentDigest;
use parking_lot::Mutex;

use self::c5_watch::Watches;
use self::marks::Marks;
use crate::applied;
use crate::cluster::Cluster;
use crate::process::{Life, ProcessId};
use crate::witness;

/// How often running nodes are compared, at the usual pace.
const PERIOD: Duration = Duration::from_millis(50);
/// Number of looks between two that check every file.
const FILES_EVERY: u64 = 20;
/// A checker stops reporting after this many reports.
const REPORTS_MAX: u32 = 5;

/// All checkers of one cluster.
#[derive(Clone)]
pub struct Checkers {
    cluster: Cluster,
    all: Arc<Mutex<All>>,
    marks: Marks,
    watches: Watches,
}

#[derive(Default)]
struct All {
    c2: c2_catalogue::Checker,
    c3: c3_digests::Checker,
    c5: c5_labels::Checker,
    d1: d1_replicas::Checker,
    d2: d2_log::Checker,
    d3: d3_files::Checker,
    graces: graces::Checker,
    steps: steps::Checker,
    time: time::Checker,
}

impl Checkers {
    /// Looks at the cluster from now on, until the run ends.
    pub fn watch(cluster: &Cluster) -> Self {
        let (all, marks, watches) = (Arc::default(), Marks::default(), Watches::default());
        let checkers = Self { cluster: cluster.clone(), all, marks, watches };
        let watching = checkers.clone();
        #[allow(clippy::disallowed_methods, reason = "belongs to the run, not to a process")]
        tokio::spawn(async move {
            let (mut looks, period) = (0, PERIOD * watching.cluster.pace());
            loop {
                tokio::time::sleep(period).await;
                looks += 1;
                watching.look(looks % FILES_EVERY == 0);
            }
        });
        let watching = checkers.clone();
        applied::listen(move |index| watching.applied(index));
        checkers
    }

    /// Clients record their answers about refs, holds and quarantine here.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// What watchers are told is compared with this.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// The running task has just applied this entry.
    fn applied(&self, index: u64) {
        let Some(life) = Life::current() else { return };
        // A node that starts catches up without checks.
        let node = self.cluster.running_node(life.process);
        let Some(node) = node.filter(|node| node.life() == life.number) else { return };
        let mut all = self.all.lock();
        let All { steps, d1, c3, c5, graces, time, .. } = &mut *all;
        if let Some((before, after)) = steps.look(&self.cluster, &node, index) {
            c5.entry(&self.cluster, &node, index, &before, after);
            d1.entry(&self.cluster, index, &before, after);
            graces.entry(&self.cluster, index, &before, after);
            time.entry(&self.cluster, index, &before, after);
            self.marks.entry(&self.cluster, index, &before, after);
        }
        self.watches.entry(index, || node.catalogue());
        c3.entry(&self.cluster, &node, index);
    }

    fn look(&self, files: bool) {
        let mut all = self.all.lock();
        let cluster = &self.cluster;
        cluster.note_stored();
        for (name, text) in witness::take_broken() {
            cluster.world().violation(name, text);
        }
        all.c3.look(cluster);
        all.c2.look(cluster);
        all.d3.look(cluster);
        if files {
            all.d1.look(cluster);
        }
    }

    /// Call this between the crash of a node and its start.
    pub fn crashed(&self, process: ProcessId) {
        let mut all = self.all.lock();
        all.d2.look(&self.cluster, process);
        all.d1.ended(&self.cluster, process);
        all.d3.forget(process);
        all.d1.look(&self.cluster);
    }

    /// Two nodes that are down have exchanged their disks. Call this after
    /// [`crashed`](Self::crashed).
    pub fn exchanged(&self, one: ProcessId, other: ProcessId) {
        let mut all = self.all.lock();
        all.d1.exchanged(one, other);
        all.d3.exchanged(one, other);
    }

    /// The file of a segment on this node was damaged on purpose.
    pub fn hurt(&self, process: ProcessId, digest: SegmentDigest) {
        let disk = self.cluster.disk(process);
        let Some(file) = disk.and_then(|disk| disk.file_id(&path_of(digest))) else { return };
        self.all.lock().d1.hurt(process, digest, file);
    }

    /// The file of a segment on this node is about to be removed on purpose.
    pub fn vanished(&self, process: ProcessId, digest: SegmentDigest) {
        let mut all = self.all.lock();
        all.d1.vanished(process, digest);
        all.d3.vanished(process, digest);
    }

    /// Reads on this node fail on purpose, so it may take good files for bad ones.
    pub fn distrust(&self, process: ProcessId) {
        self.all.lock().d1.distrust(process);
    }

    /// The last look at a settled cluster: no fault excuses a bad file, and every byte is checked.
    pub async fn finish(&self) {
        t2_audit::finish(&self.cluster).await;
        let mut all = self.all.lock();
        all.c3.look(&self.cluster);
        all.c2.look(&self.cluster);
        all.d3.look(&self.cluster);
        all.d1.start_over();
        all.d1.look(&self.cluster);
    }
}
