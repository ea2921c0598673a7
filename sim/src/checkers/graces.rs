//! D3: what lost its last reference is not reaped before its grace is over, unless a deletion with
//! `now` had it. Counted here from the references themselves, not from the times that the
//! catalogue keeps of it.

use std::collections::BTreeMap;

use cairn_core::catalogue::Catalogue;
use cairn_types::ids::SegmentId;

use crate::cluster::Cluster;
use crate::trace;

#[derive(Default)]
pub struct Checker {
    /// Cluster time at which each segment lost its last reference; none of these was in a deletion
    /// with `now` since.
    since_ms: BTreeMap<SegmentId, u64>,
    last: u64,
    reports: u32,
}

impl Checker {
    /// To be called with what the entry at `index` made of the catalogue, in order of entries.
    pub fn entry(&mut self, cluster: &Cluster, index: u64, before: &Catalogue, after: &Catalogue) {
        // What entries between did, nobody saw.
        if self.last + 1 != index {
            self.since_ms.clear();
        }
        self.last = index;
        let clock_ms = after.cluster().clock_ms;
        let grace_ms = before.cluster().settings.grace_ms;
        for old in before.segments().iter() {
            let new = after.segment(old.id);
            if old.is_referenced() && new.is_none_or(|new| !new.is_referenced()) {
                self.since_ms.insert(old.id, clock_ms);
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
