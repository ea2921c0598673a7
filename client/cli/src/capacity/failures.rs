//! What is left after nodes or racks are lost, at worst.
//!
//! Replicas of a segment are on different nodes and spread over racks as evenly as these allow; so
//! are the voters, 5, 3 or 1 of them. A commit acknowledged a moment ago has W replicas, in as many racks
//! as the policy asks for and perhaps no more. Commits go on with a majority of the voters and with
//! W nodes in as many racks as the policy asks for.

use super::Inputs;

/// What is left, each figure by itself at its worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub name: &'static str,
    pub nodes_left: u32,
    /// Of the replicas of any segment that has all of them.
    pub replicas_left: u32,
    /// Of the replicas of a commit acknowledged a moment ago.
    pub fresh_left: u32,
    /// Whether checkpoints are committed meanwhile.
    pub writes: bool,
}

/// Whole racks, the largest, and further single nodes.
#[derive(Debug, Clone, Copy)]
struct Lost {
    racks: u32,
    nodes: u32,
}

pub fn failures(inputs: &Inputs) -> Vec<Failure> {
    let sizes = rack_sizes(inputs);
    let largest = sizes.first().copied().unwrap_or(0);
    let mut cases = vec![("1 node", 0, 1), ("2 nodes", 0, 2)];
    // A rack of one node is that node.
    if largest > 1 {
        cases.extend([("1 rack", 1, 0), ("1 rack and 1 node", 1, 1), ("2 racks", 2, 0)]);
    }
    cases
        .into_iter()
        .map(|(name, racks, nodes)| (name, Lost { racks, nodes }))
        .filter(|(_, lost)| nodes_left(&sizes, *lost) > 0)
        .map(|(name, lost)| failure(inputs, &sizes, name, lost))
        .collect()
}

fn failure(inputs: &Inputs, sizes: &[u32], name: &'static str, lost: Lost) -> Failure {
    let Inputs { nodes, replicas, write_quorum, min_racks, .. } = *inputs;
    let voters = match nodes {
        5.. => 5,
        3.. => 3,
        _ => 1,
    };
    let voters_left = left(&spread(voters, sizes), lost);
    // One in each of these racks, and all others in the first.
    let fresh_racks = min_racks.min(write_quorum);
    let mut fresh = vec![1; fresh_racks as usize];
    fresh[0] = write_quorum - (fresh_racks - 1);
    let nodes_left = nodes_left(sizes, lost);
    let alone = sizes.iter().filter(|size| **size == 1).count() as u32;
    let racks_left = (sizes.len() as u32).saturating_sub(lost.racks + lost.nodes.min(alone));
    Failure {
        name,
        nodes_left,
        replicas_left: left(&spread(replicas, sizes), lost),
        fresh_left: left(&fresh, lost),
        writes: voters_left * 2 > voters && nodes_left >= write_quorum && racks_left >= min_racks,
    }
}

/// Nodes of each rack, as even as they can be, the largest first.
fn rack_sizes(inputs: &Inputs) -> Vec<u32> {
    let Inputs { nodes, racks, .. } = *inputs;
    (0..racks).map(|rack| nodes / racks + u32::from(rack < nodes % racks)).collect()
}

/// How many of `count` stand in each rack, as even as the racks' sizes allow, the most first.
fn spread(count: u32, sizes: &[u32]) -> Vec<u32> {
    let mut counts = vec![0; sizes.len()];
    for _ in 0..count {
        let open = (0..sizes.len()).filter(|rack| counts[*rack] < sizes[*rack]);
        // The small ones first: what they cannot take makes the others hold more.
        if let Some(rack) = open.min_by_key(|rack| (counts[*rack], sizes[*rack])) {
            counts[rack] += 1;
        }
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

/// What is left where the racks with most are lost, and each lost node has one.
fn left(counts: &[u32], lost: Lost) -> u32 {
    let standing: u32 = counts.iter().skip(lost.racks as usize).sum();
    standing.saturating_sub(lost.nodes)
}

fn nodes_left(sizes: &[u32], lost: Lost) -> u32 {
    left(sizes, lost)
}

#[cfg(test)]
mod tests {
    use super::super::{any_inputs, example};
    use super::*;

    fn of(inputs: &Inputs, name: &str) -> Failure {
        *failures(inputs).iter().find(|failure| failure.name == name).expect(name)
    }

    #[test]
    fn twelve_nodes_in_three_racks() {
        let inputs = example();
        let rack = of(&inputs, "1 rack");
        // Five voters as 2, 2, 1; three replicas one each; a commit's two in two racks.
        assert_eq!((rack.nodes_left, rack.replicas_left, rack.fresh_left), (8, 2, 1));
        assert!(rack.writes);
        let both = of(&inputs, "1 rack and 1 node");
        assert_eq!((both.replicas_left, both.fresh_left, both.writes), (1, 0, false));
        assert_eq!(of(&inputs, "2 racks").replicas_left, 1);
        assert!(!of(&inputs, "2 racks").writes);
        assert!(of(&inputs, "2 nodes").writes);
    }

    #[test]
    fn racks_of_one_node_are_said_as_nodes() {
        let inputs = Inputs { nodes: 3, ..example() };
        let names: Vec<&str> = failures(&inputs).iter().map(|failure| failure.name).collect();
        assert_eq!(names, ["1 node", "2 nodes"]);
        assert!(of(&inputs, "1 node").writes);
        assert!(!of(&inputs, "2 nodes").writes);
        assert_eq!(of(&inputs, "2 nodes").replicas_left, 1);
    }

    #[test]
    fn one_rack_is_lost_as_a_whole_or_not_at_all() {
        let inputs = Inputs { racks: 1, min_racks: 1, ..example() };
        let names: Vec<&str> = failures(&inputs).iter().map(|failure| failure.name).collect();
        assert_eq!(names, ["1 node", "2 nodes"]);
    }

    #[test]
    fn small_racks_leave_more_to_the_others() {
        assert_eq!(spread(5, &[3, 1, 1]), [3, 1, 1]);
        assert_eq!(spread(3, &[3, 1]), [2, 1]);
        assert_eq!(spread(3, &[4, 4, 4]), [1, 1, 1]);
        assert_eq!(spread(9, &[2, 1]), [2, 1]);
    }

    #[test]
    fn worse_failures_leave_less() {
        for seed in 0..2_000 {
            let inputs = any_inputs(seed);
            let all = failures(&inputs);
            let find = |name: &str| all.iter().find(|failure| failure.name == name);
            for (mild, bad) in
                [("1 node", "2 nodes"), ("1 rack", "1 rack and 1 node"), ("1 rack", "2 racks")]
            {
                let (Some(mild), Some(bad)) = (find(mild), find(bad)) else { continue };
                assert!(mild.replicas_left >= bad.replicas_left, "seed {seed}");
                assert!(mild.fresh_left >= bad.fresh_left, "seed {seed}");
                assert!(mild.writes || !bad.writes, "seed {seed}: {mild:?} {bad:?}");
            }
            for failure in &all {
                assert!(failure.fresh_left <= inputs.write_quorum, "seed {seed}");
                assert!(failure.replicas_left <= inputs.replicas, "seed {seed}");
            }
        }
    }
}
