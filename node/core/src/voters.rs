//! Who should vote: 1, 3 or 5 nodes, spread over racks, one change at a time.
//!
//! Current voters are preferred; the set never shrinks by itself. A voter goes only because it
//! was removed, because it stays down and another can take its place, or because another stands
//! in a rack that has no voter.

use std::collections::BTreeSet;

use crate::ids::NodeId;

/// What a node's fitness to vote depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    pub host: String,
    pub rack: String,
    pub up: bool,
    /// Removed from the cluster by an operator.
    pub removed: bool,
    /// Down for longer than a replica would be waited for.
    pub long_down: bool,
    /// Its log is close enough to the leader's to vote at once.
    pub caught_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Add(NodeId),
    Replace {
        remove: NodeId,
        add: NodeId,
    },
    /// Only ever a node that was removed from the cluster.
    Remove(NodeId),
}

/// The next step from the current voters towards the best set, or `None` if they are it.
pub fn next_change(current: &BTreeSet<NodeId>, candidates: &[Candidate]) -> Option<Change> {
    let voters: Vec<&Candidate> =
        candidates.iter().filter(|node| current.contains(&node.id)).collect();
    let spares: Vec<&Candidate> = candidates
        .iter()
        .filter(|node| !current.contains(&node.id))
        .filter(|node| node.up && node.caught_up && !node.removed && !node.long_down)
        .collect();
    // A voter nobody knows any more is as good as removed.
    let unknown = current.iter().find(|id| !voters.iter().any(|voter| voter.id == **id));
    let removed = voters.iter().find(|voter| voter.removed).map(|voter| voter.id);
    if let Some(gone) = unknown.copied().or(removed) {
        return replace(gone, &voters, &spares)
            .or_else(|| majority_stays_up(current, &voters, gone).then_some(Change::Remove(gone)));
    }
    let silent = voters.iter().find(|voter| voter.long_down);
    if let Some(change) = silent.and_then(|voter| replace(voter.id, &voters, &spares)) {
        return Some(change);
    }
    grow(&voters, &spares).or_else(|| spread(&voters, &spares))
}

fn replace(remove: NodeId, voters: &[&Candidate], spares: &[&Candidate]) -> Option<Change> {
    let staying: Vec<&Candidate> =
        voters.iter().copied().filter(|voter| voter.id != remove).collect();
    best(&staying, spares).map(|add| Change::Replace { remove, add: add.id })
}

/// The spare that adds most: a host and a rack with the fewest voters, then the lowest id.
fn best<'a>(voters: &[&Candidate], spares: &[&'a Candidate]) -> Option<&'a Candidate> {
    let rank = |spare: &&&Candidate| {
        let on_host = voters.iter().filter(|voter| voter.host == spare.host).count();
        let in_rack = voters.iter().filter(|voter| voter.rack == spare.rack).count();
        (on_host, in_rack, spare.id)
    };
    spares.iter().min_by_key(rank).copied()
}

fn majority_stays_up(current: &BTreeSet<NodeId>, voters: &[&Candidate], gone: NodeId) -> bool {
    let up = voters.iter().filter(|voter| voter.id != gone && voter.up).count();
    up > (current.len() - 1) / 2
}

/// Adds a voter if the next odd number can be reached with the spares at hand: an even number
/// tolerates no more than the odd one below it.
fn grow(voters: &[&Candidate], spares: &[&Candidate]) -> Option<Change> {
    let target = match voters.len() {
        0 => return None,
        1 | 2 => 3,
        3 | 4 => 5,
        _ => return None,
    };
    if voters.len() + spares.len() < target {
        return None;
    }
    best(voters, spares).map(|add| Change::Add(add.id))
}

/// Moves a vote from the most crowded rack to one without, or off a shared host, while all voters
/// are up.
fn spread(voters: &[&Candidate], spares: &[&Candidate]) -> Option<Change> {
    if voters.len() < 3 || voters.iter().any(|voter| !voter.up) {
        return None;
    }
    let sharing = |of: fn(&Candidate) -> &String, node: &Candidate| {
        voters.iter().filter(|voter| of(voter) == of(node)).count()
    };
    let host: fn(&Candidate) -> &String = |node| &node.host;
    let rack: fn(&Candidate) -> &String = |node| &node.rack;
    let crowded =
        voters.iter().max_by_key(|node| (sharing(host, node), sharing(rack, node), node.id))?;
    let fresh_host = |spare: &&&Candidate| sharing(host, spare) == 0;
    let improves = |spare: &&&Candidate| {
        let better_host = sharing(host, crowded) > 1
            && sharing(rack, spare) <= sharing(rack, crowded).saturating_sub(1).max(1);
        let better_rack = sharing(rack, crowded) > 1 && sharing(rack, spare) == 0;
        better_host || better_rack
    };
    let better: Vec<&Candidate> =
        spares.iter().filter(fresh_host).filter(improves).copied().collect();
    replace(crowded.id, voters, &better)
}
