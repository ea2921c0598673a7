//! S1 to S3 for the simulator's own layer: a seed gives one trace, its faults really happen, and
//! a planted mistake is found.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use cairn_sim::run::{Options, Outcome, run};
use cairn_sim::scenario::layer::{self, Bug};
use cairn_sim::trace::Counters;

const SEEDS: u64 = 200;

fn play(seed: u64, bug: Bug) -> Outcome {
    run(&Options::new(seed), |world| layer::play_with(world, bug)).unwrap()
}

#[test]
fn same_seed_gives_the_same_trace_and_no_acknowledged_bytes_are_lost() {
    let mut hashes = std::collections::BTreeSet::new();
    let mut counters = Counters::new();
    let first: Vec<_> = (0..SEEDS).map(|seed| play(seed, Bug::None)).collect();
    for outcome in first {
        assert_eq!(outcome.violations, [], "seed {}", outcome.seed);
        let again = play(outcome.seed, Bug::None);
        assert_eq!(outcome, again, "seed {}", outcome.seed);
        hashes.insert(outcome.trace_hash);
        for (name, count) in outcome.counters {
            *counters.entry(name).or_default() += count;
        }
    }
    assert_eq!(hashes.len() as u64, SEEDS);
    for fault in [
        "disk.jobs_cut",
        "disk.lost_names",
        "disk.lost_writes",
        "disk.torn_writes",
        "net.broken_streams",
        "net.lost_replies",
        "net.lost_requests",
        "net.met_cut",
        "net.refused",
        "net.stopped_handlers",
        "world.crashes_in_job",
    ] {
        assert!(counters.get(fault).is_some_and(|count| *count > 0), "{fault}: {counters:?}");
    }
}

#[test]
fn missing_syncs_are_found() {
    for bug in [Bug::NoFileSync, Bug::NoDirSync] {
        let found = (0..40).filter(|seed| !play(*seed, bug).violations.is_empty()).count();
        assert!(found >= 10, "{bug:?} found in {found} of 40 seeds");
    }
}
