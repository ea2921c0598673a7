//! What `put` promises.

use std::path::PathBuf;
use std::time::Duration;

use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use cairn_tests::wait::until_true;

use crate::{args, program};

const MIB: u64 = 1 << 20;

fn source(cluster: &TestCluster, name: &str, bytes: u64, seed: u64) -> PathBuf {
    let directory = cluster.scratch_directory(name);
    files::random_file(&directory.join("weights.bin"), bytes, seed);
    directory
}

#[test]
fn a_step_is_written_once_and_a_retry_of_the_same_is_fine() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let (first, other) = (source(&cluster, "once-a", MIB, 1), source(&cluster, "once-b", MIB, 2));
    let put = |directory: &PathBuf, more: &[&str]| {
        let mut all = args(&[&"put", directory, &"write/once@5", &"--json"]);
        all.extend(more.iter().map(|flag| std::ffi::OsStr::new(*flag)));
        cairn.run(all)
    };
    let done = put(&first, &["--label", "loss=0.25", "--label", "host=a"]).ok().json();
    assert_eq!(done["outcome"], "committed");
    assert_eq!(done["files"], 1);
    assert_eq!(done["bytes"], MIB);
    let again = put(&first, &[]).ok().json();
    assert_eq!(again["outcome"], "already_committed");
    assert_eq!(again["bytes_sent"], 0);
    let refused = put(&other, &[]).ends(4);
    let said: serde_json::Value = serde_json::from_str(&refused.stderr).expect("a document");
    assert!(said["error"].as_str().is_some_and(|text| text.contains("exists already")), "{said}");
    assert!(said["hint"].as_str().is_some_and(|text| text.contains("--replace")), "{said}");
    let shown = cairn.run(["show", "write/once@5", "--json"]).ok().json();
    assert_eq!(shown["labels"]["loss"], "0.25");

    // Replacing it takes the flag; a lower step than the latest is legal.
    put(&other, &["--replace"]).ok();
    let restored = cluster.scratch("once-restored");
    cairn.run(args(&[&"get", &"write/once@5", &restored])).ok();
    files::assert_same(&other, &restored);
    cairn.run(args(&[&"put", &first, &"write/once@3"])).ok();
    // `latest` is the newest commit, not the highest step.
    let latest = cairn.run(["show", "write/once@latest", "--json"]).ok().json();
    assert_eq!(latest["step"], 3);
}

#[test]
fn a_higher_attempt_fences_a_lower_one() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "fenced", MIB, 3);
    let part = |part: &str, attempt: &str| {
        cairn.run(args(&[
            &"put",
            &directory,
            &"write/fenced@1",
            &"--part",
            &part,
            &"--attempt",
            &attempt,
        ]))
    };
    part("0/2", "10").ok();
    part("0/2", "11").ok();
    part("1/2", "10").fails(4, "fenced").hints("higher attempt");
    part("1/3", "11").fails(4, "2 parts").hints("same number of parts");
    cairn.run(["show", "write/fenced@1"]).ends(3);
    let open = cairn.run(["ls", "write/fenced", "--open", "--json"]).ok().json();
    assert_eq!(open.as_array().map(Vec::len), Some(1), "{open}");
    assert_eq!(open[0]["state"], "open");
}

