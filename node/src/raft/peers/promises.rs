//! What members have told each other they hold durable. A data directory that was set back is
//! detected with this when it starts again, even if it was set back to a moment after its last
//! registration.
//!
//! Every Raft request, and every reply to a vote or an append, carries its sender's [`Promise`]. A
//! receiver keeps it in memory and repeats it when the node says hello. An answer that is behind
//! its node's promise from before the question is rejected. It comes from a process that another
//! one has replaced, and its log is shorter than consensus knows. An answer is also rejected if it
//! denies what the node has acknowledged to the leader that asks ([`Matched`]). This covers entries
//! of older terms and entries of an installed snapshot, which no promise covers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use cairn_proto::wire;
use parking_lot::Mutex;

use crate::raft::codec;
use crate::raft::types::{LogId, Vote};

/// A durable vote, and the last durable entry of the log if it is of the vote's own term. The
/// leader of this term may still replace entries of older terms, so they are not promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    vote: Vote,
    log: Option<LogId>,
}

impl Promise {
    pub(in crate::raft) fn new(vote: Vote, last: Option<LogId>) -> Self {
        let log = last.filter(|last| last.leader_id.term == vote.leader_id.term);
        Self { vote, log }
    }

    pub(in crate::raft) fn vote(&self) -> &Vote {
        &self.vote
    }

    pub(in crate::raft) fn log(&self) -> Option<LogId> {
        self.log
    }

    /// Whether a directory that holds `self` cannot have held `promised` before.
    pub fn is_behind(&self, promised: &Self) -> bool {
        if self.vote.leader_id != promised.vote.leader_id {
            return self.vote < promised.vote;
        }
        self.vote < promised.vote || self.log < promised.log
    }

    pub fn to_wire(&self) -> wire::RaftPromise {
        wire::RaftPromise {
            vote: Some(codec::vote_to_wire(&self.vote)),
            log: codec::opt_log_id_to_wire(self.log.as_ref()),
        }
    }

    /// `None` from a peer that has promised nothing.
    pub fn from_wire(promise: Option<wire::RaftPromise>) -> Option<Self> {
        let promise = promise?;
        let vote = codec::vote_from_wire(promise.vote?);
        Some(Self::new(vote, promise.log.map(codec::log_id_from_wire)))
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vote = &self.vote.leader_id;
        write!(f, "a vote for node {} in term {}", vote.voted_for, vote.term)?;
        match &self.log {
            Some(log) => write!(f, " and its log up to entry {}", log.index),
            None => Ok(()),
        }
    }
}

/// An answer that contradicts its node's log as others know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    #[error("node {node} has promised {promised}; an older process of it answers")]
    Promised { node: u64, promised: Promise },
    #[error(
        "node {node} has acknowledged the log to entry {index}; an older process of it answers"
    )]
    Acknowledged { node: u64, index: u64 },
    #[error("{0}")]
    Directory(String),
}

/// The greatest promise of each member: a few bytes a node.
#[derive(Clone, Default)]
pub struct Promises(Arc<Mutex<BTreeMap<u64, Promise>>>);

impl Promises {
    pub(in crate::raft) fn heard(&self, from: u64, promise: Option<wire::RaftPromise>) {
        let Some(promise) = Promise::from_wire(promise) else { return };
        let mut known = self.0.lock();
        let greatest = known.entry(from).or_insert(promise);
        // Messages overtake each other. An older promise has no news.
        if greatest.is_behind(&promise) {
            *greatest = promise;
        }
    }

    /// Takes an answer of a node that had promised `before` when it was asked. Returns an error if
    /// the answer cannot come from the same log.
    pub(in crate::raft) fn answered(
        &self,
        from: u64,
        before: Option<Promise>,
        promise: Option<wire::RaftPromise>,
    ) -> Result<(), Behind> {
        if let Some(promised) = before
            && Promise::from_wire(promise).is_none_or(|now| now.is_behind(&promised))
        {
            return Err(Behind::Promised { node: from, promised });
        }
        self.heard(from, promise);
        Ok(())
    }

    pub fn of(&self, node: u64) -> Option<Promise> {
        self.0.lock().get(&node).copied()
    }
}

/// The last entry up to which each follower's log equals this node's log. The follower acknowledged
/// it to this node as the leader of one vote. Only data loss can lower it.
#[derive(Clone, Default)]
pub(in crate::raft) struct Matched(Arc<Mutex<BTreeMap<u64, (Vote, LogId)>>>);

impl Matched {
    /// The leader of `vote` learned that `node` holds its log up to `last`.
    pub(in crate::raft) fn acknowledged(&self, node: u64, vote: &Vote, last: Option<LogId>) {
        let Some(last) = last else { return };
        let mut known = self.0.lock();
        let (of, matched) = known.entry(node).or_insert((*vote, last));
        if of.leader_id == vote.leader_id {
            *matched = last.max(*matched);
        } else if *of < *vote {
            (*of, *matched) = (*vote, last);
        }
    }

