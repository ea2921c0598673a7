//! Removals and changes of voters in progress. The two exclude each other for one node: a removed
//! node that becomes a voter is down for good, and its vote may be needed for every later change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cairn_types::ids::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Time limit for moving a vote: a membership change takes two entries and a majority that answers.
/// A vote that has not moved by then stays.
pub const MOVE_DEADLINE: Duration = Duration::from_secs(20);

/// Nodes whose vote is to be moved, and nodes that are becoming voters. Soft state: it ends with
/// this process.
#[derive(Debug, Default)]
pub struct Leaving(Mutex<Moves>);

#[derive(Debug, Default)]
struct Moves {
    /// The deadline for moving the vote. After it the node is a normal member again.
    leaving: BTreeMap<NodeId, Instant>,
    /// Removals that were proposed without an answer. They may still be committed until this time.
    in_doubt: BTreeMap<NodeId, Instant>,
    /// The new voters of the change in progress.
    coming: BTreeSet<NodeId>,
}

/// A change of voters in progress. The removal of a new voter waits for its end.
#[must_use]
pub struct Coming<'a>(&'a Leaving);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.0.lock().coming.clear();
    }
}

impl Leaving {
    pub fn now(&self) -> BTreeSet<NodeId> {
        self.0.lock().now()
    }

    /// Begins a change by which `newcomers` become voters, one change at a time. The error names a
    /// newcomer whose removal has begun: it must not get a vote.
    pub fn begin_change(&self, newcomers: BTreeSet<NodeId>) -> Result<Coming<'_>, NodeId> {
        let mut moves = self.0.lock();
        if let Some(node) = moves.now().intersection(&newcomers).next() {
            return Err(*node);
        }
        moves.coming = newcomers;
        Ok(Coming(self))
    }

    pub fn is_coming(&self, node: NodeId) -> bool {
        self.0.lock().coming.contains(&node)
    }

    pub fn add(&self, node: NodeId) {
        self.0.lock().leaving.insert(node, Instant::now() + MOVE_DEADLINE);
    }

    /// This attempt proposed nothing.
    pub fn end(&self, node: NodeId) {
        self.0.lock().leaving.remove(&node);
    }

    /// A removal was proposed. Only a reply ends it. Without a reply it may still be committed, so
    /// the node gets no vote until the deadline.
    pub fn proposed<T, E>(&self, node: NodeId, reply: &Result<T, E>) {
        let mut moves = self.0.lock();
        moves.leaving.remove(&node);
        match reply {
            Ok(_) => moves.in_doubt.remove(&node),
            Err(_) => moves.in_doubt.insert(node, Instant::now() + MOVE_DEADLINE),
        };
    }
}

impl Moves {
    fn now(&mut self) -> BTreeSet<NodeId> {
        let now = Instant::now();
        self.leaving.retain(|_, until| now < *until);
        self.in_doubt.retain(|_, until| now < *until);
        self.leaving.keys().chain(self.in_doubt.keys()).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_whose_removal_has_begun_gets_no_vote() {
        let leaving = Leaving::default();
        leaving.add(NodeId(4));
        let refused = leaving.begin_change(BTreeSet::from([NodeId(4)]));
        assert_eq!(refused.err(), Some(NodeId(4)));
        let other = leaving.begin_change(BTreeSet::from([NodeId(5)]));
        assert!(other.is_ok(), "only that node");
        drop(other);
        tokio::time::sleep(MOVE_DEADLINE).await;
        let again = leaving.begin_change(BTreeSet::from([NodeId(4)]));
        assert!(again.is_ok(), "a removal that was given up ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_without_an_answer_keeps_the_node_from_a_vote() {
        let leaving = Leaving::default();
        let newcomer = || BTreeSet::from([NodeId(4)]);
        leaving.add(NodeId(4));
        leaving.proposed(NodeId(4), &Err::<(), _>("the leader changed"));
        assert_eq!(leaving.begin_change(newcomer()).err(), Some(NodeId(4)), "it may be committed");
        // A second attempt that proposes nothing gives no new information.
        leaving.add(NodeId(4));
        leaving.end(NodeId(4));
        assert_eq!(leaving.begin_change(newcomer()).err(), Some(NodeId(4)));
        tokio::time::sleep(MOVE_DEADLINE).await;
        assert!(leaving.begin_change(newcomer()).is_ok());

        leaving.proposed(NodeId(4), &Err::<(), _>("the leader changed"));
        leaving.proposed(NodeId(4), &Ok::<_, ()>("refused"));
        assert!(leaving.begin_change(newcomer()).is_ok(), "a reply ends it at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_removal_sees_the_change_that_makes_the_node_a_voter() {
        let leaving = Leaving::default();
        let change = leaving.begin_change(BTreeSet::from([NodeId(4)])).unwrap();
        leaving.add(NodeId(4));
        assert!(leaving.is_coming(NodeId(4)), "the removal waits");
        assert!(!leaving.is_coming(NodeId(5)));
        drop(change);
        assert!(!leaving.is_coming(NodeId(4)));
    }
}
