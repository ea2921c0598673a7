//! The real cluster in the simulator: a seed gives one trace here and in a fresh process (S1),
//! promises hold on a first stretch of seeds, and the faults really happened (S2).

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "drives runs from outside of them, and is a test in all of its functions"
)]

use std::process::Command;

use cairn_sim::run::{Options, Outcome, run};
use cairn_sim::scenario;
use cairn_sim::trace::Counters;

fn play(name: &str, seed: u64) -> Outcome {
    run(&Options::new(seed), scenario::find(name).unwrap()).unwrap()
}

fn fresh(name: &str, seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["run", "--brief", "--scenario", name, "--seed", &seed.to_string()])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn real_cluster_gives_the_same_trace_here_again_and_in_a_fresh_process() {
    let first = play("mix", 7);
    assert_eq!(first, play("mix", 7));
    let Outcome { trace_hash, lines, virtual_ms, violations, .. } = &first;
    let brief = format!("7 {trace_hash} {lines} {virtual_ms} {}", violations.len());
    assert_eq!(brief, fresh("mix", 7));
}

#[test]
fn promises_hold_under_every_fault_and_the_faults_happen() {
    let mut counters = Counters::new();
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let halves = [1000..1005, 1005..1010]
            .map(|seeds| scope.spawn(|| seeds.map(|seed| play("mix", seed)).collect::<Vec<_>>()));
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    });
    for outcome in outcomes {
        assert_eq!(outcome.violations, [], "sim run --seed {}", outcome.seed);
        let lacking: Vec<String> = scenario::lacking_in_one("mix", &outcome.counters).collect();
        assert_eq!(lacking, Vec::<String>::new(), "sim run --seed {}", outcome.seed);
        for (name, count) in outcome.counters {
            *counters.entry(name).or_default() += count;
        }
    }
    let lacking = scenario::lacking("mix", scenario::SEEDS_TO_COUNT, &counters);
    assert_eq!(lacking, Vec::<String>::new(), "{counters:?}");
}

#[test]
fn stories_end_well() {
    for (name, ..) in scenario::stories::STORIES {
        assert_eq!(play(name, 1).violations, [], "sim run --scenario {name} --seed 1");
    }
}

#[test]
fn seeds_that_found_bugs_pass() {
    let lines = include_str!("../regressions.txt").lines();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut fields = line.split('|').map(str::trim);
        let seed = fields.next().unwrap().parse().unwrap();
        let name = fields.next().unwrap();
        assert_eq!(play(name, seed).violations, [], "{line}");
    }
}
