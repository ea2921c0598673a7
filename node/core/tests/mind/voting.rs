//! Who votes.

use std::collections::BTreeSet;

use cairn_core::voters::{Candidate, Change, leave, next_change};
use cairn_types::command::Refusal;
use cairn_types::ids::NodeId;

fn cluster(racks: &str) -> Vec<Candidate> {
    let candidate = |(number, rack): (u64, char)| Candidate {
        id: NodeId(number),
        host: format!("host{number}"),
        rack: rack.into(),
        up: true,
        removed: false,
        long_down: false,
        draining: false,
        caught_up: true,
    };
    (1..).zip(racks.chars()).map(candidate).collect()
}

#[test]
fn a_draining_voter_gives_its_vote_to_a_spare_and_keeps_it_where_there_is_none() {
    let mut candidates = cluster("abca");
    candidates[0].draining = true;
    assert_eq!(settle(&[1, 2, 3], &candidates), [2, 3, 4]);
    // A spare that is draining is none.
    candidates[3].draining = true;
    assert_eq!(settle(&[1, 2, 3], &candidates), [1, 2, 3]);
    // Two of the three are not up: the change would not get through.
    let mut candidates = cluster("abca");
    candidates[0].draining = true;
    (candidates[1].up, candidates[2].up) = (false, false);
    assert_eq!(settle(&[1, 2, 3], &candidates), [1, 2, 3]);
}

/// The voters after all changes were made, one at a time.
fn settle(start: &[u64], candidates: &[Candidate]) -> Vec<u64> {
    let mut voters: BTreeSet<NodeId> = start.iter().copied().map(NodeId).collect();
    for _ in 0..20 {
        match next_change(&voters, candidates) {
            None => return voters.into_iter().map(|id| id.0).collect(),
            Some(Change::Add(add)) => assert!(voters.insert(add)),
            Some(Change::Remove(remove)) => assert!(voters.remove(&remove)),
            Some(Change::Replace { remove, add }) => {
                assert!(voters.remove(&remove) && voters.insert(add));
            }
        }
    }
    panic!("voters go in circles: {voters:?}");
}

#[test]
fn voters_grow_by_odd_numbers_and_spread_over_racks() {
    assert_eq!(settle(&[1], &cluster("a")), [1]);
    assert_eq!(settle(&[1], &cluster("ab")), [1], "two tolerate no more than one");
    assert_eq!(settle(&[1], &cluster("abc")), [1, 2, 3]);
    assert_eq!(settle(&[1], &cluster("aaabbc")).len(), 5);
    assert_eq!(settle(&[1, 2, 3], &cluster("aaab")), [1, 2, 4]);
    assert_eq!(settle(&[1, 2, 3, 4, 5], &cluster("abcdef")), [1, 2, 3, 4, 5]);
}

#[test]
fn a_voter_that_stays_down_is_replaced_but_never_just_dropped() {
    let mut nodes = cluster("abcc");
    (nodes[2].up, nodes[2].long_down) = (false, true);
    assert_eq!(settle(&[1, 2, 3], &nodes), [1, 2, 4]);
    nodes[3].caught_up = false;
    assert_eq!(settle(&[1, 2, 3], &nodes), [1, 2, 3]);
}

#[test]
fn a_removed_voter_goes_if_a_majority_of_the_rest_is_up() {
    let mut nodes = cluster("abc");
    nodes[2].removed = true;
    nodes[2].up = false;
    assert_eq!(settle(&[1, 2, 3], &nodes), [1, 2]);
    nodes[1].up = false;
    assert_eq!(settle(&[1, 2, 3], &nodes), [1, 2, 3]);
}

fn leaves(voters: &[u64], candidates: &[Candidate], node: u64) -> Result<(), (u32, u32)> {
    let voters = voters.iter().copied().map(NodeId).collect();
    leave(&voters, candidates, NodeId(node)).map(drop).map_err(|refusal| match refusal {
        Refusal::NoMajority { up, voters, .. } => (up, voters),
        other => panic!("{other}"),
    })
}

#[test]
fn a_voter_may_leave_while_a_majority_is_up_before_and_after() {
    let nodes = cluster("ab");
    assert_eq!(leaves(&[1], &nodes, 1), Ok(()), "the other one takes its place");
    assert_eq!(leaves(&[1, 2], &nodes, 2), Ok(()), "it votes for its own end");
    assert_eq!(leaves(&[1], &cluster("a"), 1), Err((0, 0)));
    let mut late = cluster("ab");
    late[1].caught_up = false;
    assert_eq!(leaves(&[1], &late, 1), Err((0, 0)), "nobody can take its place yet");
}

#[test]
fn a_voter_stays_where_the_living_would_be_no_majority() {
    let mut nodes = cluster("abc");
    nodes[2].up = false;
    assert_eq!(leaves(&[1, 2, 3], &nodes, 1), Err((1, 2)));
    assert_eq!(leaves(&[1, 2, 3], &nodes, 3), Ok(()), "the dead one may go");
    let mut nodes = cluster("abcde");
    (nodes[3].up, nodes[4].up) = (false, false);
    assert_eq!(leaves(&[1, 2, 3, 4, 5], &nodes, 1), Err((2, 4)));
    let mut nodes = cluster("abca");
    nodes[2].up = false;
    assert_eq!(leaves(&[1, 2, 3], &nodes, 1), Ok(()), "a spare takes its place");
    assert_eq!(leaves(&[1, 2, 3], &nodes, 4), Ok(()), "it has no vote");
}

#[test]
fn a_removed_voter_stays_where_its_own_vote_is_needed_and_it_is_gone() {
    let mut nodes = cluster("ab");
    (nodes[1].removed, nodes[1].up) = (true, false);
    assert_eq!(settle(&[1, 2], &nodes), [1, 2], "both majorities must agree");
    nodes[1].up = true;
    assert_eq!(settle(&[1, 2], &nodes), [1]);
}
