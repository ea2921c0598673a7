//! A training run of sixteen ranks: each puts its part of one checkpoint from a process of its own,
//! and they say nothing to each other. Some die and are started again, and the leader dies.

use std::path::Path;
use std::time::Duration;

use cairn_tests::chance::Chance;
use cairn_tests::cluster::TestCluster;
use cairn_tests::command::Running;
use cairn_tests::files;

use crate::{args, program};

const RANKS: usize = 16;
const KILLS: usize = 4;
const PART_BYTES: u64 = 12 << 20;

fn start_rank(cluster: &TestCluster, sources: &Path, rank: usize) -> Running {
    let source = sources.join(format!("rank{rank}"));
    let part = format!("{rank}/{RANKS}");
    let put = ["run/ranks@100", "--attempt", "1", "--prefix", "rank{I}", "--part"];
    let put = put.iter().map(std::ffi::OsStr::new);
    let first = [std::ffi::OsStr::new("put"), source.as_os_str()];
    cluster.cairn().start(first.into_iter().chain(put).chain([part.as_ref()]))
}

#[test]
fn sixteen_processes_put_sixteen_parts_while_four_and_the_leader_are_killed() {
    let mut cluster = TestCluster::start(program());
    let mut chance = Chance::of("ranks");
    let sources = cluster.scratch_directory("sources");
    for rank in 0..RANKS {
        files::checkpoint(&sources.join(format!("rank{rank}")), PART_BYTES, chance.next_u64());
    }

    let mut ranks: Vec<Running> =
        (0..RANKS).map(|rank| start_rank(&cluster, &sources, rank)).collect();
    let mut victims: Vec<usize> = (0..RANKS).collect();
    chance.shuffle(&mut victims);
    let leader = cluster.leader();
    let mut in_flight = 0;
    for (kill, rank) in victims.into_iter().take(KILLS).enumerate() {
        std::thread::sleep(Duration::from_millis(chance.within(20..250)));
        let dies = std::mem::replace(&mut ranks[rank], start_rank(&cluster, &sources, rank));
        in_flight += usize::from(dies.kill());
        if kill == KILLS / 2 {
            cluster.node(leader).kill().expect("kill the leader");
        }
    }
    // Ranks that are started again while the first process of theirs still runs join it.
    for rank in ranks {
        rank.finish().ok();
    }
    assert!(in_flight > 0, "each of {KILLS} processes had ended before it was killed");
    cluster.node(leader).start().expect("start the node again");
    cluster.wait_healthy();

    let cairn = cluster.cairn();
    let listed = cairn.run(["ls", "run/ranks", "--json"]).ok().json();
    let listed = listed["checkpoints"].as_array().cloned().unwrap_or_default();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let target = cluster.scratch("restored");
    cairn.run(args(&[&"get", &"run/ranks@100", &target])).ok();
    files::assert_same(&sources, &target);
}

#[test]
fn an_upload_in_progress_says_who_uploads_and_which_parts_are_missing() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("open-source");
    files::checkpoint(&source, 3 << 20, 7);
    let put = |part: &str| {
        cairn
            .run(args(&[&"put", &source, &"open/run@5", &"--attempt", &"1", &"--part", &part]))
            .ok()
    };
    cairn.run(["show", "--open", "open", "--json"]).ok();
    put("1/3");
    let open = |place: &str| {
        let shown = cairn.run(["show", "--open", place, "--json"]).ok().json();
        shown["uploads"].as_array().cloned().unwrap_or_default()
    };
    for place in ["open", "open/run", "open/run@5"] {
        let found = open(place);
        assert_eq!(found.len(), 1, "{place}: {found:?}");
        assert_eq!(found[0]["first_missing"], serde_json::json!([0, 2]));
        let upload = &found[0]["upload"];
        assert_eq!(upload["durable_bytes"], found[0]["segment_bytes"], "a sealed part is durable");
        assert!(upload["lease_left_ms"].as_u64() > Some(0), "{upload}");
        assert!(upload["deleted_in_ms"].as_u64() > upload["lease_left_ms"].as_u64(), "{upload}");
        assert!(found[0]["client"].as_str().is_some_and(|it| !it.is_empty()), "{found:?}");
    }
    let listed = cairn.run(["ls", "open", "--state", "open", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"][0]["first_missing"], serde_json::json!([0, 2]));
    assert_eq!(open("open/run@6").len(), 0);
    cairn.run(["show", "--open", "open/run@latest"]).fails(2, "no name but its step");
    cairn.run(["show"]).ends(2);
    put("0/3");
    put("2/3");
    assert_eq!(open("open").len(), 0, "it is committed");
    cairn.run(["show", "open/run@5"]).ok();
}
