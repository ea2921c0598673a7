//! What `put` promises.

use std::path::PathBuf;

use cairn_tests::cluster::{DEADLINE, TestCluster};
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
    assert!(said["error"].as_str().is_some_and(|text| text.contains("already exists")), "{said}");
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
    part("1/2", "10").fails(4, "fenced by attempt 11 of process").hints("attempt 11 began at 2");
    part("1/3", "11").fails(4, "2 parts").hints("same number of parts");
    cairn.run(["show", "write/fenced@1"]).ends(3);
    let open = cairn.run(["ls", "write/fenced", "--open", "--json"]).ok().json();
    assert_eq!(open["checkpoints"].as_array().map(Vec::len), Some(1), "{open}");
    assert_eq!(open["checkpoints"][0]["state"], "open");
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

/// Files of a few bytes, by name and content.
fn small_files(cluster: &TestCluster, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let directory = cluster.scratch_directory(name);
    for (file, content) in files {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("make directories");
        std::fs::write(path, content).expect("write a file");
    }
    directory
}

#[test]
fn parts_that_one_directory_cannot_hold_are_refused_before_the_commit() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let put = |directory: &PathBuf, address: &str, part: &str, more: &[&str]| {
        let mut all = args(&[&"put", directory, &address, &"--part", &part, &"--attempt", &"1"]);
        all.extend(more.iter().map(|flag| std::ffi::OsStr::new(*flag)));
        cairn.run(all)
    };
    let one = small_files(&cluster, "clash-1", &[("optim.pt", "rank 0"), ("config", "same")]);
    let two = small_files(&cluster, "clash-2", &[("optim.pt", "rank 1"), ("config", "same")]);
    put(&one, "write/clash@1", "0/2", &[]).ok();
    put(&two, "write/clash@1", "1/2", &[])
        .fails(4, "optim.pt is a file with different content in parts 0 and 1")
        .hints("--prefix");
    cairn.run(["show", "write/clash@1"]).ends(3);

    let below = small_files(&cluster, "clash-3", &[("optim.pt/state", "x")]);
    put(&below, "write/clash@1", "1/2", &[])
        .fails(4, "optim.pt is a file and a directory in parts 0 and 1");

    // The same files below a directory of each part.
    put(&one, "write/clash@2", "0/2", &["--prefix", "rank{I}"]).ok();
    put(&two, "write/clash@2", "1/2", &["--prefix", "rank{I}"]).ok();
    let restored = cluster.scratch("clash-restored");
    cairn.run(args(&[&"get", &"write/clash@2", &restored])).ok();
    files::assert_same(&one, &restored.join("rank0"));
    files::assert_same(&two, &restored.join("rank1"));
}

#[test]
fn the_same_file_in_two_parts_is_the_same_whatever_it_is_packed_with() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let config = ("config.json", "{}");
    let both = small_files(&cluster, "packed", &[config, ("rank0", "0"), ("a-rank1", "1")]);
    let parts: [&[(&str, &str)]; 3] =
        [&[config, ("rank0", "0")], &[("a-rank1", "1"), config], &[config]];
    for (part, files) in parts.into_iter().enumerate() {
        let directory = small_files(&cluster, &format!("packed-{part}"), files);
        let part = format!("{part}/3");
        let address = "write/packed@1";
        cairn.run(args(&[&"put", &directory, &address, &"--part", &part, &"--attempt", &"1"])).ok();
    }
    let restored = cluster.scratch("packed-restored");
    cairn.run(args(&[&"get", &"write/packed@1", &restored])).ok();
    files::assert_same(&both, &restored);
}

#[test]
fn a_source_without_files_is_refused_unless_it_is_meant() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let empty = cluster.scratch_directory("empty");
    let hollow = cluster.scratch_directory("hollow");
    std::fs::create_dir_all(hollow.join("a/b")).expect("make directories");
    for directory in [&empty, &hollow] {
        cairn
            .run(args(&[&"put", directory, &"write/empty@1"]))
            .fails(2, "no file to upload")
            .hints("--allow-empty");
    }
    let part = args(&[&"put", &empty, &"write/empty@1", &"--part", &"0/2", &"--attempt", &"1"]);
    cairn.run(part).ends(2);
    cairn.run(args(&[&"put", &hollow, &"write/empty@1", &"--allow-empty"])).ok();
}

