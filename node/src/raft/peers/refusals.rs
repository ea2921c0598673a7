//! Implausible messages: counted, and logged from time to time.
//!
//! A member that sends one sends it again until an operator acts. So each message is counted, and
//! one of each sender is logged in ten seconds. Senders name themselves. All senders whose calls
//! are refused here share one line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::said;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::counters::Counter;

/// Pause between two log lines about the same sender.
const SAY_PAUSE: Duration = Duration::from_secs(10);
/// A snapshot that a member has refused is not sent to it again for this long: it may be gigabytes.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(60);

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefusalCounts {
    /// Calls to this node that it refused.
    pub calls: u64,
    /// This node's calls that members refused.
    pub by_members: u64,
    /// Answers of members that this node rejected.
    pub answers: u64,
}

#[derive(Default)]
struct Table {
    calls: Counter,
    by_members: Counter,
    answers: Counter,
    lately: Mutex<Lately>,
}

#[derive(Default)]
struct Lately {
    /// The time of the last log line about a member. Strangers share the entry `None`.
    said: BTreeMap<Option<u64>, Instant>,
    /// The time of a member's last refusal of a snapshot of this node. If no refusal came within
    /// `SNAPSHOT_PAUSE` before it, also the digest of that snapshot.
    snapshots: BTreeMap<u64, (Option<[u8; 32]>, Instant)>,
    /// The last snapshot that arrived here and could not be restored.
    unusable: Option<([u8; 32], Instant)>,
    /// The time since which a member refuses all entries of this node.
    entries: BTreeMap<u64, Instant>,
}

/// Cheap to clone; clones share one table. Bounded by the number of members.
#[derive(Clone, Default)]
pub(in crate::raft) struct Refusals(Arc<Table>);

impl Refusals {
    /// This node refuses a call of a sender that names itself `sender`.
    pub fn call(&self, sender: u64, call: &'static str, why: &str) {
        self.0.calls.add(1);
        if self.may_say(None) {
            let why = said(why);
            tracing::warn!(sender, call, why, "refused what a member cannot have meant");
        }
    }

    /// A member refuses this node's message.
    pub fn by_member(&self, member: u64, why: &str) {
        self.0.by_members.add(1);
        if self.may_say(Some(member)) {
            let why = said(why);
            tracing::error!(member, why, "a member refuses what this node sends as impossible");
        }
    }

    /// This node rejects a member's answer.
    pub fn answer(&self, member: u64, why: &str) {
        self.0.answers.add(1);
        if self.may_say(Some(member)) {
            let why = said(why);
            tracing::warn!(member, why, "a member answers what cannot be");
        }
    }

    /// A member refuses a snapshot. Returns whether this is the first refusal within
    /// `SNAPSHOT_PAUSE`. The snapshot itself may be wrong, so a new one should be made. If the new
    /// one is refused as well, the fault is the member's.
    pub fn snapshot(&self, member: u64, digest: [u8; 32]) -> bool {
        let mut lately = self.0.lately.lock();
        let before = lately.snapshots.get(&member).filter(|(_, at)| at.elapsed() < SNAPSHOT_PAUSE);
        let is_first = before.is_none();
        let refused = is_first.then_some(digest);
        lately.snapshots.insert(member, (refused, Instant::now()));
        is_first
    }

    /// Whether this snapshot must not be sent to that member now.
    pub fn has_refused(&self, member: u64, digest: &[u8; 32]) -> bool {
        let lately = self.0.lately.lock();
        let refused = lately.snapshots.get(&member);
        refused.is_some_and(|(which, at)| {
            at.elapsed() < SNAPSHOT_PAUSE && which.is_none_or(|which| which == *digest)
        })
    }

    /// A snapshot arrived here and cannot be restored.
    pub fn unusable(&self, digest: [u8; 32]) {
        self.0.lately.lock().unusable = Some((digest, Instant::now()));
    }

