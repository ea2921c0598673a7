//! The choice of voters: 1, 3 or 5 nodes, spread over racks, one change at a time.
//!
//! Current voters are preferred, and the set never shrinks by itself. A voter is replaced only in
//! these cases: it was removed; it stays down or is drained, and another node can replace it; or
//! another node is in a rack without a voter.

use std::collections::BTreeSet;

use cairn_types::command::Refusal;
use cairn_types::ids::NodeId;

/// The data that decides whether a node can vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    pub host: String,
    pub rack: String,
    pub up: bool,
    /// Removed from the cluster by an operator, or about to be.
    pub removed: bool,
    /// Down for longer than a replica is waited for.
    pub long_down: bool,
    /// Being drained: it gives its vote to another node, if there is one.
    pub draining: bool,
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
    /// Only for a node that is removed from the cluster.
    Remove(NodeId),
}

impl Change {
    /// Whether `node` loses its vote by this change.
    pub fn removes(self, node: NodeId) -> bool {
        match self {
            Self::Remove(remove) | Self::Replace { remove, .. } => remove == node,
            Self::Add(_) => false,
        }
    }

    /// The voters after the change.
    pub fn applied_to(self, current: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mut next = current.clone();
        if let Self::Add(add) | Self::Replace { add, .. } = self {
            next.insert(add);
        }
        if let Self::Remove(remove) | Self::Replace { remove, .. } = self {
            next.remove(&remove);
        }
        next
    }
}

/// The next step from the current voters towards the best set. `None` if they are the best set.
pub fn next_change(current: &BTreeSet<NodeId>, candidates: &[Candidate]) -> Option<Change> {
    let voters: Vec<&Candidate> =
        candidates.iter().filter(|node| current.contains(&node.id)).collect();
    let spares: Vec<&Candidate> = candidates
        .iter()
        .filter(|node| !current.contains(&node.id))
        .filter(|node| node.up && node.caught_up && !node.removed && !node.long_down)
        .filter(|node| !node.draining)
        .collect();
    // A voter without a record counts as removed.
    let unknown = current.iter().find(|id| !voters.iter().any(|voter| voter.id == **id));
    let removed = voters.iter().find(|voter| voter.removed).map(|voter| voter.id);
    if let Some(gone) = unknown.copied().or(removed) {
        return Some(without(gone, &voters, &spares))
            .filter(|change| majorities(current, candidates, *change).is_ok());
    }
    let silent = voters.iter().find(|voter| voter.long_down);
    if let Some(change) = silent.and_then(|voter| replace(voter.id, &voters, &spares)) {
        return Some(change);
    }
    let drained = voters.iter().find(|voter| voter.draining);
    let moved = drained.and_then(|voter| replace(voter.id, &voters, &spares));
    if let Some(change) = moved
        && majorities(current, candidates, change).is_ok()
    {
        return Some(change);
    }
    grow(&voters, &spares).or_else(|| spread(&voters, &spares))
}

/// The voters after `node` has left the cluster. Its vote moves first. Both the voters before and
/// the voters after that need a majority that is up.
pub fn leave(
    current: &BTreeSet<NodeId>,
    candidates: &[Candidate],
    node: NodeId,
) -> Result<BTreeSet<NodeId>, Refusal> {
    if !current.contains(&node) {
        return Ok(current.clone());
    }
    let leaving = |node: &Candidate| node.removed || node.long_down || node.draining;
    let voters: Vec<&Candidate> =
        candidates.iter().filter(|node| current.contains(&node.id)).collect();
    let spares: Vec<&Candidate> = candidates
        .iter()
        .filter(|spare| !current.contains(&spare.id) && spare.id != node)
        .filter(|spare| spare.up && spare.caught_up && !leaving(spare))
        .collect();
    let change = without(node, &voters, &spares);
    majorities(current, candidates, change)
        .map(|()| change.applied_to(current))
        .map_err(|(up, voters)| Refusal::NoMajority { node, up, voters })
}

/// The change that removes a voter. A spare replaces it, if there is one.
fn without(gone: NodeId, voters: &[&Candidate], spares: &[&Candidate]) -> Change {
    replace(gone, voters, spares).unwrap_or(Change::Remove(gone))
}

/// A change needs two majorities: of the voters before it and of those after it. If one of them is
/// not up, the error gives the number of voters that are up and their total.
fn majorities(
    current: &BTreeSet<NodeId>,
    candidates: &[Candidate],
    change: Change,
) -> Result<(), (u32, u32)> {
    let next = change.applied_to(current);
    for voters in [current, &next] {
        let up = candidates.iter().filter(|it| it.up && voters.contains(&it.id)).count();
        if up <= voters.len() / 2 {
            let count = |count| u32::try_from(count).unwrap_or(u32::MAX);
            return Err((count(up), count(voters.len())));
        }
    }
    Ok(())
}

fn replace(remove: NodeId, voters: &[&Candidate], spares: &[&Candidate]) -> Option<Change> {
    let staying: Vec<&Candidate> =
        voters.iter().copied().filter(|voter| voter.id != remove).collect();
    best(&staying, spares).map(|add| Change::Replace { remove, add: add.id })
}

/// The most useful spare: its host and rack have the fewest voters, then the lowest id.
fn best<'a>(voters: &[&Candidate], spares: &[&'a Candidate]) -> Option<&'a Candidate> {
    let rank = |spare: &&&Candidate| {
        let on_host = voters.iter().filter(|voter| voter.host == spare.host).count();
        let in_rack = voters.iter().filter(|voter| voter.rack == spare.rack).count();
        (on_host, in_rack, spare.id)
    };
    spares.iter().min_by_key(rank).copied()
}

/// Adds a voter if the next odd number can be reached with the available spares. An even number
/// tolerates no more failures than the odd one below it.
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

/// Moves a vote from the most crowded rack to a rack without one, or off a shared host, while all
/// voters are up.
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
