//! How much space checkpoints take.
//!
//! A checkpoint of M bytes shares all but a fraction f with the one before it, so of two that are g
//! steps apart the later one has `M (1 - (1-f)^g)` bytes that the earlier one lacks. Kept
//! checkpoints of ages a1 < a2 < ... thus hold `U = M (1 + sum (1 - (1-f)^(a(i+1) - a(i))))` bytes
//! of unique data, and `R U` with their replicas.
//!
//! Space beside the kept ones: the upload in progress (`R f M`), and what was let go within the
//! grace (`R f M` for each interval of it).

use super::Inputs;

/// The ages, in intervals, of what `last` newest and the newest of each of `days` days are.
pub fn kept_ages(last: u64, days: u64, interval: f64) -> Vec<u64> {
    let a_day = 86_400.0 / interval;
    let daily = (0..days).map(|day| (day as f64 * a_day).round() as u64);
    let mut ages: Vec<u64> = (0..last).chain(daily).collect();
    ages.sort_unstable();
    ages.dedup();
    ages
}

#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Kept checkpoints; how many fit where the inputs name no rule.
    pub checkpoints: u64,
    /// Age of the oldest of them, seconds.
    pub oldest: f64,
    /// Bytes of kept checkpoints, each once.
    pub unique: f64,
    /// Bytes with replicas, upload in progress and grace.
    pub stored: f64,
    /// Bytes the cluster may store, as planned.
    pub usable: f64,
    /// Bytes on the fullest node.
    pub fullest_node: f64,
    /// Bytes a node may store, as planned.
    pub usable_node: f64,
}

impl Space {
    pub fn fits(&self) -> bool {
        self.checkpoints > 0 && self.fullest_node <= self.usable_node
    }

    /// Whether everything still fits after a node or a rack is lost and caught up for.
    pub fn fits_on(&self, nodes: u32) -> bool {
        nodes > 0 && self.checkpoints > 0 && self.stored / f64::from(nodes) <= self.usable_node
    }
}

/// Checkpoints beyond this count are not told apart.
const CHECKPOINTS_MAX: u64 = 100_000_000;

pub fn space(inputs: &Inputs) -> Space {
    let usable_node = inputs.disk * inputs.fill;
    let of = |checkpoints: u64, oldest: u64, unique: f64| {
        let stored = stored(inputs, unique);
        Space {
            checkpoints,
            oldest: oldest as f64 * inputs.interval,
            unique,
            stored,
            usable: usable_node * f64::from(inputs.nodes),
            fullest_node: fullest_node(inputs, stored),
            usable_node,
        }
    };
    match &inputs.kept {
        Some(ages) => {
            let oldest = ages.last().copied().unwrap_or(0);
            of(ages.len() as u64, oldest, unique_bytes(inputs, ages))
        }
        None => {
            let checkpoints = most_that_fit(inputs, usable_node);
            of(checkpoints, checkpoints.saturating_sub(1), consecutive(inputs, checkpoints))
        }
    }
}

/// Bytes beside the kept checkpoints, each once.
fn passing(inputs: &Inputs) -> f64 {
    inputs.new_bytes() * (1.0 + inputs.grace / inputs.interval)
}

fn unique_bytes(inputs: &Inputs, ages: &[u64]) -> f64 {
    if ages.is_empty() {
        return 0.0;
    }
    let shared = 1.0 - inputs.new_fraction;
    let new = |gap: u64| 1.0 - shared.powf(gap as f64);
    let gaps = ages.iter().zip(&ages[1..]).map(|(newer, older)| older - newer);
    inputs.bytes * (1.0 + gaps.map(new).sum::<f64>())
}

fn consecutive(inputs: &Inputs, checkpoints: u64) -> f64 {
    match checkpoints {
        0 => 0.0,
        many => inputs.bytes + inputs.new_bytes() * (many - 1) as f64,
    }
}

/// Replicas go to racks evenly. Where each rack must have at least one of a segment's, the nodes of
/// the smallest rack hold most.
fn fullest_node(inputs: &Inputs, stored: f64) -> f64 {
    let even = stored / f64::from(inputs.nodes);
    let (smallest, _) = inputs.rack_sizes();
    let in_each_rack = f64::from(inputs.replicas / inputs.racks) / f64::from(inputs.replicas);
    even.max(stored * in_each_rack / f64::from(smallest))
}

/// How many consecutive checkpoints fit on `nodes` that are left, with all their replicas.
pub fn most_on(inputs: &Inputs, nodes: u32) -> u64 {
    if nodes < inputs.replicas {
        return 0;
    }
    let usable = inputs.disk * inputs.fill * f64::from(nodes);
    most(|checkpoints| stored(inputs, consecutive(inputs, checkpoints)) <= usable)
}

