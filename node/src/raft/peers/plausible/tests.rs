use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::raft::types::{LogCommand, Node, StoredMembership};

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn entry(term: u64, index: u64, command: &'static [u8]) -> Entry {
    let payload = EntryPayload::Normal(LogCommand(Bytes::from_static(command)));
    Entry { log_id: id(term, index), payload }
}

fn check() -> Check {
    Arc::new(|command| if command == b"bad" { Err("it is bad".into()) } else { Ok(()) })
}

fn voters(ids: &[u64]) -> Membership {
    let nodes = ids.iter().map(|id| (*id, Node::new("h:1"))).collect::<BTreeMap<_, _>>();
    Membership::new(vec![ids.iter().copied().collect::<BTreeSet<_>>()], nodes).unwrap()
}

fn append(entries: &[Entry]) -> Checked {
    let append = Append { before: Some(id(4, 10)), entries, committed: Some(id(4, 9)) };
    super::append(&Vote::new_committed(5, 2), &append, &check())
}

#[test]
fn a_term_is_believed_as_far_ahead_as_elections_can_bring_it() {
    let heard = |own, of| leader(own, 2, &Vote::new_committed(of, 2));
    assert_eq!(heard(7, 3), Ok(()), "an old leader is told so by openraft");
    assert_eq!(heard(7, 7 + TERM_AHEAD_MAX), Ok(()));
    let far = 8 + TERM_AHEAD_MAX;
    assert_eq!(heard(7, far), Err(Implausible::TermAhead { term: far, own: 7 }));
    // The last term is refused even if this node is just below it.
    assert!(heard(u64::MAX - 1, u64::MAX).is_err());
    assert!(answer(7, &Vote::new(u64::MAX, 3)).is_err());
    assert!(promise(7, Some(Promise::new(Vote::new(1 << 62, 1), None))).is_err());
    assert!(promise(7, Some(Promise::new(Vote::new(8, 1), Some(id(8, u64::MAX))))).is_err());
    assert_eq!(promise(7, Some(Promise::new(Vote::new(8, 1), Some(id(8, 3))))), Ok(()));
}

#[test]
fn members_speak_with_votes_of_their_own() {
    let others = Err(Implausible::OthersVote { sender: 3, vote: 2 });
    assert_eq!(leader(1, 3, &Vote::new_committed(5, 2)), others);
    assert_eq!(candidate(1, 3, &Vote::new(5, 2), None), others);
    assert_eq!(leader(1, 2, &Vote::new(5, 2)), Err(Implausible::NotElected));
    let elected = candidate(1, 2, &Vote::new_committed(5, 2), None);
    assert_eq!(elected, Err(Implausible::AlreadyElected));
    assert_eq!(candidate(1, 2, &Vote::new(5, 2), Some(id(4, 90))), Ok(()));
    let above =
        Err(Implausible::AboveVote { what: "the candidate's last entry", term: 6, vote: 5 });
    assert_eq!(candidate(1, 2, &Vote::new(5, 2), Some(id(6, 90))), above);
}

#[test]
fn entries_follow_each_other_and_can_be_applied() {
    assert_eq!(append(&[]), Ok(()));
    assert_eq!(append(&[entry(4, 11, b"a"), entry(5, 12, b"b")]), Ok(()));
    let gap = append(&[entry(5, 11, b"a"), entry(5, 13, b"b")]);
    assert_eq!(gap, Err(Implausible::Gap { expected: 12, got: 13 }));
    assert_eq!(append(&[entry(5, 10, b"a")]), Err(Implausible::Gap { expected: 11, got: 10 }));
    let falls = append(&[entry(5, 11, b"a"), entry(4, 12, b"b")]);
    assert_eq!(falls, Err(Implausible::TermFalls { index: 12, term: 4, before: 5 }));
    assert!(matches!(append(&[entry(6, 11, b"a")]), Err(Implausible::AboveVote { .. })));
    let bad = append(&[entry(5, 11, b"a"), entry(5, 12, b"bad")]);
    assert_eq!(bad, Err(Implausible::Entry { index: 12, why: "it is bad".into() }));
    let member = |of| Entry { log_id: id(5, 11), payload: EntryPayload::Membership(of) };
    assert_eq!(append(&[member(voters(&[1, 2]))]), Ok(()));
    assert!(matches!(append(&[member(Membership::default())]), Err(Implausible::NoVoters(_))));
    let many: Vec<_> = (11..11 + ENTRIES_MAX as u64 + 1).map(|at| entry(5, at, b"a")).collect();
    assert_eq!(append(&many[1..]), Err(Implausible::Gap { expected: 11, got: 12 }));
    assert_eq!(append(&many), Err(Implausible::TooMany(ENTRIES_MAX + 1)));
}

#[test]
fn the_last_index_is_refused_wherever_it_stands() {
    let (vote, last) = (Vote::new_committed(5, 2), id(5, u64::MAX));
    let before = |before, committed| {
        super::append(&vote, &Append { before, entries: &[], committed }, &check())
    };
    for refused in [
        before(Some(last), None),
        before(None, Some(last)),
        last_entry(&vote, Some(last)),
        snapshot(&vote, &meta(Some(last))),
        bare_log_id("x", 5, Some(last)),
    ] {
        assert!(matches!(refused, Err(Implausible::Index { .. })), "{refused:?}");
    }
}

fn meta(last_log_id: Option<LogId>) -> SnapshotMeta {
    let last_membership = StoredMembership::new(Some(id(1, 3)), voters(&[1, 2, 3]));
    SnapshotMeta { last_log_id, last_membership }
}

#[test]
fn a_snapshot_is_of_its_leaders_term_or_an_older_one_and_has_voters() {
    let vote = Vote::new_committed(5, 2);
    assert_eq!(snapshot(&vote, &meta(Some(id(5, 40)))), Ok(()));
    assert!(matches!(snapshot(&vote, &meta(Some(id(6, 40)))), Err(Implausible::AboveVote { .. })));
    let later = snapshot(&vote, &meta(Some(id(1, 2))));
    assert!(matches!(later, Err(Implausible::LaterMembership { .. })), "{later:?}");
    let none =
        SnapshotMeta { last_membership: StoredMembership::default(), ..meta(Some(id(5, 40))) };
    assert!(matches!(snapshot(&vote, &none), Err(Implausible::NoVoters(_))));
}

#[test]
fn a_follower_has_taken_no_more_than_it_was_sent() {
    let entries = [entry(5, 11, b"a"), entry(5, 12, b"b")];
    let before = Some(id(4, 10));
    for last in [before, Some(id(5, 11)), Some(id(5, 12))] {
        assert_eq!(taken(before, &entries, last), Ok(()));
    }
    for last in [None, Some(id(5, 13)), Some(id(4, 11)), Some(id(5, 1 << 40))] {
        assert!(taken(before, &entries, last).is_err(), "{last:?}");
    }
}
