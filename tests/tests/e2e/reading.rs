//! What `get` promises.

use std::os::unix::fs::PermissionsExt;

use cairn_tests::cluster::TestCluster;
use cairn_tests::files;

use crate::{args, program};

const MIB: u64 = 1 << 20;

#[test]
fn files_ranges_and_streams_are_what_was_put() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("read");
    std::fs::create_dir_all(source.join("shards")).expect("make a directory");
    files::safetensors(&source.join("shards/0.safetensors"), &[3 * MIB, 40 * MIB, 100], 1);
    files::safetensors(&source.join("shards/1.safetensors"), &[2 * MIB], 2);
    std::fs::write(source.join("config.json"), "{}\n").expect("write a file");
    cairn.run(args(&[&"put", &source, &"read/run@7"])).ok();

    let some = cluster.scratch("read-some");
    let get = cairn.run(args(&[
        &"get",
        &"read/run@latest",
        &some,
        &"--file",
        &"shards/1*",
        &"--file",
        &"*.json",
        &"--json",
    ]));
    assert_eq!(get.ok().json()["files"], 2);
    let names: Vec<_> = files::list(&some).iter().map(|name| name.display().to_string()).collect();
    assert_eq!(names, ["config.json", "shards/1.safetensors"]);
    let none = cairn.run(args(&[&"get", &"read/run@7", &some, &"--file", &"*.bin"]));
    none.fails(3, "no file that matches").hints("cairn show");

    let original = std::fs::read(source.join("shards/0.safetensors")).expect("read a file");
    let stream = |range: &[&str]| {
        let mut all = vec!["get", "read/run@7", "-", "--file", "shards/0.safetensors"];
        all.extend(range);
        cairn.run(all)
    };
    assert!(stream(&[]).ok().stdout == original);
    for (text, from, to) in [
        ("0..10", 0, 10),
        ("1048575..1048577", 1_048_575, 1_048_577),
        ("5000000..40000000", 5_000_000, 40_000_000),
        ("..3", 0, 3),
        ("7..7", 7, 7),
    ] {
        let got = stream(&["--range", text]).ok().stdout;
        assert!(got == original[from..to], "range {text} gave {} bytes", got.len());
    }
    let tail = format!("{}..", original.len() - 5);
    assert!(stream(&["--range", &tail]).ok().stdout == original[original.len() - 5..]);
    stream(&["--range", "0..99999999999"]).fails(3, "has no bytes");
    cairn.run(["get", "read/run@7", "-"]).fails(2, "takes one").hints("--file");
    cairn.run(["get", "read/run@8", "-"]).fails(3, "no checkpoint").hints("cairn ls");

    let verified = cairn.run(["get", "read/run@7", "--verify-only", "--json"]).ok().json();
    assert_eq!((verified["written"].as_bool(), verified["files"].as_u64()), (Some(false), Some(3)));
    assert_eq!(verified["bytes"], files::total_len(&source));
}

#[test]
fn only_what_a_checkpoint_owns_is_touched() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("owned");
    files::random_file(&source.join("weights.bin"), 2 * MIB, 1);
    std::fs::write(source.join("config.json"), "{}\n").expect("write a file");
    cairn.run(args(&[&"put", &source, &"read/owned@1"])).ok();

    let target = cluster.scratch_directory("owned-target");
    std::fs::write(target.join("notes.txt"), "mine").expect("write a file");
    std::fs::write(target.join("config.json"), "mine too").expect("write a file");
    let get = args(&[&"get", &"read/owned@1", &target]);
    cairn.run(&get).fails(1, "config.json").hints("overwrite");
    assert_eq!(std::fs::read(target.join("config.json")).expect("read"), b"mine too");
    assert!(!target.join("weights.bin").exists(), "refused, and yet something was written");
    let overwrite = [&get[..], &["--overwrite".as_ref()]].concat();
    cairn.run(&overwrite).ok();
    assert_eq!(std::fs::read(target.join("notes.txt")).expect("read"), b"mine");
    assert_eq!(std::fs::read(target.join("config.json")).expect("read"), b"{}\n");

    // What is there already is verified, not fetched.
    let again = [&get[..], &["--json".as_ref()]].concat();
    let report = cairn.run(&again).ok().json();
    assert_eq!(
        (report["files_kept"].as_u64(), report["bytes_fetched"].as_u64()),
        (Some(2), Some(0))
    );
    // A file of the right length with wrong bytes is not taken for the right one.
    let path = target.join("weights.bin");
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[1_000_000] ^= 1;
    std::fs::write(&path, &bytes).expect("write");
    cairn.run(&get).fails(1, "weights.bin");
    cairn.run(&overwrite).ok();
    assert_eq!(files::digest(&path), files::digest(&source.join("weights.bin")));

    let closed = cluster.scratch("owned-file");
    std::fs::write(&closed, "a file, no directory").expect("write");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o600)).expect("set mode");
    cairn.run(args(&[&"get", &"read/owned@1", &closed])).ends(1);
    assert_eq!(std::fs::read(&closed).expect("read"), b"a file, no directory");
}

#[test]
fn a_killed_get_goes_on_where_it_was() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("resumed");
    files::checkpoint(&source, 192 * MIB, 5);
    cairn.run(args(&[&"put", &source, &"read/resumed@1", &"--wait", &"full"])).ok();
    let len = files::total_len(&source);
    for attempt in 0..5 {
        let target = cluster.scratch(&format!("resumed-{attempt}"));
        let get = args(&[&"get", &"read/resumed@1", &target, &"--json"]);
        let mut running = cairn.start(&get);
        while running.is_running() && files::written_len(&target) < len / 2 {
            std::thread::yield_now();
        }
        running.kill();
        if target.join("model.safetensors").exists() {
            continue;
        }
        let report = cairn.run(&get).ok().json();
        files::assert_same(&source, &target);
        let fetched = report["bytes_fetched"].as_u64().expect("bytes fetched");
        eprintln!("killed at half, {fetched} of {len} bytes fetched when run again");
        assert!(fetched < len * 3 / 4, "{fetched} of {len} bytes were fetched again");
        return;
    }
    panic!("no kill landed in the middle of a get");
}