#[test]
fn links_are_followed_or_left_out_and_names_excluded() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    // As in a cache of Hugging Face.
    let cache = small_files(&cluster, "hub", &[("blobs/1f", "{}"), ("snapshots/rev/own", "x")]);
    let snapshot = cache.join("snapshots/rev");
    let link = |to: &str, at: PathBuf| std::os::unix::fs::symlink(to, at).expect("make a link");
    link("../../blobs/1f", snapshot.join("config.json"));
    link("rev", cache.join("snapshots/main"));
    let main = cache.join("snapshots/main");
    cairn
        .run(args(&[&"put", &main, &"write/links@1"]))
        .fails(1, "symbolic link")
        .hints("--follow-links");
    cairn.run(args(&[&"put", &main, &"write/links@1", &"--follow-links"])).ok();
    cairn.run(args(&[&"put", &snapshot, &"write/links@2", &"--skip-links"])).ok();
    let exclude = "snapshots/*/config.*";
    cairn
        .run(args(&[
            &"put",
            &cache,
            &"write/links@3",
            &"--exclude",
            &"main",
            &"--exclude",
            &exclude,
        ]))
        .ok();
    let names = |step: u32| {
        let restored = cluster.scratch(&format!("links-{step}"));
        cairn.run(args(&[&"get", &format!("write/links@{step}"), &restored])).ok();
        files::list(&restored)
    };
    assert_eq!(names(1).len(), 2, "{:?}", names(1));
    assert_eq!(names(2).len(), 1);
    assert_eq!(names(3).len(), 2);
}

#[test]
fn a_part_takes_its_attempt_from_the_launcher_or_is_refused() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "launched", MIB, 7);
    let put = |part: &'static str| {
        args(&[&"put", &directory, &"write/launched@1", &"--part", &part, &"--json"])
            .into_iter()
            .map(std::ffi::OsStr::to_owned)
            .collect::<Vec<_>>()
    };
    let bare = cairn.clone().with_variable("TORCHELASTIC_RESTART_COUNT", "three");
    bare.run(put("0/2")).fails(2, "not a number");
    let refused = cairn.run(put("0/2")).fails(2, "--part needs --attempt");
    assert!(refused.stderr.contains("pass the same --attempt"), "{}", refused.stderr);
    let launched = cairn.clone().with_variable("TORCHELASTIC_RESTART_COUNT", "2");
    let sealed = launched.run(put("1/2")).ok();
    assert!(sealed.stderr.contains("TORCHELASTIC_RESTART_COUNT"), "{}", sealed.stderr);
    assert_eq!(sealed.json()["attempt"], 3);

    // The same job again under another number: its count begins anew, and it joins no old upload.
    let job = |id: &str| launched.clone().with_variable("SLURM_JOB_ID", id);
    let directory = source(&cluster, "resubmitted", MIB, 9);
    let resubmitted = args(&[&"put", &directory, &"write/resubmitted@1", &"--part", &"0/2"]);
    job("41").run(&resubmitted).ok();
    let refused = job("57").run(&resubmitted).fails(4, "attempt 3 belongs to job 41");
    let refused = refused.hints("pass --attempt 4 on all ranks");
    assert!(refused.stderr.contains("not to job 57"), "{}", refused.stderr);
    job("57").with(["--attempt", "4"]).run(&resubmitted).ok();
    // A script with that number in it, submitted once more.
    let refused = job("63").with(["--attempt", "4"]).run(&resubmitted);
    refused.fails(4, "attempt 4 belongs to job 57").hints("`cairn rm --open`");

    // The listing says which rank hangs; a rank that waits for it says so in the end.
    let open = cairn.run(["ls", "write/launched", "--open"]).ok();
    assert!(open.text().contains("1 of 2 parts, missing 0"), "{}", open.text());
    let waits = [&put("1/2")[..], &["--wait".into(), "committed".into()]].concat();
    let in_time = [&waits[..], &["--wait-timeout".into(), "1s".into()]].concat();
    assert_eq!(launched.run(in_time).ends(6).json()["outcome"], "sealed");
    let waiting = launched.start(waits);
    launched.run(put("0/2")).ok();
    assert_eq!(waiting.finish().ok().json()["outcome"], "committed");
}

