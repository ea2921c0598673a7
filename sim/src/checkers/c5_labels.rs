//! C5: a commit's label is not further ahead of the voters' median wall clock than the product's
//! limit. `invariants::check` checks that labels never decrease from commit to commit.
//!
//! A leader takes the median of the clocks it has heard, which are at least a majority. So the
//! label may be as late as the median of the majority with the latest clocks. If one clock of three
//! or five is wrong, that median is still a right voter's clock.

use std::time::Duration;

use cairn_core::catalogue::Catalogue;
use cairn_node::clock::WALL_AHEAD_MAX_MS;
use cairn_types::ids::NodeId;

use crate::cluster::{Cluster, Running};
use crate::trace;

/// Longest time between a label and the apply of its entry, and longest age of the clock readings
/// for it, at the usual pace.
pub const LABEL_WINDOW: Duration = Duration::from_secs(20);
/// The leader assumes that an answer travelled for half of the round trip.
const MEASURED_MS: u64 = 1_000;

#[derive(Default)]
pub struct Checker {
    reports: u32,
    /// The last entry checked. A node that starts again applies old entries again, long after the
    /// clocks that labelled them.
    newest: u64,
}

impl Checker {
    /// Call this right after `node` has changed `before` to `after` by the entry at `index`.
    pub fn entry(
        &mut self,
        cluster: &Cluster,
        node: &Running,
        index: u64,
        before: &Catalogue,
        after: &Catalogue,
    ) {
        if index <= self.newest {
            return;
        }
        self.newest = index;
        for (namespace, record) in after.namespaces() {
            let known_ms = before.namespace(namespace).map_or(0, |record| record.last_wall_ms);
            // Otherwise the entry's commit, if it is one, has the label of the previous commit.
            if record.last_wall_ms <= known_ms {
                continue;
            }
            trace::count("checked.labels", 1);
            let Some(latest_ms) = latest_ms(cluster, node) else { continue };
            let ahead_ms = record.last_wall_ms.saturating_sub(latest_ms);
            let bound_ms = WALL_AHEAD_MAX_MS.unsigned_abs() + MEASURED_MS;
            if ahead_ms > bound_ms && self.reports < super::REPORTS_MAX {
                self.reports += 1;
                let text = format!(
                    "entry {index} labels {namespace} {ahead_ms} ms ahead of the voters' median"
                );
                cluster.world().violation("C5", text);
            }
        }
    }
}

/// The latest median that a leader can have seen. `None` if a voter's clock is not known, because
/// the voter may have been on another host when the label was made.
fn latest_ms(cluster: &Cluster, node: &Running) -> Option<u64> {
    let window = LABEL_WINDOW * cluster.pace();
    if cluster.exchanged_within(window) {
        return None;
    }
    let voters = node.shared.member.consensus.voters();
    let clocks = voters.keys().map(|id| {
        let clock = cluster.world().clock(cluster.process_of(NodeId(*id))?)?;
        Some(clock.latest_within_ms(window))
    });
    latest_median(clocks.collect::<Option<Vec<u64>>>()?)
}

/// The latest median of any majority. For an even number the earlier of the two middle clocks is
/// the median.
fn latest_median(mut clocks: Vec<u64>) -> Option<u64> {
    clocks.sort_unstable();
    let all = clocks.len();
    let majorities = all / 2 + 1..=all;
    let places = majorities.map(|size| all - size + (size.max(1) - 1) / 2);
    places.max().and_then(|place| clocks.get(place).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_latest_majority_is_a_right_clock_if_one_is_wrong() {
        assert_eq!(latest_median(vec![]), None);
        assert_eq!(latest_median(vec![7]), Some(7));
        assert_eq!(latest_median(vec![900, 7]), Some(7));
        assert_eq!(latest_median(vec![900, 7, 8]), Some(8));
        assert_eq!(latest_median(vec![1, 7, 8]), Some(7));
        assert_eq!(latest_median(vec![5, 6, 7, 8, 900]), Some(8));
    }
}
