//! What a restore promises beside other restores, deletions and odd directories.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use cairn_tests::cluster::TestCluster;
use cairn_tests::files;
use cairn_tests::wait::until_true;

use crate::{args, program};

const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// What is left of a run in `target`.
fn leftovers(target: &Path) -> usize {
    let names = std::fs::read_dir(target).expect("list the target");
    let is_private = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(".cairn-get-");
    names.filter(|entry| is_private(&entry.as_ref().expect("an entry").file_name())).count()
}

#[test]
fn gets_into_one_directory_at_once_give_right_files() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("at-once");
    for index in 0..3 {
        files::random_file(&source.join(format!("shard-{index}")), 24 * MIB, index);
    }
    cairn.run(args(&[&"put", &source, &"restore/at-once@1"])).ok();
    for round in 0..4 {
        let target = cluster.scratch(&format!("at-once-{round}"));
        let get = args(&[&"get", &"restore/at-once@1", &target]);
        let running: Vec<_> = (0..4).map(|_| cairn.start(&get)).collect();
        running.into_iter().for_each(|running| {
            running.finish().ok();
        });
        files::assert_same(&source, &target);
        assert_eq!(leftovers(&target), 0);
    }

    // One that stands still in the middle, while another one does all.
    let target = cluster.scratch("at-once-stopped");
    let get = args(&[&"get", &"restore/at-once@1", &target]);
    let mut slow = cairn.start(&get);
    until_true("a get has written a third", DEADLINE, || {
        !slow.is_running() || files::written_len(&target) > 24 * MIB
    });
    slow.stand_still();
    cairn.run(&get).ok();
    files::assert_same_but(&source, &target, ".cairn-get-");
    slow.go_on();
    slow.finish().ok();
    files::assert_same(&source, &target);
}

#[test]
fn a_checkpoint_deleted_under_a_get_is_said_so() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("deleted");
    for index in 0..40 {
        files::random_file(&source.join(format!("{index:02}")), 5 * MIB, index);
    }
    cairn.run(args(&[&"put", &source, &"restore/deleted@1", &"--wait", &"full"])).ok();
    let target = cluster.scratch("deleted-target");
    let mut get = cairn.start(args(&[&"get", &"restore/deleted@1", &target]));
    until_true("a get has begun to write", DEADLINE, || {
        !get.is_running() || files::written_len(&target) > 5 * MIB
    });
    get.stand_still();
    assert!(files::written_len(&target) < 160 * MIB, "too late to delete anything under it");
    cairn.run(["rm", "restore/deleted@1", "--now"]).ok();
    until_true("the segments are gone", DEADLINE, || {
        let status = cairn.run(["status", "--json"]).json();
        status["segments"] == 0 && status["segments_unreferenced"] == 0
    });
    get.go_on();
    get.finish().fails(3, "was deleted during the read").hints("cairn ls");
}

#[test]
fn a_part_can_be_restored_alone() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    for rank in 0..2 {
        let source = cluster.scratch_directory(&format!("rank{rank}"));
        files::random_file(&source.join(format!("rank{rank}.bin")), MIB, rank);
        if rank == 1 {
            std::fs::write(source.join("config[1].json"), "{}\n").expect("write a file");
        }
        let part = format!("{rank}/2");
        let put = args(&[&"put", &source, &"restore/parts@1", &"--part", &part]);
        cairn.run([&put[..], &args(&[&"--attempt", &"1"])[..]].concat()).ok();
    }
    let whole = cluster.scratch("parts-whole");
    assert_eq!(
        cairn.run(args(&[&"get", &"restore/parts@1", &whole, &"--json"])).ok().json()["files"],
        3
    );
    for rank in 0..2 {
        let target = cluster.scratch(&format!("parts-{rank}"));
        let part = rank.to_string();
        cairn.run(args(&[&"get", &"restore/parts@1", &target, &"--part", &part])).ok();
        files::assert_same(&cluster.scratch(&format!("rank{rank}")), &target);
        let verify = ["get", "restore/parts@1", "--verify-only", "--part", &part, "--json"];
        assert_eq!(cairn.run(verify).ok().json()["files"], rank + 1);
    }
    // A name is itself before it is a pattern.
    let get = ["get", "restore/parts@1", "-", "--file", "config[1].json"];
    assert_eq!(cairn.run(get).ok().stdout, b"{}\n");
    let get = ["get", "restore/parts@1", "-", "--part", "1", "--file", "rank0.bin"];
    cairn.run(get).fails(3, "no such file");
    let target = cluster.scratch("parts-none");
    let get = args(&[&"get", &"restore/parts@1", &target, &"--part", &"2"]);
    cairn.run(get).fails(3, "no part 2: parts are 0 to 1");
    assert!(!target.exists());
}

#[test]
fn a_get_that_finds_nothing_leaves_no_directory() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("nothing");
    std::fs::create_dir(source.join("empty")).expect("make a directory");
    std::fs::write(source.join("a"), "a").expect("write a file");
    cairn.run(args(&[&"put", &source, &"restore/nothing@1"])).ok();
    let target = cluster.scratch("nothing-target");
    cairn.run(args(&[&"get", &"restore/nothing@2", &target])).ends(3);
    cairn.run(args(&[&"get", &"restore/nothing@1", &target, &"--file", &"e*"])).ends(3);
    assert!(!target.exists());
}

#[test]
fn holes_and_closed_directories_come_back() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("odd");
    let sparse = std::fs::File::create(source.join("sparse")).expect("create a file");
    sparse.set_len(96 * MIB).expect("set a length");
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", 50 * MIB).expect("write");
    let closed = source.join("closed");
    std::fs::create_dir(&closed).expect("make a directory");
    let set_mode = |mode: u32| {
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(mode)).expect("set a mode");
    };
    set_mode(0o555);
    cairn.run(args(&[&"put", &source, &"restore/odd@1"])).ok();
    let target = cluster.scratch("odd-target");
    for _ in 0..2 {
        cairn.run(args(&[&"get", &"restore/odd@1", &target])).ok();
        files::assert_same(&source, &target);
        let blocks = std::fs::metadata(target.join("sparse")).expect("look").blocks();
        assert!(blocks * 512 < 8 * MIB, "{blocks} blocks are allocated");
        let mode = std::fs::metadata(target.join("closed")).expect("look").mode();
        assert_eq!(mode & 0o777, 0o555);
    }
    set_mode(0o755);
}
