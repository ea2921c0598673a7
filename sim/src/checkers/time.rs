//! Cluster time never runs ahead of the real time that has passed, counted by the fastest clock of
//! the cluster. No upload expires before lease and grace have passed since its client was last told
//! that the upload continues. The answers on the wire show this, not the catalogue.

use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_types::model::DeletedFor;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::monotonic::counted;
use crate::trace;
use crate::witness;

/// Time between the proposal of one entry and the apply of the first one.
const SLACK_MS: u64 = 1_000;

/// Cluster time when it was first seen, and the most that may have been added since.
struct Base {
    clock_ms: u64,
    most: Duration,
    looked: Instant,
    /// The rate of the fastest clock at the last look.
    rate: u64,
}

impl Base {
    /// The highest value that cluster time may have reached since it was first seen, ms.
    fn most_ms(&mut self, rate: u64) -> u64 {
        let now = Instant::now();
        // The rate changed in between, at an unknown time.
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
    /// Call this with the catalogues before and after the entry at `index`.
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

    /// A lease runs from the last moment in which its client was told that its upload continues.
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