#[test]
fn an_open_upload_is_aborted_by_rm() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "aborted", MIB, 8);
    let address = "write/aborted@1";
    let part = args(&[&"put", &directory, &address, &"--part", &"0/2", &"--attempt", &"9"]);
    cairn.run(&part).ok();
    let dry = cairn.run(["rm", address, "--dry-run"]).ok();
    assert!(dry.text().contains("would abort the upload"), "{}", dry.text());
    let done = cairn.run(["rm", address, "--now"]).ok();
    assert!(done.text().contains("aborted the upload of write/aborted@1"), "{}", done.text());
    cairn.run(["rm", address]).ends(3);
    let open = cairn.run(["ls", "write/aborted", "--open", "--json"]).ok().json();
    assert_eq!(open["checkpoints"].as_array().map(Vec::len), Some(0), "{open}");
    // A lower attempt than the aborted one is welcome.
    cairn.run(args(&[&"put", &directory, &address, &"--attempt", &"1"])).ok();
}

#[test]
fn labels_must_agree_and_none_is_dropped() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "labelled", MIB, 9);
    let put = |more: &[&str]| {
        let mut all = args(&[&"put", &directory, &"write/labelled@1"]);
        all.extend(more.iter().map(|flag| std::ffi::OsStr::new(*flag)));
        cairn.run(all)
    };
    put(&["--label", "a=1", "--label", "a=2"]).fails(2, "label a is given twice");
    let prefixed = |part: &'static str, more: &[&'static str]| {
        let flags = ["--part", part, "--attempt", "1", "--prefix", "rank{I}"];
        put(&[&flags[..], more].concat())
    };
    prefixed("0/3", &[]).ok();
    prefixed("1/3", &["--label", "loss=1"]).ok();
    prefixed("2/3", &["--label", "loss=2"]).fails(4, "label loss is \"1\"");
    prefixed("2/3", &["--label", "host=b"]).ok();
    let shown = cairn.run(["show", "write/labelled@1", "--json"]).ok().json();
    assert_eq!((&shown["labels"]["loss"], &shown["labels"]["host"]), (&"1".into(), &"b".into()));
    // `annotate` may have changed them since: a repeated put neither compares nor changes labels.
    prefixed("2/3", &["--label", "host=c"]).ok();
    let again = cairn.run(["show", "write/labelled@1", "--json"]).ok().json();
    assert_eq!(again["labels"], shown["labels"]);
}

#[test]
fn a_put_that_fails_deletes_nothing() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let directory = source(&cluster, "careful", MIB, 10);
    for step in 1..=3 {
        cairn.run(args(&[&"put", &directory, &format!("write/careful@{step}")])).ok();
    }
    // More hosts than there are: refused after its begin.
    let put = args(&[
        &"put",
        &directory,
        &"write/careful@4",
        &"--keep-last",
        &"1",
        &"--replicas",
        &"5",
        &"--write-quorum",
        &"5",
    ]);
    files::random_file(&directory.join("weights.bin"), MIB, 11);
    cairn.run(put).ends(4);
    files::random_file(&directory.join("weights.bin"), MIB, 12);
    cairn.run(args(&[&"put", &directory, &"write/careful@5"])).ok();
    let listed = cairn.run(["ls", "write/careful", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(4), "{listed}");
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
        let listed = listed["checkpoints"].as_array().cloned().unwrap_or_default();
        listed.iter().filter_map(|checkpoint| checkpoint["step"].as_u64()).collect::<Vec<_>>()
    };
    until_true("two steps are left", DEADLINE, || steps() == [3, 4]);
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
