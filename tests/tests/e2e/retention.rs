//! `policy` and `retention` as a user meets them.

use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::files;
use cairn_tests::wait::until_true;

use crate::{args, program};

#[test]
fn what_is_deleted_comes_back_until_its_space_is_freed() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = cluster.scratch_directory("retention-trash");
    files::random_file(&directory.join("weights.bin"), 100_000, 7);
    cairn.run(args(&[&"put", &directory, &"trash/run@1"])).ok();
    cairn.run(["undelete", "trash/run@1"]).fails(3, "no deleted checkpoint");
    cairn.run(["undelete", "trash/run@latest"]).fails(2, "names no step");
    cairn.run(["rm", "trash/run@1"]).ok();
    let listed = cairn.run(["ls", "trash/run", "--deleted", "--json"]).ok().json();
    let deletion = &listed["checkpoints"][0]["deletion"];
    assert_eq!(deletion["reason"], "asked");
    assert!(deletion["restorable_ms"].as_u64() > Some(0), "{deletion}");
    assert!(deletion["by"].as_str().is_some_and(|by| !by.is_empty()), "{deletion}");
    cairn.run(["undelete", "trash/run@1", "--dry-run"]).ok();
    cairn.run(["get", "trash/run@1", "--verify-only"]).ends(3);
    cairn.run(["undelete", "trash/run@1"]).ok();
    cairn.run(["get", "trash/run@1", "--verify-only"]).ok();
    // Written again, it does not come back.
    cairn.run(["rm", "trash/run@1"]).ok();
    cairn.run(args(&[&"put", &directory, &"trash/run@1"])).ok();
    cairn.run(["undelete", "trash/run@1"]).fails(4, "was committed at the step").hints("cairn rm");
    cairn.run(["rm", "trash/run@1", "--now"]).ok();
    cairn.run(["rm", "trash/run@1", "--deleted"]).ok();
    cairn.run(["undelete", "trash/run@1"]).ends(3);
}

#[test]
fn rules_are_tried_set_and_confirmed() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let name = "retention/run";
    let directory = cluster.scratch_directory("retention-run");
    for step in 1..=12_u64 {
        files::random_file(&directory.join("weights.bin"), 1_000, step);
        let address = format!("{name}@{step}");
        cairn.run(args(&[&"put", &directory, &address])).ok();
    }
    let plan = |more: &[&str]| {
        let all: Vec<&str> =
            ["retention", "plan", name, "--json"].into_iter().chain(more.iter().copied()).collect();
        cairn.run(all).ok().json()
    };
    assert_eq!(plan(&[])["let_go"], 0, "no rules");
    let tried = plan(&["--keep-last", "2", "--keep-every-steps", "5"]);
    assert_eq!(
        (&tried["let_go"], &tried["waits"], &tried["what_if"]),
        (&8.into(), &true.into(), &true.into())
    );
    cairn.run(["policy", "set", name, "--time-zone", "Mars/Olympus"]).fails(2, "mars/olympus");
    let dry_run = ["policy", "set", name, "--keep-last", "2", "--dry-run", "--json"];
    let would = cairn.run(dry_run).ok().json();
    assert_eq!((&would["let_go"], &would["what_if"]), (&10.into(), &true.into()));
    let own = |prefix: &str| {
        let listed = cairn.run(["policy", "ls", prefix, "--json"]).ok().json();
        listed["namespaces"].as_array().cloned().unwrap_or_default()
    };
    assert_eq!(own("retention").len(), 0, "a dry run changes nothing");
    cairn.run(["policy", "set", "retention", "--keep-last", "2"]).ok();
    let listed = own("retention");
    assert_eq!((listed.len(), &listed[0]["own_rules"]["keep_last"]), (1, &2.into()));
    assert_eq!(own(name).len(), 0, "what it inherits it does not set");
    let shown = cairn.run(["policy", "set", name, "--keep-every-steps", "5", "--json"]).ok().json();
    assert_eq!(shown["rules"]["keep_last"]["from"], "retention");
    assert_eq!(shown["rules"]["keep_every_steps"]["value"], 5);
    let waits = || {
        let problems = cairn.run(["status", "--json"]).json()["problems"].to_string();
        problems.contains("retention/run: retention waits to delete 8 checkpoints")
    };
    until_true("status says that it waits", DEADLINE, waits);
    cairn.run(["retention", "confirm", name, "--checkpoints", "7"]).fails(4, "8 checkpoints");
    cairn.run(["retention", "confirm", name, "--checkpoints", "8"]).ok();
    let steps = || {
        let listed = cairn.run(["ls", name, "--json"]).ok().json();
        let listed = listed["checkpoints"].as_array().cloned().unwrap_or_default();
        listed.iter().filter_map(|checkpoint| checkpoint["step"].as_u64()).collect::<Vec<_>>()
    };
    until_true("the rules keep four", DEADLINE, || steps() == [5, 10, 11, 12]);
    cairn.run(["retention", "confirm", name]).fails(4, "waits for no confirmation");
    let address = format!("{name}@9");
    let back = cairn.run(["undelete", &address, "--json"]).ok().json();
    assert_eq!(back["holds"][0]["owner"], "undelete", "retention would let it go again: {back}");
    cairn.run(["get", &address, "--verify-only"]).ok();
    cairn.run(["policy", "unset", name, "--all"]).ok();
    cairn.run(["policy", "unset", name, "keep-hour"]).fails(2, "keep-hourly");
}
