//! What an operator sees and does: `ls`, `show`, `status`, `rm`, `node`; stopping, restarting and
//! replacing nodes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

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
    assert_fields(&put, &["checkpoint", "id", "attempt", "outcome", "bytes", "bytes_sent"]);
    cairn.run(args(&[&"put", &source, &"docs/a@2", &"--wait", &"full"])).ok();

    let listed = cairn.run(["ls", "docs", "--json"]).ok().json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_fields(&listed[0], &["namespace", "step", "state", "bytes", "files", "replicas_wanted"]);
    let text = cairn.run(["ls", "docs"]).ok().text();
    assert!(text.contains("docs/a@1") && text.contains("docs/a@2"), "{text}");
    assert_eq!(cairn.run(["ls", "nothing/here", "--json"]).ok().json(), Value::Array(vec![]));

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
    for node in nodes.as_array().expect("a list of nodes") {
        assert_fields(node, &["id", "host", "rack", "address", "state", "role", "capacity_bytes"]);
    }
    let version = cairn.run(["version", "--json"]).ok().json();
    assert_fields(&version, &["version", "protocol", "feature_level"]);
    // Quiet means quiet.
    let quiet = cairn.run(["ls", "nothing/here", "--quiet"]).ok();
    assert!(quiet.stderr.is_empty() && quiet.stdout.is_empty());
}

#[test]
fn every_node_answers_http_on_its_port() {
    let cluster = TestCluster::shared(program());
    for node in cluster.nodes() {
        let get = |path: &str| {
            let mut stream = TcpStream::connect(node.address).expect("connect");
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("ask");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("read the answer");
            answer
        };
        assert!(get("/healthz").starts_with("HTTP/1.1 200"), "{}", get("/healthz"));
        let metrics = get("/metrics");
        assert!(metrics.contains("# TYPE cairn_up gauge"), "{metrics}");
        assert!(metrics.contains("cairn_segments_held{node="), "{metrics}");
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
    cairn.run(["rm", "rm/a@2", "--now"]).ok();
    until_true("the space is given back", DEADLINE, || cluster.sum(|node| node.bytes_held) == 0);
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
            let status = cluster.node(index).wait(Duration::from_secs(20)).expect("wait");
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
    cluster.node(follower).wait(Duration::from_secs(20)).expect("wait");
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
    let before: Vec<u64> = (0..3).map(|index| cluster.node_status(index).node).collect();
    (0..3).for_each(|index| cluster.node(index).kill().expect("kill a node"));
    let directories: Vec<_> = cluster.nodes().iter().map(|node| node.data.clone()).collect();
    let spare = cluster.scratch_directory("spare").join("data");
    let rename = |from, to| std::fs::rename(from, to).expect("rename a data directory");
    rename(&directories[2], &spare);
    rename(&directories[1], &directories[2]);
    rename(&directories[0], &directories[1]);
    rename(&spare, &directories[0]);
    cluster.start_nodes();
    let after: Vec<u64> = (0..3).map(|index| cluster.node_status(index).node).collect();
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
    cairn.run(["node", "remove", &old.to_string()]).ok();
    let listed = cairn.run(["node", "ls", "--json"]).ok().json();
    let state = |listed: &Value, id: u64| {
        let nodes = listed.as_array().cloned().unwrap_or_default();
        nodes.iter().find(|node| node["id"] == id).map(|node| node["state"].clone())
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
