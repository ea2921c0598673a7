//! Disks that rot or are full, and clusters too small for what is asked of them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cairn_cli::children::free_port;
use cairn_tests::cluster::{DEADLINE, Setup, TestCluster};
use cairn_tests::command::Cairn;
use cairn_tests::files;
use cairn_tests::wait::{until, until_true};

use crate::{args, program};

const MIB: u64 = 1 << 20;

/// Where a node keeps a segment.
fn segment_file(cluster: &TestCluster, node: usize, digest: &str) -> PathBuf {
    cluster.nodes()[node].data.join("segments").join(&digest[..2]).join(digest)
}

/// Flips one byte in the middle of a file.
fn corrupt(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap_or_else(|error| panic!("read {path:?}: {error}"));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    // In place: a node that holds the file open sees it too.
    let mut file = std::fs::OpenOptions::new().write(true).open(path).expect("open a segment");
    file.write_all(&bytes).and_then(|()| file.sync_all()).expect("corrupt a segment");
}

/// Stores one file on all nodes; returns the digests of its segments.
fn put_file(cluster: &TestCluster, address: &str, source: &Path, bytes: u64) -> Vec<String> {
    std::fs::create_dir_all(source).expect("make a directory");
    files::random_file(&source.join("weights.bin"), bytes, bytes);
    let cairn = cluster.cairn();
    cairn.run(args(&[&"put", &source, &address, &"--wait", &"full"])).ok();
    let shown = cairn.run(["show", address, "--json"]).ok().json();
    let segments = shown["segment_list"].as_array().expect("a list of segments");
    let digest = |segment: &serde_json::Value| segment["digest"].as_str().map(str::to_owned);
    segments.iter().map(|segment| digest(segment).expect("a digest")).collect()
}

#[test]
fn a_segment_corrupted_on_one_node_is_read_elsewhere_and_fetched_again() {
    let cluster = TestCluster::start(program());
    let source = cluster.scratch("source");
    let digests = put_file(&cluster, "rot/one@1", &source, 20 * MIB);
    let cairn = cluster.cairn();
    let file = segment_file(&cluster, 0, &digests[0]);
    let sound = files::digest(&file);
    corrupt(&file);
    assert_ne!(files::digest(&file), sound);

    // Each get takes any of the replicas; whichever it takes, the bytes are right. Once the bad
    // one is met, its node gives it up and fetches another.
    let restored = cluster.scratch("restored");
    until("the replica is sound again", DEADLINE, || {
        let _ = std::fs::remove_dir_all(&restored);
        cairn.run(args(&[&"get", &"rot/one@1", &restored])).ok();
        files::assert_same(&source, &restored);
        let is_sound = file.exists() && files::digest(&file) == sound;
        if is_sound { Ok(()) } else { Err(format!("{} is still bad", file.display())) }
    });
    let status = cluster.node_status(0);
    assert!(status.segments_quarantined >= 1 && status.segments_fetched >= 1, "{status:?}");
    until_true("nothing is below policy", DEADLINE, || cairn.run(["status"]).code == Some(0));
}

#[test]
fn a_segment_corrupted_everywhere_is_an_error_and_never_wrong_bytes() {
    let cluster = TestCluster::start(program());
    let source = cluster.scratch("source");
    let digests = put_file(&cluster, "rot/all@1", &source, 70 * MIB);
    for node in 0..3 {
        corrupt(&segment_file(&cluster, node, &digests[0]));
    }
    let cairn = cluster.cairn().with(["--timeout", "10s"]);
    let restored = cluster.scratch("restored");
    let ran = cairn.run(args(&[&"get", &"rot/all@1", &restored]));
    ran.fails(7, "cannot be read from any replica").hints("restore another checkpoint");
    assert!(!restored.join("weights.bin").exists(), "a file with wrong bytes got its name");
    cairn.run(["get", "rot/all@1", "--verify-only"]).ends(7);
    // What comes out before the error is right.
    let ran = cairn.run(["get", "rot/all@1", "-"]).ends(7);
    let original = std::fs::read(source.join("weights.bin")).expect("read the original");
    assert!(original.starts_with(&ran.stdout), "wrong bytes came out");
    // The nodes gave the bad replicas up, and say so.
    until_true("status says what is lost", DEADLINE, || {
        let ran = cairn.run(["status", "--json"]);
        ran.code == Some(8) && ran.json()["segments_lost"] == 1
    });
    let told = cairn.run(["status"]).ends(8).text();
    assert!(told.contains("cannot be read: all replicas are rotten or lost"), "{told}");
    // The files are still there: putting them again heals the checkpoint.
    cluster.cairn().run(args(&[&"put", &source, &"rot/all@2"])).ok();
    cluster.cairn().run(["get", "rot/all@1", "--verify-only"]).ok();
}

