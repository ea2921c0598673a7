//! `ref`, `hold`, `quarantine` and `rollback` as a user meets them.

use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use serde_json::Value;

use crate::{args, program};

/// Puts small checkpoints of these steps.
fn puts(cluster: &TestCluster, namespace: &str, steps: &[u64]) {
    for step in steps {
        let directory =
            cluster.scratch_directory(&format!("{}-{step}", namespace.replace('/', "-")));
        files::random_file(&directory.join("weights.bin"), 100_000, *step);
        let name = format!("{namespace}@{step}");
        cluster.cairn().run(args(&[&"put", &directory, &name])).ok();
    }
}

fn step(document: &Value) -> u64 {
    document["step"].as_u64().expect("a step")
}

#[test]
fn a_ref_names_a_checkpoint_and_keeps_it() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    puts(&cluster, "marks/ref", &[1, 2]);
    cairn.run(["ref", "set", "marks/ref@production", "1", "--expect", "0"]).ok();
    let raced = cairn.run(["ref", "set", "marks/ref@production", "2", "--expect", "0"]);
    raced.fails(4, "generation 1").hints("ref ls");
    assert_eq!(step(&cairn.run(["show", "marks/ref@production", "--json"]).ok().json()), 1);
    cairn.run(["rm", "marks/ref@1"]).fails(4, "ref production").hints("--force");
    cairn.run(["ref", "set", "marks/ref@production", "latest", "--expect", "1"]).ok();
    cairn.run(["rm", "marks/ref@1"]).ok();

    let listed = cairn.run(["ref", "ls", "marks/ref", "--json"]).ok().json();
    let production = &listed["refs"][0];
    assert_eq!((production["generation"].as_u64(), step(production)), (Some(2), 2));
    let shown = cairn.run(["ref", "log", "marks/ref@production"]).ok().text();
    assert_eq!(shown.lines().count(), 3, "a head and two moves:\n{shown}");
    cairn.run(["ref", "rm", "marks/ref@production"]).ok();
    cairn.run(["ref", "rm", "marks/ref@production"]).fails(3, "no ref production");
    cairn.run(["get", "marks/ref@production", "--verify-only"]).ends(3);
    for bad in ["marks/ref@latest", "marks/ref@7", "marks/ref"] {
        cairn.run(["ref", "set", bad, "2"]).fails(2, "malformed ref");
    }
}

#[test]
fn a_hold_keeps_a_checkpoint_from_its_owner_too() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    puts(&cluster, "marks/hold", &[1, 2]);
    let hold =
        ["hold", "add", "marks/hold@1", "--owner", "eval", "--reason", "MMLU", "--for", "2d"];
    cairn.run(hold).ok();
    cairn.run(["rm", "marks/hold@1"]).fails(4, "a hold of eval (mmlu)").hints("hold rm");
    let listed = cairn.run(["hold", "ls", "marks", "--json"]).ok().json();
    let holds = listed["holds"].as_array().cloned().unwrap_or_default();
    let own = holds.iter().find(|hold| hold["namespace"] == "marks/hold").expect("the hold");
    assert_eq!((own["owner"].as_str(), own["reason"].as_str()), (Some("eval"), Some("MMLU")));
    assert!(own["until_ms"].as_u64() > own["since_ms"].as_u64(), "{own}");
    cairn.run(["hold", "rm", "marks/hold@1", "--owner", "bob"]).fails(3, "no hold of");
    cairn.run(["hold", "rm", "marks/hold@1", "--owner", "eval"]).ok();
    cairn.run(["rm", "marks/hold@1"]).ok();

    cairn.run(["hold", "add", "marks/hold@2", "--reason", "mine"]).ok();
    cairn.run(["rm", "marks/hold@2", "--force", "--now"]).ok();
    cairn.run(["show", "marks/hold@2"]).ends(3);
}

#[test]
fn after_a_rollback_latest_is_good_and_the_bad_steps_are_written_again() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    puts(&cluster, "marks/back", &[1, 2, 3]);
    let rollback = ["rollback", "marks/back@1", "--reason", "loss spike"];
    let plan = cairn.run([&rollback[..], &["--dry-run", "--json"]].concat()).ok().json();
    assert_eq!((plan["quarantined"].as_u64(), plan["dry_run"].as_bool()), (Some(2), Some(true)));
    assert_eq!(step(&cairn.run(["show", "marks/back@latest", "--json"]).ok().json()), 3);
    cairn.run(rollback).ok();
    assert_eq!(step(&cairn.run(["show", "marks/back@latest", "--json"]).ok().json()), 1);
    let refused = cairn.run(["get", "marks/back@3", "--verify-only"]);
    refused.fails(4, "in quarantine: loss spike").hints("--quarantined");
    cairn.run(["get", "marks/back@3", "--verify-only", "--quarantined"]).ok();
    cairn.run(["get", "marks/back@3", "-"]).ends(4);
    let bytes = cairn.run(["get", "marks/back@3", "-", "--quarantined"]).ok().stdout;
    assert_eq!(bytes.len(), 100_000);
    let table = cairn.run(["ls", "marks/back"]).ok().text();
    assert_eq!(table.matches(" quarantined ").count(), 2, "{table}");

    puts(&cluster, "marks/back", &[3]);
    assert_eq!(step(&cairn.run(["show", "marks/back@latest", "--json"]).ok().json()), 3);
    assert_eq!(step(&cairn.run(["show", "marks/back@latest~1", "--json"]).ok().json()), 1);
    let shown = cairn.run(["show", "marks/back@2", "--json"]).ok().json();
    assert_eq!(shown["quarantine"]["reason"], "loss spike");
    cairn.run(["quarantine", "marks/back@2", "--lift"]).ok();
    cairn.run(["get", "marks/back@2", "--verify-only"]).ok();
    assert!(cairn.run(["quarantine", "marks/back@2"]).ends(2).stderr.contains("--reason"));
}
