//! D3: a segment that lost its last reference is not reaped before its grace ends, unless a
//! deletion with `now` released it. The grace is computed here from the references themselves, not
//! from the times stored in the catalogue. For a checkpoint in the trash it began with the
//! deletion.

use std::collections::BTreeMap;

use cairn_core::catalogue::{Catalogue, Checkpoint};
use cairn_types::ids::SegmentId;

use crate::cluster::Cluster;
use crate::trace;

#[derive(Default)]
pub struct Checker {
    /// Cluster time at which the grace of each segment without a reference began. None of these was
    /// released by a deletion with `now` since then.
    since_ms: BTreeMap<SegmentId, u64>,
    last: u64,
    reports: u32,
}

impl Checker {
    /// Call this with the catalogues before and after the entry at `index`, in order of entries.
    pub fn entry(&mut self, cluster: &Cluster, index: u64, before: &Catalogue, after: &Catalogue) {
        // The effects of the entries in between were not observed.
        if self.last + 1 != index {
            self.since_ms.clear();
        }
        self.last = index;
        let clock_ms = after.cluster().clock_ms;
        let grace_ms = before.cluster().settings.grace_ms;
        let count = |of: &Catalogue, id| of.checkpoint(id).map_or(0, |it| it.reference_count());
        let dropping = before.checkpoints().filter(|it| count(after, it.id) < it.reference_count());
        let dropping: Vec<_> = dropping.cloned().collect();
        for old in before.segments().iter() {
            let new = after.segment(old.id);
            if old.is_referenced() && new.is_none_or(|new| !new.is_referenced()) {
                let holders = dropping.iter().filter(|it| it.references().any(|id| id == old.id));
                let began = |it: &Checkpoint| {
                    it.deleted_at_ms.filter(|_| it.commit.is_some()).unwrap_or(clock_ms)
                };
                let since_ms = holders.map(|it| began(it)).max().unwrap_or(clock_ms);
                self.since_ms.insert(old.id, since_ms);
            }
        }
        for record in before.checkpoints().chain(after.checkpoints()).filter(|it| it.now) {
            for id in record.references().chain(record.dropped.iter()) {
                self.since_ms.remove(&id);
            }
        }
        let mut early = None;
        self.since_ms.retain(|id, since_ms| {
            let segment = after.segment(*id);
            if segment.is_some_and(|it| it.is_referenced()) {
                return false;
            }
            let is_reaped = segment.is_none_or(|segment| segment.reaped);
            trace::count("checked.graces", is_reaped.into());
            if is_reaped && clock_ms < since_ms.saturating_add(grace_ms) {
                early = Some((*id, clock_ms - *since_ms));
            }
            !is_reaped
        });
        if let Some((id, after_ms)) = early
            && self.reports < super::REPORTS_MAX
        {
            self.reports += 1;
            let text = format!(
                "entry {index} reaped segment {id} {after_ms} ms after its last reference, its \
                 grace is {grace_ms} ms"
            );
            cluster.world().violation("D3", text);
        }
    }
}
