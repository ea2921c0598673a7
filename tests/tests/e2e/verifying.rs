//! `cairn verify` and the scrub find every planted flip, and `cairn drill` says what would be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cairn_tests::chance::Chance;
use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use serde_json::Value;

use crate::{args, program};

const MIB: u64 = 1 << 20;
const FLIPS: usize = 20;

/// Where the node of this id keeps a segment.
fn segment_file(cluster: &TestCluster, node: u64, digest: &str) -> PathBuf {
    let status = cluster.status().expect("a status");
    let address = &status.nodes.iter().find(|it| it.id.0 == node).expect("the node").address;
    let process = cluster.nodes().iter().find(|it| it.address.to_string() == *address);
    let data = &process.expect("its process").data;
    data.join("segments").join(&digest[..2]).join(digest)
}

/// Flips one bit, wherever it is.
fn flip(path: &Path, chance: &mut Chance) {
    let mut bytes = fs::read(path).expect("read a segment file");
    let at = chance.within(0..bytes.len() as u64) as usize;
    bytes[at] ^= 1 << chance.within(0..8);
    fs::write(path, bytes).expect("write a segment file");
    fs::File::open(path).and_then(|file| file.sync_all()).expect("sync a segment file");
}

/// (digest, nodes) of each segment.
fn segments(cluster: &TestCluster, address: &str) -> BTreeMap<String, Vec<u64>> {
    let shown = cluster.cairn().run(["show", address, "--json"]).ok().json();
    let list = shown["segment_list"].as_array().expect("segments").iter();
    let nodes = |segment: &Value| {
        let replicas = segment["replicas"].as_array().expect("replicas").iter();
        replicas.map(|it| it["node"].as_u64().expect("a node")).collect()
    };
    list.map(|it| (it["digest"].as_str().expect("a digest").to_owned(), nodes(it))).collect()
}

#[test]
fn verification_finds_each_of_twenty_flipped_bits_and_they_are_repaired() {
    let mut cluster = TestCluster::start(program());
    let mut chance = Chance::of("twenty flipped bits");
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("source");
    files::safetensors(&source.join("model.safetensors"), &[MIB; 14], 1);
    cairn.run(args(&[&"put", &source, &"verify/run@1", &"--wait", &"full"])).ok();
    let verify = |level: &str| cairn.run(["verify", "verify/run@1", "--level", level, "--json"]);
    for level in ["metadata", "replicas", "restore"] {
        let good = verify(level).ok().json();
        assert_eq!((&good["good"], &good["level"]), (&Value::from(true), &Value::from(level)));
    }
    // Two of three replicas of a segment at most: the third one is what the others are made from.
    let segments = segments(&cluster, "verify/run@1");
    let mut places: Vec<(String, u64)> = Vec::new();
    for (digest, nodes) in &segments {
        assert_eq!(nodes.len(), 3);
        let mut nodes = nodes.clone();
        chance.shuffle(&mut nodes);
        places.extend(nodes.iter().take(2).map(|node| (digest.clone(), *node)));
    }
    chance.shuffle(&mut places);
    places.truncate(FLIPS);
    assert_eq!(places.len(), FLIPS);
    for (digest, node) in &places {
        flip(&segment_file(&cluster, *node, digest), &mut chance);
    }
    let found = verify("replicas").ends(7).json();
    let bad = found["bad"].as_array().expect("bad replicas").iter();
    let place = |it: &Value| {
        assert_eq!(it["files"][0], "model.safetensors");
        let digest = it["segment"].as_str().expect("a digest").to_owned();
        (digest, it["node"].as_u64().expect("a node"))
    };
    let found: BTreeSet<(String, u64)> = bad.map(place).collect();
    assert_eq!(found, places.into_iter().collect::<BTreeSet<_>>());
    cluster.wait_healthy();
    let again = verify("replicas").ok().json();
    assert_eq!(again["replicas_verified"], 3 * segments.len() as u64);
    let shown = cairn.run(["show", "verify/run@1", "--json"]).ok().json();
    let label = shown["labels"]["cairn.verified.replicas"].as_str().expect("the result");
    assert!(label.starts_with("good "), "{label}");
}

