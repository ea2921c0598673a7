//! What an operator sees and does: `ls`, `show`, `status`, `rm`, `node`; stopping, restarting and
//! replacing nodes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cairn_client::NodeId;
use cairn_tests::cluster::{DEADLINE, Setup, TestCluster};
use cairn_tests::files;
use cairn_tests::wait::until_true;
use serde_json::Value;

use crate::{args, program};

const MIB: u64 = 1 << 20;

#[track_caller]
fn assert_fields(document: &Value, fields: &[&str]) {
    for field in fields {
        assert!(!document[field].is_null(), "no {field} in {document}");
    }
}

#[test]
fn documents_parse_and_carry_the_main_fields() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("documents");
    files::random_file(&source.join("weights.bin"), 40 * MIB, 1);
    let put = cairn.run(args(&[&"put", &source, &"docs/a@1", &"--json"])).ok().json();
    assert_fields(&put, &["namespace", "step", "id", "attempt", "outcome", "bytes", "bytes_sent"]);
    cairn.run(args(&[&"put", &source, &"docs/a@2", &"--wait", &"full"])).ok();

    let listed = cairn.run(["ls", "docs", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(2));
    let first = &listed["checkpoints"][0];
    assert_fields(first, &["namespace", "step", "state", "bytes", "files", "replicas_wanted"]);
    let text = cairn.run(["ls", "docs"]).ok().text();
    assert!(text.contains("docs/a@1") && text.contains("docs/a@2"), "{text}");
    let none = cairn.run(["ls", "nothing/here", "--json"]).ok().json();
    assert_eq!(none["checkpoints"], Value::Array(vec![]));

    let shown = cairn.run(["show", "docs/a@latest", "--json"]).ok().json();
    assert_eq!(shown["step"], 2);
    assert_eq!(shown["file_list"][0]["name"], "weights.bin");
    assert_eq!(shown["segment_list"].as_array().map(Vec::len), Some(2), "40 MiB are two segments");
    assert_eq!(shown["replicas_min"], 3);
    let text = cairn.run(["show", "docs/a@2", "--segments"]).ok().text();
    assert!(text.contains("3 of 3, 3 racks"), "{text}");

    let status = cairn.run(["status", "--json"]).json();
    assert_fields(&status, &["cluster", "leader", "term", "voters", "nodes", "segments"]);
    assert_fields(&status, &["nodes_can_be_lost", "racks_can_be_lost", "problems"]);
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));
    let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
    for node in nodes["nodes"].as_array().expect("a list of nodes") {
        assert_fields(node, &["id", "host", "rack", "address", "state", "role", "capacity_bytes"]);
    }
    let version = cairn.run(["version", "--json"]).ok().json();
    assert_fields(&version, &["version", "protocol", "feature_level"]);
    // Quiet means quiet.
    let quiet = cairn.run(["ls", "nothing/here", "--quiet"]).ok();
    assert!(quiet.stderr.is_empty() && quiet.stdout.is_empty());
}

