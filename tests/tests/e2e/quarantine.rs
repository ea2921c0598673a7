//! A segment file in quarantine by mistake: it is listed, and put back by command.

use std::fs;
use std::path::PathBuf;

use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::files;
use cairn_tests::wait::until_true;
use serde_json::Value;

use crate::{args, program};

const MIB: u64 = 1 << 20;

/// Where a node keeps a segment, and where it would be in quarantine.
fn places(cluster: &TestCluster, node: usize, digest: &str) -> (PathBuf, PathBuf) {
    let data = &cluster.nodes()[node].data;
    (data.join("segments").join(&digest[..2]).join(digest), data.join("quarantine").join(digest))
}

/// Puts one segment with one replica; its digest, and the index of the node that has it.
fn put_once(cluster: &TestCluster, address: &str, seed: u64) -> (String, usize) {
    let source = cluster.scratch_directory(&format!("source{seed}"));
    files::random_file(&source.join("weights.bin"), 3 * MIB, seed);
    let cairn = cluster.cairn();
    let once = ["--replicas", "1", "--write-quorum", "1", "--min-racks", "1"];
    cairn
        .clone()
        .run([&["put", source.to_str().expect("a path"), address][..], &once].concat())
        .ok();
    let shown = cairn.run(["show", address, "--json"]).ok().json();
    let digest = shown["segment_list"][0]["digest"].as_str().expect("a digest").to_owned();
    let has = |node: &usize| places(cluster, *node, &digest).0.exists();
    let holder = (0..cluster.nodes().len()).find(has).expect("a node has the file");
    (digest, holder)
}

#[test]
fn a_file_that_was_moved_to_quarantine_is_put_back_by_command() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let (digest, holder) = put_once(&cluster, "aside/one@1", 1);
    let (place, aside) = places(&cluster, holder, &digest);
    let node = cluster.nodes()[holder].address.to_string();
    fs::rename(&place, &aside).expect("move the file aside");
    let short = cairn.clone().with(["--timeout", "10s"]);
    short.run(["get", "aside/one@1", "--verify-only"]).ends(7);

    let listed = cairn.run(["node", "quarantine", "ls", &node, "--verify", "--json"]).ok().json();
    let file = &listed["files"][0];
    assert_eq!(
        (&file["digest"], &file["good"]),
        (&Value::from(digest.clone()), &Value::from(true))
    );
    assert_eq!(listed["next"], Value::Null);
    let text = cairn.run(["node", "quarantine", "ls", &node]).ok().text();
    assert!(text.contains(&digest), "{text}");

    let restore = ["node", "quarantine", "restore", &node, &digest, "--json"];
    assert_eq!(cairn.run(restore).ok().json()["restored"], 1);
    assert!(place.exists() && !aside.exists());
    cairn.run(["get", "aside/one@1", "--verify-only"]).ok();
    until_true("nothing is below policy", DEADLINE, || cairn.run(["status"]).code == Some(0));
    assert_eq!(cairn.run(restore).ok().json()["held"], 1, "a second time there is nothing to do");
    let none = cairn.run(["node", "quarantine", "ls", &node]).ok().text();
    assert!(none.contains("the quarantine is empty"), "{none}");

    let unknown = "ab".repeat(32);
    cairn.run(["node", "quarantine", "restore", &node, &unknown]).fails(4, "no copy of segment");
}

/// The only node that had a replica is gone for good, and another one has a copy and no slot.
#[test]
fn a_copy_on_a_node_without_a_slot_gets_one_from_the_leader_where_it_is_needed() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let (digest, holder) = put_once(&cluster, "aside/two@1", 2);
    let (place, _) = places(&cluster, holder, &digest);
    let other = (holder + 1) % 3;
    let (other_place, other_aside) = places(&cluster, other, &digest);
    fs::copy(&place, &other_aside).expect("copy the file");
    let (there, gone) =
        (cluster.nodes()[other].address.to_string(), cluster.nodes()[holder].address.to_string());

    let refused = cairn.run(["node", "quarantine", "restore", &there, "--all", "--json"]).ends(4);
    let refused: Value = serde_json::from_slice(&refused.stdout).expect("a document");
    let reason = refused["refusals"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("replicas that count: 1 of 1"), "{refused}");
    assert!(other_aside.exists() && !other_place.exists(), "what is refused stays");

    let lose = ["--accept-data-loss", "--accept-fewer-hosts"];
    cairn.run([&["node", "remove", &gone][..], &lose].concat()).ok();
    let restored = cairn.run(["node", "quarantine", "restore", &there, "--all", "--json"]).ok();
    let restored = restored.json();
    assert_eq!(restored["refused"], 0, "{restored}");
    assert_eq!(restored["restored"], 1, "{restored}");
    assert!(other_place.exists());
    cairn.run(args(&[&"get", &"aside/two@1", &"--verify-only"])).ok();
}