fn most_that_fit(inputs: &Inputs, usable_node: f64) -> u64 {
    most(|checkpoints| {
        fullest_node(inputs, stored(inputs, consecutive(inputs, checkpoints))) <= usable_node
    })
}

/// Bytes with replicas and with what passes.
fn stored(inputs: &Inputs, unique: f64) -> f64 {
    f64::from(inputs.replicas) * (unique + passing(inputs))
}

/// The largest count that fits.
fn most(fits: impl Fn(u64) -> bool) -> u64 {
    let (mut fit, mut too_many) = (0, CHECKPOINTS_MAX + 1);
    while too_many - fit > 1 {
        let middle = fit + (too_many - fit) / 2;
        if fits(middle) { fit = middle } else { too_many = middle }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::super::{any_inputs, example};
    use super::*;

    #[test]
    fn the_example_is_what_paper_says() {
        // 12 nodes of 30 TB at 90 % hold 324 TB, 108 TB of them unique. Seven new parts of 1.5 TB
        // pass (one upload, six intervals of grace): 97.5 TB for 5 + 1.5 (k - 1).
        let space = space(&example());
        assert_eq!(space.checkpoints, 62);
        assert_eq!(space.oldest, 61.0 * 600.0);
        assert!((space.unique - 96.5e12).abs() < 1.0);
        assert!((space.stored - 3.0 * (96.5e12 + 10.5e12)).abs() < 1.0);
        assert!(space.fits() && !space.fits_on(11), "{space:?}");
        // 27 TB a node: 297 TB on eleven are 88.5 TB for 5 + 1.5 (k - 1), 216 TB on eight 61.5 TB.
        assert_eq!((most_on(&example(), 11), most_on(&example(), 8)), (56, 38));
    }

    #[test]
    fn kept_ages_are_the_union_of_the_rules() {
        assert_eq!(kept_ages(3, 0, 600.0), [0, 1, 2]);
        assert_eq!(kept_ages(2, 3, 600.0), [0, 1, 144, 288]);
        assert_eq!(kept_ages(0, 2, 200_000.0), [0]);
        assert_eq!(kept_ages(0, 0, 600.0), Vec::<u64>::new());
    }

    #[test]
    fn distant_checkpoints_share_less() {
        let mut inputs = example();
        let mut bytes = |ages: &[u64]| {
            inputs.kept = Some(ages.to_vec());
            space(&inputs).unique
        };
        assert!((bytes(&[0, 1]) - 6.5e12).abs() < 1.0);
        assert!((bytes(&[0, 2]) - (5e12 + 5e12 * 0.51)).abs() < 1.0);
        assert!((bytes(&[0, 1_000]) - 10e12).abs() < 1.0);
        assert_eq!(bytes(&[]), 0.0);
    }

    #[test]
    fn a_small_rack_is_full_first() {
        // Three replicas in three racks of 2, 1 and 1 nodes: a third on each single node.
        let inputs = Inputs { nodes: 4, racks: 3, ..example() };
        assert!((fullest_node(&inputs, 12.0) - 4.0).abs() < 1e-9);
        // With two replicas no rack must have one.
        let inputs = Inputs { replicas: 2, ..inputs };
        assert!((fullest_node(&inputs, 12.0) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn what_fits_fits_and_one_more_does_not() {
        for seed in 0..2_000 {
            let mut inputs = any_inputs(seed);
            let fit = space(&inputs);
            let held = fit.fullest_node * f64::from(inputs.nodes);
            assert!(held >= fit.stored * (1.0 - 1e-9), "seed {seed}: less than all is stored");
            if fit.checkpoints > 0 {
                assert!(fit.fits(), "seed {seed}: {fit:?}");
            }
            if fit.checkpoints < CHECKPOINTS_MAX.min(10_000) {
                inputs.kept = Some((0..=fit.checkpoints).collect());
                let more = space(&inputs);
                assert!(
                    more.fullest_node > more.usable_node * (1.0 - 1e-9),
                    "seed {seed}: {more:?}"
                );
            }
            // More disk never holds less.
            let larger = Inputs { disk: inputs.disk * 1.5, kept: None, ..inputs };
            assert!(space(&larger).checkpoints >= fit.checkpoints, "seed {seed}");
            let fewer = most_on(&inputs, inputs.nodes - 1);
            assert!(fewer <= most_on(&inputs, inputs.nodes), "seed {seed}");
        }
    }
}