#[test]
fn time_labels_are_taken_back_and_clocks_are_shown() {
    let cluster = TestCluster::shared(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("labels");
    files::random_file(&source.join("weights.bin"), MIB, 1);
    for step in 1..3 {
        cairn.run(args(&[&"put", &source, &format!("labels/a@{step}")])).ok();
    }
    let labels = || {
        let listed = cairn.run(["ls", "labels/a", "--json"]).ok().json();
        let records = listed["checkpoints"].as_array().expect("a list").clone();
        records.iter().map(|it| it["committed_ms"].as_u64().expect("a label")).collect::<Vec<_>>()
    };
    let before = labels();
    let repair = ["namespace", "repair-time", "labels/a"];
    let text = cairn.run(repair).ok().text();
    assert!(text.contains("nothing to repair"), "{text}");
    let to = before[0] - 3_600_000;
    let plan = cairn.run([&repair[..], &["--to", &to.to_string(), "--dry-run"]].concat()).ok();
    assert!(plan.text().contains("2 commits would be labelled"), "{}", plan.text());
    assert_eq!(labels(), before, "a dry run changes nothing");
    let to_text = to.to_string();
    let relabel = [&repair[..], &["--to", &to_text, "--json"]].concat();
    cairn.run(relabel.clone()).fails(4, "2 commits of labels/a would be labelled");
    assert_eq!(labels(), before, "their labels are right");
    let seconds = (to / 1_000).to_string();
    cairn.run([&repair[..], &["--to", &seconds]].concat()).fails(2, "at least 13 digits");
    let done = cairn.run([&relabel[..], &["--force"]].concat()).ok().json();
    assert_eq!((&done["changed"], &done["to_ms"]), (&Value::from(2), &Value::from(to)));
    assert_eq!(labels(), [to, to]);
    cairn.run(["get", "labels/a@time:30m", "--verify-only"]).ok();
    cairn.run(["namespace", "repair-time", "labels/none"]).ends(3);

    let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
    for node in nodes["nodes"].as_array().expect("a list of nodes") {
        let ahead_ms = node["clock_ahead_ms"].as_i64().expect("the leader has heard each clock");
        assert!(ahead_ms.abs() < 10_000, "one machine has one clock: {node}");
    }
}

/// One HTTP answer of a node, head and body.
fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read the answer");
    answer
}

/// The runbook's alerts fire, and `status` says what is missing, in seconds.
#[test]
fn lost_majority_is_told_by_health_metrics_and_status() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let leader = cluster.leader();
    let others: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    others.iter().for_each(|index| cluster.node(*index).kill().expect("kill a node"));
    let survivor = cluster.nodes()[leader].address;
    until_true("the survivor is not healthy", DEADLINE, || {
        http_get(survivor, "/healthz").starts_with("HTTP/1.1 503")
    });
    let health = http_get(survivor, "/healthz");
    assert!(health.contains("no majority of the voters"), "{health}");
    let metrics = http_get(survivor, "/metrics");
    let value = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    assert_eq!(value("cairn_up").as_deref(), Some("0"), "{metrics}");
    assert_eq!(value("cairn_leader").as_deref(), Some("0"), "{metrics}");

    let began = Instant::now();
    let text = cairn.run(["status"]).ends(5).text();
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    assert!(text.contains("1 of 3 voters answer and 2 are needed"), "{text}");
    let told = cairn.run(["status", "--json"]).ends(5).json();
    assert_eq!(told["voters_missing"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(told["voters_needed"], 2);
    others.iter().for_each(|index| cluster.node(*index).start().expect("start a node"));
    cluster.wait_healthy();
    cairn.run(["status"]).ok();
}

#[test]
fn every_node_answers_http_on_its_port() {
    let cluster = TestCluster::shared(program());
    for node in cluster.nodes() {
        let get = |path: &str| http_get(node.address, path);
        assert!(get("/healthz").starts_with("HTTP/1.1 200"), "{}", get("/healthz"));
        let metrics = get("/metrics");
        assert!(metrics.contains("# TYPE cairn_up gauge"), "{metrics}");
        assert!(metrics.contains("cairn_segments_held{node="), "{metrics}");
        assert!(metrics.contains("# TYPE cairn_segments_received counter"), "{metrics}");
        assert!(metrics.contains("cairn_segments_received_total{node="), "{metrics}");
        assert!(metrics.contains("# TYPE cairn_segment_put_seconds histogram"), "{metrics}");
        assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
        assert!(get("/nothing").starts_with("HTTP/1.1 404"), "{}", get("/nothing"));
    }
}

#[test]
fn a_deleted_checkpoint_is_gone_at_once_and_its_space_when_asked() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch_directory("deleted");
    files::random_file(&source.join("weights.bin"), 8 * MIB, 1);
    cairn.run(args(&[&"put", &source, &"rm/a@1", &"--wait", &"full"])).ok();
    let would = cairn.run(["rm", "rm/a@1", "--dry-run", "--json"]).ok().json();
    assert_eq!((would["deleted"].as_bool(), would["bytes"].as_u64()), (Some(false), Some(8 * MIB)));
    cairn.run(["get", "rm/a@1", "--verify-only"]).ok();

    cairn.run(["rm", "rm/a@1"]).ok();
    cairn.run(["show", "rm/a@1"]).fails(3, "no checkpoint");
    cairn.run(["rm", "rm/a@1"]).ends(3);
    // Within the grace the bytes are there, and putting them again sends nothing.
    let again = cairn.run(args(&[&"put", &source, &"rm/a@2", &"--json"])).ok().json();
    assert_eq!(again["bytes_sent"], 0);
    // A second thought: the space is wanted at once.
    cairn.run(["rm", "rm/a@2"]).ok();
    cairn.run(["rm", "rm/a@2"]).ends(3);
    cairn.run(["rm", "rm/a@2", "--now"]).fails(3, "no checkpoint").hints("cairn rm --deleted");
    cairn.run(["rm", "rm/a@latest", "--deleted"]).fails(2, "names no step");
    cairn.run(["rm", "rm/a@2", "--open"]).fails(3, "rm/a@2 has no open upload");
    let would = cairn.run(["rm", "rm/a@2", "--deleted", "--dry-run"]).ok().text();
    assert!(would.contains("would free the space of the deleted rm/a@2"), "{would}");
    assert!(cluster.sum(|node| node.bytes_held) > 0);
    let said = cairn.run(["rm", "rm/a@2", "--deleted"]).ok().text();
    assert!(said.contains("already deleted: rm/a@2; its space is freed now"), "{said}");
    cairn.run(["rm", "rm/a@1", "--deleted"]).ok();
    until_true("the space is freed", DEADLINE, || cluster.sum(|node| node.bytes_held) == 0);
    until_true("nothing awaits deletion", DEADLINE, || {
        cairn.run(["status", "--json"]).json()["segments"] == 0
    });
}

