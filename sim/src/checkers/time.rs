//! Cluster time, as every node's own clock sees it: it never runs ahead of the time that has really
//! passed, counted by the fastest clock of the cluster, and no upload expires before lease and grace are over since its client was last told
//! that it goes on. The wire says what clients were told, not the catalogue.

use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_types::model::DeletedFor;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::monotonic::counted;
use crate::trace;
use crate::witness;

/// Between the proposal of one entry and the moment in which the first one was applied.
const SLACK_MS: u64 = 1_000;

/// Cluster time when it was first seen, and what may have been added since.
struct Base {
    clock_ms: u64,
    most: Duration,
    looked: Instant,
    /// Of the fastest clock, when it was looked.
    rate: u64,
}

impl Base {
    /// The most that cluster time may have come to since it was first seen, ms.
    fn most_ms(&mut self, rate: u64) -> u64 {
        let now = Instant::now();
        // It changed in between, nobody knows when.
        self.most += counted(now.duration_since(self.looked), rate.max(self.rate));
        (self.looked, self.rate) = (now, rate);
        self.most.as_millis() as u64
    }
}

#[derive(Default)]
pub struct Checker {
    base: Option<Base>,
    reports: u32,
}

impl Checker {
    /// To be called with what the entry at `index` made of the catalogue.
    pub fn entry(&mut self, cluster: &Cluster, index: u64, before: &Catalogue, after: &Catalogue) {
        let (rate, clock_ms) = (cluster.world().fastest_rate(), after.cluster().clock_ms);
        let base = self.base.get_or_insert_with(|| Base {
            clock_ms,
            most: Duration::ZERO,
            looked: Instant::now(),
            rate,
        });
        let (gone_ms, most_ms) = (clock_ms.saturating_sub(base.clock_ms), base.most_ms(rate));
        if gone_ms > most_ms + SLACK_MS {
            let text = format!("entry {index}: {gone_ms} ms of cluster time in {most_ms} ms");
            self.report(cluster, "time", text);
        }
        self.leases(cluster, index, after);
        for old in before.open_uploads() {
            let new = after.checkpoint(old.id);
            let expired = new.is_some_and(|new| new.deleted_for == Some(DeletedFor::Expired));
            let renewed_ms = witness::renewed_ms(old.id, old.attempt).filter(|_| expired);
            let Some(renewed_ms) = renewed_ms else { continue };
            trace::count("checked.leases", 1);
            let settings = &before.cluster().settings;
            let until_ms = renewed_ms.saturating_add(settings.lease_ms + settings.grace_ms);
            if clock_ms < until_ms {
                let text = format!(
                    "entry {index} at {clock_ms} ms gave up upload {} whose client was told at \
                     {renewed_ms} ms that it goes on",
                    old.id
                );
                self.report(cluster, "lease", text);
            }
        }
    }

    /// A lease runs from the last moment in which its client was told that its upload goes on.
    fn leases(&mut self, cluster: &Cluster, index: u64, after: &Catalogue) {
        let lease_ms = after.cluster().settings.lease_ms;
        for record in after.open_uploads() {
            let Some(renewed_ms) = witness::renewed_ms(record.id, record.attempt) else { continue };
            let until_ms = record.open.as_ref().map_or(0, |upload| upload.lease_until_ms);
            if until_ms < renewed_ms.saturating_add(lease_ms) {
                let text = format!(
                    "at entry {index} upload {} has a lease until {until_ms} ms, its client was told \
                     at {renewed_ms} ms that it goes on",
                    record.id
                );
                self.report(cluster, "lease", text);
            }
        }
    }

    fn report(&mut self, cluster: &Cluster, name: &'static str, text: String) {
        if self.reports < super::REPORTS_MAX {
            self.reports += 1;
            cluster.world().violation(name, text);
        }
    }
}