    /// Whether this snapshot was unusable recently. Its sender may have missed the answer and
    /// begins again.
    pub fn is_unusable(&self, digest: &[u8; 32]) -> bool {
        let unusable = self.0.lately.lock().unusable;
        unusable.is_some_and(|(which, at)| which == *digest && at.elapsed() < SNAPSHOT_PAUSE)
    }

    /// A member has answered to entries. `refused` says whether it refused them.
    pub fn entries(&self, member: u64, refused: bool) {
        let mut lately = self.0.lately.lock();
        if refused {
            lately.entries.entry(member).or_insert_with(Instant::now);
        } else {
            lately.entries.remove(&member);
        }
    }

    /// This node does not lead. Earlier refusals of members say nothing about later ones.
    pub fn forget_entries(&self) {
        self.0.lately.lock().entries.clear();
    }

    /// Whether that member has refused this node's entries for at least `since`.
    pub fn refuses_entries(&self, member: u64, since: Duration) -> bool {
        let lately = self.0.lately.lock();
        lately.entries.get(&member).is_some_and(|at| at.elapsed() >= since)
    }

    pub fn counts(&self) -> RefusalCounts {
        RefusalCounts {
            calls: self.0.calls.get(),
            by_members: self.0.by_members.get(),
            answers: self.0.answers.get(),
        }
    }

    fn may_say(&self, of: Option<u64>) -> bool {
        let mut lately = self.0.lately.lock();
        let may = lately.said.get(&of).is_none_or(|at| at.elapsed() >= SAY_PAUSE);
        if may {
            lately.said.insert(of, Instant::now());
        }
        may
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_snapshot_is_left_alone_for_a_while_and_another_one_is_not() {
        let refusals = Refusals::default();
        assert!(refusals.snapshot(3, [1; 32]), "another one is worth making");
        refusals.unusable([2; 32]);
        assert!(refusals.has_refused(3, &[1; 32]) && refusals.is_unusable(&[2; 32]));
        assert!(!refusals.has_refused(3, &[9; 32]) && !refusals.has_refused(2, &[1; 32]));
        assert!(!refusals.is_unusable(&[1; 32]));
        tokio::time::advance(SNAPSHOT_PAUSE).await;
        assert!(!refusals.has_refused(3, &[1; 32]) && !refusals.is_unusable(&[2; 32]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_refuses_a_second_snapshot_is_sent_none_for_a_while() {
        let refusals = Refusals::default();
        assert!(refusals.snapshot(3, [1; 32]));
        assert!(!refusals.snapshot(3, [2; 32]), "none is made for it alone");
        assert!(refusals.has_refused(3, &[9; 32]), "whatever was applied since");
        assert!(!refusals.has_refused(2, &[9; 32]));
        tokio::time::advance(SNAPSHOT_PAUSE).await;
        assert!(!refusals.has_refused(3, &[9; 32]));
        assert!(refusals.snapshot(3, [9; 32]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_refuses_entries_since_the_first_that_it_took_none_of() {
        let (refusals, patience) = (Refusals::default(), Duration::from_secs(3));
        refusals.entries(2, true);
        tokio::time::advance(patience / 2).await;
        refusals.entries(2, true);
        tokio::time::advance(patience / 2).await;
        assert!(refusals.refuses_entries(2, patience));
        refusals.entries(2, false);
        refusals.entries(2, true);
        assert!(!refusals.refuses_entries(2, patience));
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_share_one_line_and_every_refusal_is_counted() {
        let refusals = Refusals::default();
        assert!(refusals.may_say(None));
        for sender in 0..1000 {
            refusals.call(sender, "vote", "it cannot be");
            assert!(!refusals.may_say(None));
        }
        assert!(refusals.may_say(Some(2)), "a member has a line of its own");
        assert_eq!(refusals.counts(), RefusalCounts { calls: 1000, ..Default::default() });
        assert_eq!(refusals.0.lately.lock().said.len(), 2, "bounded by members");
    }
}