#[test]
fn nodes_stop_in_good_order_and_come_back() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("stopped");
    files::checkpoint(&source, 20 * MIB, 1);
    cairn.run(args(&[&"put", &source, &"stop/a@1", &"--wait", &"full"])).ok();
    for round in 0..2 {
        for index in 0..3 {
            cluster.node(index).terminate().expect("tell a node to stop");
        }
        for index in 0..3 {
            let status = cluster.node(index).wait(DEADLINE).expect("wait");
            assert!(status.is_some_and(|status| status.success()), "round {round}: {status:?}");
        }
        cairn.clone().with(["--timeout", "1s"]).run(["status"]).ends(5);
        cluster.start_nodes();
        let restored = cluster.scratch(&format!("restored-{round}"));
        cairn.run(args(&[&"get", &"stop/a@1", &restored])).ok();
        files::assert_same(&source, &restored);
    }
    // One node that stops by itself is a matter for status, and for nobody else.
    let follower = (cluster.leader() + 1) % 3;
    cluster.node(follower).terminate().expect("tell a node to stop");
    cluster.node(follower).wait(DEADLINE).expect("wait");
    cluster.wait_status("the stopped node is down", |status| {
        status.nodes.iter().filter(|node| !node.up).count() == 1
    });
    let text = cairn.run(["status"]).ends(8).text();
    assert!(text.contains("is down"), "{text}");
}

