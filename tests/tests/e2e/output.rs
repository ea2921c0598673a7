//! What verbs print: it arrives, or the exit code says that it did not; and text that somebody else
//! wrote does nothing to a terminal.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;

use cairn_tests::cluster::TestCluster;
use cairn_tests::command::Cairn;
use cairn_tests::files;

use crate::{args, program};

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("open a full device")
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("lost");
    files::checkpoint(&source, 1 << 20, 1);
    cairn.run(args(&[&"put", &source, &"lost/a@1"])).ok();
    for lost in [
        &["ls"][..],
        &["ls", "--json"],
        &["show", "lost/a@1"],
        &["show", "lost/a@1", "--json"],
        &["status"],
        &["status", "--json"],
        &["node", "ls"],
        &["node", "ls", "--json"],
        &["get", "lost/a@1", "--verify-only"],
        &["get", "lost/a@1", "--verify-only", "--json"],
        &["get", "lost/a@1", "-", "--file", "config.json"],
        &["rm", "lost/a@1", "--dry-run"],
        &["rm", "lost/a@1", "--dry-run", "--json"],
        &["version"],
        &["version", "--json"],
        &["help"],
        &["help", "put"],
        &["help", "json"],
        &["help", "exit-codes"],
        &["--help"],
        &["put", "--help"],
        &["--version"],
        &["completions", "bash"],
    ] {
        let ran = cairn.run_into(full(), lost);
        let ran = ran.fails(1, "write to stdout");
        assert!(ran.stderr.contains("No space left"), "{lost:?}: {}", ran.stderr);
    }
    for (step, json) in [(2, &[][..]), (3, &["--json"])] {
        let address = format!("lost/a@{step}");
        let mut put = args(&[&"put", &source, &address]);
        put.extend(json.iter().map(OsStr::new));
        cairn.run_into(full(), put).fails(1, "write to stdout");
        // What was done is done.
        let mut remove = vec!["rm", &address];
        remove.extend(json);
        cairn.run_into(full(), remove).fails(1, "write to stdout");
    }
}

#[test]
fn names_and_labels_of_others_do_nothing_to_a_terminal() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("hostile");
    let names: [&[u8]; 6] = [
        b"\x1b]0;title\x07",
        b"line\nbreak",
        b"over\rwritten",
        "c1\u{9b}8m".as_bytes(),
        "right\u{202e}to left".as_bytes(),
        b"not-utf8\xff",
    ];
    for name in names {
        std::fs::write(source.join(OsStr::from_bytes(name)), b"x").expect("write a file");
    }
    let label = "note=x\nreplicas: 9 of 9\x1b[8m";
    cairn.run(args(&[&"put", &source, &"hostile/a@1", &"--label", &label])).ok();
    let acts = |text: &str| {
        text.chars()
            .any(|c| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c)))
    };
    let text = cairn.run(["show", "hostile/a@1"]).ok().text();
    assert!(!acts(&text), "{text:?}");
    assert!(!text.contains("\nreplicas: 9 of 9"), "{text}");
    for shown in ["\\x1b]0;title", "line\\nbreak", "\\x9b8m", "right\\u{202e}to", "utf8\\xff"] {
        assert!(text.contains(shown), "{shown} is not in {text}");
    }
    let ran = cairn.run(["show", "hostile/a@1", "--json"]).ok();
    assert!(!acts(&ran.text()), "{:?}", ran.text());
    let document = ran.json();
    let listed = document["file_list"].as_array().expect("a list of files");
    let name_of = |file: &serde_json::Value| match file["name_hex"].as_str() {
        Some(text) => hex::decode(text).expect("hexadecimal digits"),
        None => file["name"].as_str().expect("a name").as_bytes().to_vec(),
    };
    let mut found: Vec<Vec<u8>> = listed.iter().map(name_of).collect();
    found.sort();
    let mut wanted: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    wanted.sort();
    assert_eq!(found, wanted, "names in JSON are exact");
    // Errors repeat names, too: a file that is in the way is named.
    let target = cluster.scratch_directory("hostile-target");
    std::fs::write(target.join(OsStr::from_bytes(names[0])), b"other").expect("write a file");
    let ran = cairn.run(args(&[&"get", &"hostile/a@1", &target])).ends(1);
    assert!(!acts(&ran.stderr) && ran.stderr.contains("\\x1b]0;title"), "{:?}", ran.stderr);
}

#[test]
fn verbs_have_the_names_that_other_tools_use() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("aliases");
    files::checkpoint(&source, 1 << 20, 1);
    cairn.run(args(&[&"save", &source, &"alias/a@1"])).ok();
    cairn.run(args(&[&"upload", &source, &"alias/a@2"])).ok();
    cairn.run(["restore", "alias/a@1", "--verify-only"]).ok();
    cairn.run(["download", "alias/a@2", "--verify-only"]).ok();
    cairn.run(["list", "alias"]).ok();
    cairn.run(["delete", "alias/a@1"]).ok();
    cairn.run(["remove", "alias/a@2"]).ok();
    let text = Cairn::new(program()).run(["help", "delete"]).ok().text();
    assert!(text.contains("Usage: cairn rm"), "{text}");
    let ran = Cairn::new(program()).run(["help", "statuss"]).fails(2, "statuss");
    ran.hints("status");
}

#[test]
fn a_time_may_be_an_age_or_a_date() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("timed");
    files::checkpoint(&source, 1 << 20, 1);
    cairn.run(args(&[&"put", &source, &"timed/a@1"])).ok();
    let step = |selector: &str| cairn.run(["show", &format!("timed/a@{selector}"), "--json"]);
    for now in ["time:0s", "time:2999-01-01", "time:2999-01-01T00:00:00+02:00"] {
        assert_eq!(step(now).ok().json()["step"], 1, "{now}");
    }
    for before in ["time:1h", "time:1971-01-01", "time:5"] {
        step(before).fails(3, "no checkpoint");
    }
    step("time:soon").fails(2, "malformed time");
    cairn.run(["show", "timed/a@time:soon"]).fails(2, "malformed time").hints("selectors");
    cairn.run(["show", "timed/a@production"]).fails(3, "no checkpoint").hints("cairn ls");
}

#[test]
fn a_namespace_lists_no_other_that_begins_alike() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("alike");
    files::checkpoint(&source, 1 << 20, 1);
    for name in ["alike@1", "alike-best@1", "alike/sub@1"] {
        cairn.run(args(&[&"put", &source, &name])).ok();
    }
    let names = |ns: &str| -> Vec<String> {
        let listed = cairn.run(["ls", ns, "--json"]).ok().json();
        let listed = listed["checkpoints"].as_array().cloned().unwrap_or_default();
        listed.iter().map(|it| it["namespace"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names("alike"), ["alike", "alike/sub"]);
    assert_eq!(names("alik"), [""; 0]);
    assert_eq!(names("alike-best"), ["alike-best"]);
}

#[test]
fn packages_get_completions_and_man_pages() {
    let cairn = Cairn::new(program());
    for shell in ["bash", "zsh", "fish"] {
        let script = cairn.run(["completions", shell]).ok().text();
        assert!(script.contains("verify-only"), "{shell}");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let pages = directory.path().join("man1");
    cairn.run(args(&[&"man", &pages])).ok();
    let page = std::fs::read_to_string(pages.join("cairn-put.1")).expect("read a page");
    assert!(page.contains("write\\-quorum"), "{page}");
}
