use super::*;

/// Steps of a seed here: enough for a commit and a crash, and for work during calm.
const STEPS: u64 = 1_500;

#[test]
fn a_few_seeds_keep_every_promise_and_do_something() {
    let mut commits = 0;
    for seed in 0..8 {
        let outcome = play(seed, STEPS, false);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        commits += outcome.counters.get("commits").copied().unwrap_or(0);
    }
    assert!(commits > 20, "{commits} commits");
}

#[test]
fn same_seed_same_log() {
    let [first, again, other] = [7, 7, 8].map(|seed| play(seed, STEPS, false));
    assert_eq!((first.entries, first.digest), (again.entries, again.digest));
    assert_ne!(first.digest, other.digest);
}

/// The model detects broken nodes and broken logs, and names the right invariant.
#[test]
fn broken_worlds_are_called_by_their_invariants() {
    let name = |kept: Kept| kept.err().map(|broken| broken.0.invariant);
    let mut mind = settled();
    mind.loss = None;
    let machine =
        (0..mind.machines.len()).find(|at| !mind.machines[*at].disk.files.is_empty()).unwrap();
    mind.machines[machine].disk.files.clear();
    assert_eq!(name(mind.check_disks()).as_deref(), Some("D1"), "a file that nobody released");

    let mut mind = settled();
    mind.machines.iter_mut().for_each(|machine| machine.disk.files.clear());
    mind.gone = mind.machines.iter().filter_map(|machine| machine.node).collect();
    assert!(name(mind.check_disks()).is_some(), "all files");

    let mut mind = settled();
    let repeated = mind.consensus.log.iter().rev().find(|it| it.request.0 != 0).cloned().unwrap();
    let changed = cairn_types::command::Command {
        body: Body::SetPolicy(cairn_types::command::SetPolicy::new(
            "a".parse().unwrap(),
            cairn_types::model::PolicyChange { keep_last: Some(9), ..Default::default() },
        )),
        request: RequestId(0),
        ..repeated.clone()
    };
    mind.machines[0].replica.catalogue.apply(u64::MAX >> 20, &changed);
    mind.consensus.log.push(repeated.clone());
    mind.apply_to_model(&repeated).unwrap();
    assert_eq!(name(mind.apply_one(0).map(drop)).as_deref(), Some("C3"), "an entry of its own");
}

fn settled() -> Mind {
    let mut mind = Mind::new(3, false);
    mind.run(STEPS).unwrap();
    mind
}