/// Each node starts where another one was, so that nobody is where the catalogue says.
#[test]
fn nodes_whose_disks_were_exchanged_find_each_other() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("exchanged");
    files::checkpoint(&source, 20 * MIB, 1);
    cairn.run(args(&[&"put", &source, &"move/a@1", &"--wait", &"full"])).ok();
    let before: Vec<NodeId> = (0..3).map(|index| cluster.node_status(index).node).collect();
    (0..3).for_each(|index| cluster.node(index).kill().expect("kill a node"));
    let directories: Vec<_> = cluster.nodes().iter().map(|node| node.data.clone()).collect();
    let spare = cluster.scratch_directory("spare").join("data");
    let rename = |from, to| std::fs::rename(from, to).expect("rename a data directory");
    rename(&directories[2], &spare);
    rename(&directories[1], &directories[2]);
    rename(&directories[0], &directories[1]);
    rename(&spare, &directories[0]);
    cluster.start_nodes();
    let after: Vec<NodeId> = (0..3).map(|index| cluster.node_status(index).node).collect();
    assert_eq!(after, [before[2], before[0], before[1]]);
    let restored = cluster.scratch("restored");
    cairn.run(args(&[&"get", &"move/a@1", &restored])).ok();
    files::assert_same(&source, &restored);
    cairn.run(args(&[&"put", &source, &"move/a@2", &"--wait", &"full"])).ok();
}

#[test]
fn a_dead_node_is_replaced_for_good() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let source = cluster.scratch("replaced");
    files::checkpoint(&source, 24 * MIB, 1);
    cairn.run(args(&[&"put", &source, &"replace/a@1", &"--wait", &"full"])).ok();
    let dead = (cluster.leader() + 1) % 3;
    let old = cluster.node_status(dead).node;
    cluster.node(dead).kill().expect("kill a node");
    let data = cluster.nodes()[dead].data.clone();

    cairn.run(["node", "remove", "999"]).fails(3, "no node").hints("node ls");
    cairn.run(["node", "wait", &old.to_string(), "--state", "down"]).ok();
    cairn.run(["node", "remove", &old.to_string()]).ok();
    let listed = cairn.run(["node", "ls", "--all", "--json"]).ok().json();
    let state = |listed: &Value, id: NodeId| {
        let nodes = listed["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().find(|node| node["id"] == id.0).map(|node| node["state"].clone())
    };
    assert_eq!(state(&listed, old), Some("removed".into()));
    // The removed directory never comes back under its number.
    cluster.node(dead).start().expect("start the removed node");
    until_true("the removed node ends by itself", DEADLINE, || !cluster.node(dead).is_running());
    let status = cluster.node(dead).wait(Duration::ZERO).expect("wait");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    let said = cluster.nodes()[dead].log_tail();
    assert!(said.contains("removed from the cluster"), "{said}");

    // A new disk in its place: a new node, which gets the missing replicas.
    std::fs::remove_dir_all(&data).expect("remove the directory");
    if dead != 0 {
        cluster.node(dead).start().expect("start on an empty directory");
        cluster.wait_healthy();
        assert_ne!(cluster.node_status(dead).node, old);
        assert!(cluster.node_status(dead).bytes_held >= 24 * MIB);
        cairn.run(["status"]).ok();
    }
    cairn.run(["get", "replace/a@1", "--verify-only"]).ok();
}

#[test]
fn replicas_of_a_node_that_stays_down_are_made_elsewhere() {
    let flags = ["--replace-after", "2s", "--down-after", "2s"].map(str::to_owned).to_vec();
    let setup = Setup { nodes: 4, extra: flags, ..Setup::default() };
    let mut cluster = TestCluster::start_as(program(), &setup);
    let cairn = cluster.cairn();
    let source = cluster.scratch("elsewhere");
    files::checkpoint(&source, 24 * MIB, 1);
    cairn.run(args(&[&"put", &source, &"elsewhere/a@1", &"--wait", &"full"])).ok();
    let leader = cluster.leader();
    let victim = (0..4)
        .find(|index| *index != leader && cluster.node_status(*index).segments_held > 0)
        .expect("a node with replicas");
    cluster.node(victim).kill().expect("kill a node");
    cluster.wait_status("three replicas count again", |status| {
        let down = status.nodes.iter().any(|node| !node.up);
        down && status.segments > 0 && status.segments_below == 0
    });
    cairn.run(["get", "elsewhere/a@1", "--verify-only"]).ok();
}