#[test]
fn two_processes_write_one_checkpoint_in_parts() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let whole = cluster.scratch_directory("ranks");
    let ranks: Vec<PathBuf> = (0..2)
        .map(|rank| {
            let directory = cluster.scratch_directory(&format!("rank-{rank}"));
            let name = format!("shard-{rank}.safetensors");
            files::safetensors(&directory.join(&name), &[3 * MIB, 2 * MIB], rank);
            std::fs::copy(directory.join(&name), whole.join(&name)).expect("copy a file");
            directory
        })
        .collect();
    let start = |rank: usize| {
        let part = format!("{rank}/2");
        cairn.start(args(&[
            &"put",
            &ranks[rank],
            &"write/ranks@1",
            &"--part",
            &part,
            &"--attempt",
            &"1",
            &"--json",
        ]))
    };
    let both = [start(0), start(1)].map(|running| running.finish().ok().json());
    let mut outcomes: Vec<_> = both.iter().map(|put| put["outcome"].as_str()).collect();
    outcomes.sort();
    assert_eq!(outcomes, [Some("committed"), Some("sealed")]);
    let shown = cairn.run(["show", "write/ranks@1", "--json"]).ok().json();
    assert_eq!(shown["parts"], 2);
    assert_eq!(shown["files"], 2);
    let restored = cluster.scratch("ranks-restored");
    cairn.run(args(&[&"get", &"write/ranks@1", &restored])).ok();
    files::assert_same(&whole, &restored);
}

#[test]
fn keep_last_keeps_the_newest_commits() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "kept", MIB, 4);
    for step in 1..=4 {
        let address = format!("write/kept@{step}");
        files::random_file(&directory.join("weights.bin"), MIB, 40 + step);
        cairn.run(args(&[&"put", &directory, &address, &"--keep-last", &"2"])).ok();
    }
    let steps = || {
        let listed = cairn.run(["ls", "write/kept", "--json"]).ok().json();
        let listed = listed.as_array().cloned().unwrap_or_default();
        listed.iter().filter_map(|checkpoint| checkpoint["step"].as_u64()).collect::<Vec<_>>()
    };
    until_true("two steps are left", Duration::from_secs(30), || steps() == [3, 4]);
    cairn.run(["get", "write/kept@3", "--verify-only"]).ok();
    cairn.run(["get", "write/kept@1", "--verify-only"]).ends(3);
}

#[test]
fn a_dry_run_says_what_it_would_send_and_changes_nothing() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "dry", 5 * MIB, 5);
    let put = |more: &[&str]| {
        let mut all = args(&[&"put", &directory, &"write/dry@1", &"--json"]);
        all.extend(more.iter().map(|flag| std::ffi::OsStr::new(*flag)));
        cairn.run(all).ok().json()
    };
    let dry = put(&["--dry-run"]);
    assert_eq!(dry["outcome"], "dry_run");
    assert_eq!(dry["bytes_sent"], 5 * MIB);
    cairn.run(["show", "write/dry@1"]).ends(3);
    put(&["--wait", "full"]);
    let dry = put(&["--dry-run"]);
    assert_eq!((dry["bytes_sent"].as_u64(), dry["bytes_kept"].as_u64()), (Some(0), Some(5 * MIB)));
}

#[test]
fn a_full_wait_that_runs_out_of_time_has_its_own_exit_code() {
    let mut cluster = TestCluster::start(program());
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.node(victim).kill().expect("kill a node");
    let cairn = cluster.cairn();
    let directory = source(&cluster, "waiting", 3 * MIB, 6);
    let put = args(&[
        &"put",
        &directory,
        &"write/full@1",
        &"--wait",
        &"full",
        &"--wait-timeout",
        &"2s",
        &"--json",
    ]);
    let ran = cairn.run(&put).ends(6);
    let report = ran.json();
    assert_eq!(
        (report["outcome"].as_str(), report["full"].as_bool()),
        (Some("committed"), Some(false))
    );
    assert_eq!(report["replicas_min"], 2);
    assert!(ran.stderr.contains("not all replicas"), "{}", ran.stderr);
    cairn.run(["get", "write/full@1", "--verify-only"]).ok();
    cairn.run(["status"]).ends(8);

    // It is full once the node is back and has fetched what it lacks.
    cluster.node(victim).start().expect("start the node again");
    cluster.wait_healthy();
    let again = cairn.run(&put).ok().json();
    assert_eq!((again["full"].as_bool(), again["replicas_min"].as_u64()), (Some(true), Some(3)));
    assert_eq!(again["bytes_sent"], 0);
}