    /// The leader of `vote` is told that `node` does not hold `entry`. Returns an error if it does.
    pub(in crate::raft) fn denied(
        &self,
        node: u64,
        vote: &Vote,
        entry: Option<LogId>,
    ) -> Result<(), Behind> {
        match self.0.lock().get(&node) {
            Some((of, matched)) if of.leader_id == vote.leader_id && entry <= Some(*matched) => {
                Err(Behind::Acknowledged { node, index: matched.index })
            }
            _ => Ok(()),
        }
    }
}

/// The first of `promised` that a node with this vote and last entry cannot have made.
pub(in crate::raft) fn broken(
    promised: &[Promise],
    vote: Option<Vote>,
    last: Option<LogId>,
) -> Option<&Promise> {
    let held = vote.map(|vote| Promise::new(vote, last));
    promised.iter().find(|promise| held.is_none_or(|held| held.is_behind(promise)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new_term_index(term, index))
    }

    fn promise(vote: Vote, last: Option<LogId>) -> Promise {
        Promise::new(vote, last)
    }

    #[test]
    fn an_older_vote_or_a_shorter_log_of_one_term_is_behind() {
        let promised = [promise(Vote::new_committed(5, 2), id(5, 40))];
        let broken = |vote, last| super::broken(&promised, vote, last).is_some();
        assert!(broken(None, None));
        assert!(broken(Some(Vote::new_committed(4, 1)), id(4, 90)));
        assert!(broken(Some(Vote::new(5, 2)), id(5, 40)), "the leader was accepted");
        assert!(broken(Some(Vote::new_committed(5, 2)), id(5, 39)));
        assert!(broken(Some(Vote::new_committed(5, 2)), id(4, 90)));
        assert!(!broken(Some(Vote::new_committed(5, 2)), id(5, 40)));
    }

    #[test]
    fn a_newer_leader_may_have_cut_the_log() {
        let promised = [promise(Vote::new_committed(5, 2), id(5, 40))];
        let newer = Some(Vote::new_committed(6, 3));
        assert!(broken(&promised, newer, id(4, 12)).is_none());
        assert!(broken(&promised, Some(Vote::new(6, 1)), id(4, 12)).is_none());
    }

    #[test]
    fn entries_of_older_terms_are_no_promise() {
        let promised = [promise(Vote::new_committed(5, 2), id(4, 40))];
        assert!(broken(&promised, Some(Vote::new_committed(5, 2)), id(3, 7)).is_none());
    }

    #[test]
    fn answer_from_behind_an_earlier_promise_is_not_believed() {
        let promises = Promises::default();
        let wire = |vote, last| Some(promise(vote, last).to_wire());
        let newest = wire(Vote::new_committed(5, 2), id(5, 40));
        assert_eq!(promises.answered(3, None, newest), Ok(()));
        let before = promises.of(3);
        let behind = |promise| promises.answered(3, before, promise).is_err();
        assert!(behind(None));
        assert!(behind(wire(Vote::new_committed(5, 2), id(5, 39))));
        assert!(behind(wire(Vote::new_committed(4, 1), id(4, 90))));
        assert!(!behind(newest));
        assert!(!behind(wire(Vote::new_committed(6, 1), id(6, 12))));
        assert_eq!(promises.of(3).map(|promise| promise.vote), Some(Vote::new_committed(6, 1)));
        // A late answer to a question from before the promise is valid.
        assert_eq!(promises.answered(3, before, newest), Ok(()));
    }

    #[test]
    fn denial_of_what_was_acknowledged_is_not_believed() {
        let (matched, leader) = (Matched::default(), Vote::new_committed(5, 2));
        assert_eq!(matched.denied(3, &leader, id(4, 40)), Ok(()));
        matched.acknowledged(3, &leader, id(4, 40));
        matched.acknowledged(3, &leader, id(4, 12));
        let behind = |entry| matched.denied(3, &leader, entry).is_err();
        assert!(behind(id(4, 40)) && behind(id(3, 7)) && behind(None));
        assert!(!behind(id(4, 41)) && !behind(id(5, 40)));
        assert_eq!(matched.denied(1, &leader, id(4, 40)), Ok(()));
        // Another leader may have truncated it.
        let next = Vote::new_committed(6, 1);
        assert_eq!(matched.denied(3, &next, id(4, 40)), Ok(()));
        matched.acknowledged(3, &next, id(4, 12));
        assert!(matched.denied(3, &next, id(4, 12)).is_err());
        assert_eq!(matched.denied(3, &next, id(4, 13)), Ok(()));
        matched.acknowledged(3, &leader, id(4, 40));
        assert_eq!(matched.denied(3, &next, id(4, 13)), Ok(()), "said to an earlier leader");
    }

    #[test]
    fn the_greatest_promise_is_remembered() {
        let promises = Promises::default();
        let say = |vote, last| promises.heard(3, Some(promise(vote, last).to_wire()));
        say(Vote::new_committed(5, 2), id(5, 40));
        say(Vote::new_committed(5, 2), id(5, 12));
        say(Vote::new_committed(4, 2), id(4, 99));
        assert_eq!(promises.of(3), Some(promise(Vote::new_committed(5, 2), id(5, 40))));
        say(Vote::new_committed(6, 1), id(6, 13));
        assert_eq!(promises.of(3), Some(promise(Vote::new_committed(6, 1), id(6, 13))));
        assert_eq!(promises.of(4), None);
    }
}