#[test]
fn scrub_finds_what_nobody_reads_and_stops_when_told() {
    let mut cluster = TestCluster::start(program());
    let mut chance = Chance::of("read by nobody");
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("unread");
    files::safetensors(&source.join("model.safetensors"), &[MIB; 6], 4);
    cairn.run(args(&[&"put", &source, &"unread/run@1", &"--wait", &"full"])).ok();
    let segments = segments(&cluster, "unread/run@1");
    let mut planted = BTreeSet::new();
    for (digest, nodes) in segments.iter().take(4) {
        flip(&segment_file(&cluster, nodes[0], digest), &mut chance);
        planted.insert((digest.clone(), nodes[0]));
    }
    let told = cairn.run(["scrub", "pause", "--for", "1h", "--json"]).ok().json();
    assert!(told["nodes"].as_array().expect("nodes").iter().all(|it| it["state"] == "paused"));
    cairn.run(["scrub", "pause", "--for", "8d"]).ends(2);
    cairn.run(["scrub", "status", "nobody"]).ends(3);
    // A pass ends the pause.
    cairn.run(["scrub", "start"]).ok();
    let until = Instant::now() + Duration::from_secs(60);
    let found = loop {
        let status = cairn.run(["scrub", "status", "--json"]).ok().json();
        let nodes = status["nodes"].as_array().expect("nodes");
        let found: BTreeSet<(String, u64)> = nodes.iter().flat_map(faults).collect();
        if found.len() >= planted.len() && nodes.iter().all(|it| it["pass_since_ms"].is_null()) {
            break found;
        }
        assert!(Instant::now() < until, "the scrub found {found:?} of {planted:?}: {status}");
        sleep(Duration::from_millis(200));
    };
    assert_eq!(found, planted);
    cluster.wait_healthy();
    cairn.run(["verify", "unread/run@1", "--level", "replicas"]).ok();
}

/// (digest, node) of each replica that a node's scrub has found bad.
fn faults(node: &Value) -> Vec<(String, u64)> {
    let id = node["node"].as_u64().expect("a node");
    let faults = node["faults"].as_array().expect("faults").iter();
    faults.map(|it| (it["digest"].as_str().expect("a digest").to_owned(), id)).collect()
}

#[test]
fn drill_restores_without_a_rack_runs_the_check_and_says_how_long_it_took() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("drill-source");
    files::safetensors(&source.join("model.safetensors"), &[MIB, 3 * MIB], 5);
    fs::write(source.join("config.json"), "{}").expect("write a file");
    cairn.run(args(&[&"put", &source, &"drill/run@7", &"--wait", &"full"])).ok();
    let rack = cluster.nodes()[0].rack.clone();
    let lose = format!("rack={rack}");
    let drill = |more: &[&str]| {
        let all = [&["drill", "drill/run", "--lose", &lose, "--json"][..], more].concat();
        cairn.run(all)
    };
    let good = drill(&["--check", "test -s model.safetensors && test -f config.json"]).ok().json();
    assert_eq!((&good["step"], &good["check"]), (&Value::from(7), &Value::from("passed")));
    assert_eq!((&good["good"], &good["has_majority"]), (&Value::from(true), &Value::from(true)));
    assert!(good["rto_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{good}");
    let shown = cairn.run(["show", "drill/run@7", "--json"]).ok().json();
    let label = shown["labels"]["cairn.drill"].as_str().expect("the result");
    assert!(label.starts_with("good ") && label.ends_with(&lose), "{label}");

    let failed = drill(&["--check", "exit 3"]).ends(9).json();
    assert!(failed["check"].as_str().is_some_and(|why| why.contains('3')), "{failed}");
    let late = drill(&["--check", "sleep 1000", "--check-timeout", "200ms"]).ends(9).json();
    assert!(late["check"].as_str().is_some_and(|why| why.contains("not done after")), "{late}");

    let kept = cluster.scratch("drill-kept");
    let at = kept.display().to_string();
    drill(&["--dir", &at]).ok();
    files::assert_same(&source, &kept);
    drill(&["--dir", &at]).fails(2, "is not empty");
    cairn.run(["drill", "drill/run", "--lose", "rack=mars"]).fails(3, "no node has rack mars");
    cairn.run(["drill", "drill/run", "--lose", "mars"]).fails(2, "malformed \"mars\"");
    cairn.run(["drill", "drill/none"]).ends(3);
    check_script(&source, &kept);
}