#[test]
fn a_cluster_out_of_capacity_says_so_and_still_deletes() {
    let setup = Setup { capacity_bytes: 64 * MIB, ..Setup::default() };
    let cluster = TestCluster::start_as(program(), &setup);
    let cairn = cluster.cairn();
    put_file(&cluster, "full@1", &cluster.scratch("one"), 40 * MIB);
    let second = cluster.scratch_directory("two");
    files::random_file(&second.join("weights.bin"), 50 * MIB, 9);
    let ran = cairn.clone().with(["--timeout", "10s"]).run(args(&[&"put", &second, &"full@2"]));
    let ran = ran.fails(4, "can take a replica of");
    let ran = ran.hints("`cairn rm --now` frees space");
    assert!(ran.stderr.contains(" free"), "{}", ran.stderr);
    let code = cairn.run(["status"]).code;
    assert!(matches!(code, Some(0 | 8)), "status ends with {code:?}");
    cairn.run(["get", "full@1", "--verify-only"]).ok();
    cairn.run(["show", "full@2"]).ends(3);
    cairn.run(["rm", "full@1", "--now"]).ok();
    // What the failed upload left open is given back in its own time, the deleted at once.
    let third = cluster.scratch_directory("three");
    files::random_file(&third.join("weights.bin"), 12 * MIB, 10);
    cairn.run(args(&[&"put", &third, &"full@3"])).ok();
    cairn.run(["get", "full@3", "--verify-only"]).ok();
}

/// A file system of its own, detached when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount.
    fn mount(at: &Path, bytes: u64) -> Option<Self> {
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "cairn-test"]).arg(at);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_on_one_node_stops_neither_uploads_nor_deletion() {
    let mut cluster = TestCluster::prepared(program(), &Setup::default());
    // The reserve is 512 MiB: a little more takes some data.
    let data = cluster.nodes()[0].data.clone();
    let Some(_disk) = SmallDisk::mount(&data, 640 * MIB) else {
        eprintln!("skipped: this user may not mount a small disk");
        return;
    };
    cluster.start_nodes();
    let cairn = cluster.cairn();
    put_file(&cluster, "disk@1", &cluster.scratch("one"), 20 * MIB);
    // Somebody else fills it to the last byte.
    let mut filler = std::fs::File::create(data.join("filler")).expect("make a file");
    let piece = vec![7; MIB as usize];
    while filler.write_all(&piece).is_ok() {}
    while filler.write_all(&piece[..512]).is_ok() {}

    let second = cluster.scratch_directory("two");
    files::random_file(&second.join("weights.bin"), 40 * MIB, 11);
    cairn.run(args(&[&"put", &second, &"disk@2"])).ok();
    for address in ["disk@1", "disk@2"] {
        cairn.run(["get", address, "--verify-only"]).ok();
    }
    let code = cairn.run(["status"]).code;
    assert!(matches!(code, Some(0 | 8)), "status ends with {code:?}");
    cairn.run(["rm", "disk@1", "--now"]).ok();
    cairn.run(["show", "disk@1"]).ends(3);
    assert!(
        cluster.node(0).is_running(),
        "the full node stopped:\n{}",
        cluster.nodes()[0].log_tail()
    );
    assert!(cluster.node_status(0).registered);
    until_true("the full node gives deleted bytes back", DEADLINE, || {
        cluster.node_status(0).bytes_held < 20 * MIB
    });
    drop(filler);
    std::fs::remove_file(data.join("filler")).expect("remove the filler");
    cluster.wait_healthy();
}

#[test]
fn too_few_hosts_or_racks_are_refused_with_a_hint() {
    let mut cluster = TestCluster::start(program());
    let source = cluster.scratch_directory("source");
    files::random_file(&source.join("weights.bin"), MIB, 1);
    let cairn = cluster.cairn().with(["--timeout", "10s"]);
    let put = |flags: &[&str]| {
        let mut all = args(&[&"put", &source, &"reach@1"]);
        all.extend(flags.iter().map(|flag| std::ffi::OsStr::new(*flag)));
        cairn.run(all)
    };
    put(&["--replicas", "5", "--write-quorum", "4"])
        .fails(4, "3 hosts can take a replica of")
        .hints("start more nodes");
    put(&["--replicas", "9"]).fails(2, "expected 1 to 7, got 9");
    put(&["--replicas", "2", "--write-quorum", "3"]).fails(2, "write quorum: expected 1 to 2");
    cairn.run(["show", "reach@1"]).ends(3);

    // A fourth node in a rack that has one, then a rack is lost.
    let join = cluster.endpoints().remove(0);
    let listen = format!("127.0.0.1:{}", free_port().expect("a free port"));
    let data = cluster.scratch("node4");
    let _fourth = Cairn::new(program()).start(args(&[
        &"node",
        &"start",
        &"--data",
        &data,
        &"--listen",
        &listen,
        &"--rack",
        &"rack1",
        &"--host",
        &"host4",
        &"--capacity",
        &"1GiB",
        &"--join",
        &join,
    ]));
    cluster.wait_status("the fourth node is in service", |status| {
        status.nodes.iter().any(|node| node.address == listen && node.up && node.inventoried)
    });
    cluster.node(2).kill().expect("kill a node");
    cluster.wait_status("the lost rack is noticed", |status| {
        status.nodes.iter().any(|node| node.rack == "rack3" && !node.up)
    });
    put(&["--write-quorum", "3", "--min-racks", "3"])
        .fails(4, "2 racks can take a replica of")
        .hints("bring back the nodes");
    put(&["--write-quorum", "3", "--min-racks", "3", "--isolation", "soft"]).ok();
    let words = cairn.run(["status"]).ends(8).text();
    assert!(words.contains("is down"), "{words}");
}