/// The example of a check, on what was restored and on what is damaged.
fn check_script(source: &Path, restored: &Path) {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/examples/check_safetensors.py");
    let expected = restored.with_extension("json");
    let run = |arguments: &[&Path]| Command::new("python3").arg(&script).args(arguments).status();
    let Ok(written) = run(&[Path::new("--write"), &expected, source]) else {
        eprintln!("skipped the example: there is no python3");
        return;
    };
    assert!(written.success());
    assert!(run(&[&expected, restored]).expect("run python3").success());
    let model = restored.join("model.safetensors");
    let mut bytes = fs::read(&model).expect("read the model");
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    fs::write(&model, &bytes).expect("write the model");
    assert!(!run(&[&expected, restored]).expect("run python3").success(), "a tensor differs");
    fs::write(&model, &bytes[..at]).expect("write the model");
    assert!(!run(&[&expected, restored]).expect("run python3").success(), "a tensor is cut");
}

#[test]
fn drill_says_which_files_and_bytes_are_lost() {
    let cluster = TestCluster::start(program());
    let mut chance = Chance::of("what a drill says is lost");
    let cairn = cluster.cairn().with(["--timeout", "4s"]);
    let source = cluster.scratch_directory("source");
    for (name, seed) in [("good.bin", 1), ("hurt.bin", 2)] {
        files::random_file(&source.join(name), 5 * MIB, seed);
    }
    // One replica of each: the loss of its node is the loss of the file.
    let once = ["--replicas", "1", "--write-quorum", "1", "--min-racks", "1"];
    let put = |address: &str| {
        let path = source.display().to_string();
        cairn.run([&["put", &path, address][..], &once].concat()).ok();
    };
    put("drill/once@1");
    let (_, nodes) = segments(&cluster, "drill/once@1").pop_first().expect("a segment");
    let lose = format!("node={}", nodes[0]);
    let lost = cairn.run(["drill", "drill/once", "--lose", &lose, "--json"]).ends(7).json();
    let count = lost["lost"].as_array().map_or(0, Vec::len) as u64;
    assert!(count >= 1 && lost["bytes_lost"] == count * 5 * MIB, "{lost}");
    cairn.run(["drill", "drill/once"]).ok();
    // Rot that nobody has read yet: the drill reads it.
    let digest_of = |name: &str| {
        let bytes = fs::read(source.join(name)).expect("read a file");
        blake3::hash(&bytes).to_hex().to_string()
    };
    let digest = digest_of("hurt.bin");
    let nodes = segments(&cluster, "drill/once@1").remove(&digest).expect("its segment");
    flip(&segment_file(&cluster, nodes[0], &digest), &mut chance);
    let found = cairn.run(["drill", "drill/once", "--json"]).ends(7).json();
    assert_eq!(found["lost"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["lost"][0]["name"], "hurt.bin");
    assert_eq!(found["bytes_lost"], 5 * MIB);
    let verify = ["verify", "drill/once@1", "--level", "restore"];
    let text = cairn.run(verify).ends(7).text();
    assert!(text.contains("lost: hurt.bin") && text.contains("1 file, 5.0 MiB"), "{text}");
}
