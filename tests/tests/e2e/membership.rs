//! Who is a member: nodes that are removed, replaced, stopped, or started by mistake; and clients
//! that meet two clusters.

use std::path::Path;
use std::time::Duration;

use cairn_tests::cluster::{DEADLINE, Setup, TestCluster};
use cairn_tests::command::{Cairn, Ran};
use cairn_tests::files;
use cairn_tests::wait::until_true;
use serde_json::Value;

use crate::{args, program};

const STOP: Duration = Duration::from_secs(90);
/// A put for clusters of fewer than three nodes.
const SMALL: [&str; 6] = ["--replicas", "2", "--write-quorum", "1", "--min-racks", "1"];

fn stop(cluster: &mut TestCluster, index: usize) {
    cluster.node(index).terminate().expect("tell the node to stop");
    let status = cluster.node(index).wait(STOP).expect("wait for the node");
    assert!(status.is_some_and(|status| status.success()), "the node should stop in good order");
}

/// The code of a node that ends by itself, and its last lines.
fn end_of(cluster: &mut TestCluster, index: usize) -> (Option<i32>, String) {
    until_true("the node ends by itself", DEADLINE, || !cluster.node(index).is_running());
    let status = cluster.node(index).wait(Duration::ZERO).expect("wait for the node");
    (status.and_then(|status| status.code()), cluster.nodes()[index].log_tail())
}

/// Starts a node process with flags of its own, and waits for its end.
fn start_alone(data: &Path, listen: &str, host: &str, flags: &[&str]) -> Ran {
    let fixed = ["node", "start", "--rack", "r1", "--capacity", "1GiB", "--listen", listen];
    let host = ["--host", host, "--data"];
    let all = fixed.iter().chain(flags).chain(&host).map(AsRef::as_ref).chain([data.as_os_str()]);
    Cairn::new(program()).run(all)
}

fn put_small(cluster: &TestCluster, address: &str, wait: &str) {
    let source = cluster.scratch(&address.replace(['/', '@'], "-"));
    files::checkpoint(&source, 4 << 20, 1);
    let put: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"put", &source, &address];
    let wait = ["--wait", wait];
    let flags = SMALL.iter().chain(&wait).map(AsRef::as_ref);
    cluster.cairn().run(args(&put).into_iter().chain(flags)).ok();
}

#[test]
fn of_two_nodes_the_one_that_votes_can_be_removed() {
    let setup = Setup { nodes: 2, voters: 1, ..Setup::default() };
    let mut cluster = TestCluster::start_as(program(), &setup);
    put_small(&cluster, "two/a@1", "full");
    let cairn = cluster.cairn();
    let voter = cluster.leader();
    let host = format!("host{}", voter + 1);
    let refused = cairn.run(["node", "remove", &host]);
    refused.fails(4, "would leave 1 host up").hints("--accept-fewer-hosts");
    let plan = cairn.run(["node", "remove", &host, "--dry-run", "--accept-fewer-hosts", "--json"]);
    let plan = plan.ok().json();
    assert_eq!((plan["leads"].as_bool(), plan["segments_lost"].as_u64()), (Some(true), Some(0)));
    assert_eq!(
        cairn.run(["node", "ls", "--json"]).ok().json()["nodes"].as_array().map(Vec::len),
        Some(2)
    );

    cairn.run(["node", "remove", &host, "--accept-fewer-hosts"]).ok();
    let (code, said) = end_of(&mut cluster, voter);
    assert_eq!(code, Some(4), "{said}");
    cairn.run(["get", "two/a@1", "--verify-only"]).ok();
    put_small(&cluster, "two/a@2", "quorum");
    let id = plan["node"].to_string();
    assert!(cairn.run(["node", "remove", &id]).ok().text().contains("is already removed"));
    assert_eq!(
        cairn.run(["node", "ls", "--json"]).ok().json()["nodes"].as_array().map(Vec::len),
        Some(1)
    );
    let last = format!("host{}", 2 - voter);
    cairn.run(["node", "remove", &last, "--accept-fewer-hosts"]).fails(4, "last one");
}

#[test]
fn a_node_is_drained_while_clients_write_and_goes_without_a_flag() {
    let setup = Setup { nodes: 4, ..Setup::default() };
    let mut cluster = TestCluster::start_as(program(), &setup);
    let cairn = cluster.cairn();
    let source = cluster.scratch("source");
    files::checkpoint(&source, 48 << 20, 1);
    let put = |address: &str| {
        let words: [&dyn AsRef<std::ffi::OsStr>; 5] =
            [&"put", &source, &address, &"--wait", &"full"];
        cairn.run(args(&words)).ok();
    };
    put("many/a@1");
    let leader = cluster.leader();
    let host = format!("host{}", leader + 1);
    let plan = cairn.run(["node", "drain", &host, "--dry-run", "--json"]).ok().json();
    assert_eq!(plan["refused"], Value::Null);
    let sum = |list: &str| -> u64 {
        let items = plan[list].as_array().expect("a list");
        items.iter().map(|item| item["segments"].as_u64().unwrap_or(0)).sum()
    };
    assert_eq!(plan["leads"], true);
    assert_eq!((Some(sum("targets")), sum("obstacles")), (plan["segments"].as_u64(), 0));
    let duty = || {
        let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
        let nodes = nodes["nodes"].as_array().expect("nodes").clone();
        nodes.into_iter().find(|node| node["host"] == *host).expect("the node")
    };
    assert_eq!(duty()["duty"], "serving", "a dry run changes nothing");

    cairn.run(["node", "drain", &host]).ok();
    put("many/a@2");
    let drained = cairn.run(["node", "drain", &host, "--wait=5m"]).ok();
    assert!(drained.text().contains("is drained"), "{}", drained.text());
    let node = duty();
    assert_eq!((&node["duty"], &node["draining_segments"]), (&"draining".into(), &0.into()));
    until_true("its vote moves", DEADLINE, || duty()["role"] == "learner");
    assert_eq!(duty()["replicas_assigned"], 0);
    // Three hosts are left for three replicas.
    let other = format!("host{}", (leader + 1) % 4 + 1);
    cairn.run(["node", "drain", &other]).fails(4, "would leave 2 hosts up").hints("join another");
    cairn.run(["node", "remove", &host]).ok();
    let (code, said) = end_of(&mut cluster, leader);
    assert_eq!(code, Some(4), "{said}");
    for address in ["many/a@1", "many/a@2"] {
        cairn.run(["get", address, "--verify-only"]).ok();
    }
    cairn.run(["status"]).ok();

    let kept = cairn.run(["node", "maintain", &other, "--for", "2h", "--json"]).ok().json();
    assert_eq!(kept["duty"], "maintenance");
    assert!(kept["maintenance_left_ms"].as_u64().is_some_and(|left| left > 7_000_000));
    assert!(cairn.run(["status"]).ok().text().contains("is in maintenance for "));
    assert!(cairn.run(["node", "resume", &other]).ok().text().contains("serves again"));
    cairn.run(["node", "maintain", &other, "--for", "8d"]).fails(2, "between 1ms and 7d");
}

#[test]
fn a_node_stays_while_its_vote_is_needed() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let leader = cluster.leader();
    let dead = (leader + 1) % 3;
    cluster.node(dead).kill().expect("kill a node");
    let host = format!("host{}", leader + 1);
    let all = ["--accept-fewer-hosts", "--accept-data-loss"];
    let ran = cairn.run(["node", "remove", &host].into_iter().chain(all));
    ran.fails(4, "no majority").hints("bring back voters");
    let host = format!("host{}", dead + 1);
    cairn.run(["node", "wait", &host, "--state", "down"]).ok();
    let wait = ["status", "--wait-healthy", "--wait-timeout", "1s"];
    let text = cairn.run(wait).ends(8).text();
    assert!(text.contains("no voter can be lost") || text.contains("no further voter"), "{text}");
    cluster.node(dead).start().expect("start the node again");
    let text = cairn.run(["node", "wait", &host]).ok().text();
    assert!(text.contains("is up"), "{text}");
    cairn.run(["status", "--wait-healthy"]).ok();
    cairn.run(["node", "wait", "nobody", "--wait-timeout", "0s"]).fails(8, "no node nobody");
}

#[test]
fn a_node_that_stops_in_order_is_down_at_once() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    for index in [cluster.leader(), (cluster.leader() + 1) % 3] {
        stop(&mut cluster, index);
        let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
        let host = format!("host{}", index + 1);
        let listed = nodes["nodes"].as_array().expect("a list of nodes");
        let node = listed.iter().find(|node| node["host"] == host.as_str()).expect("the node");
        assert_eq!(node["state"], "down", "{node}");
        cluster.node(index).start().expect("start the node again");
        cairn.run(["node", "wait", &host]).ok();
        cairn.run(["status", "--wait-healthy"]).ok();
    }
}

#[test]
fn a_node_whose_address_does_not_answer_is_listed_as_joining_with_the_reason() {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let data = cluster.scratch("wrong-address");
    let join = cluster.endpoints().remove(0);
    let fixed = ["node", "start", "--rack", "r4", "--host", "h4", "--capacity", "1GiB"];
    // Nobody listens on the discard port.
    let flags = ["--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:9", "--join", &join];
    let mut start = args(&[&"--data", &data]);
    start.splice(0..0, fixed.iter().chain(&flags).map(AsRef::<std::ffi::OsStr>::as_ref));
    let node = Cairn::new(program()).start(start);
    let outside = || {
        let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
        let listed = nodes["nodes"].as_array().cloned().unwrap_or_default();
        listed.into_iter().find(|node| node["host"] == "h4")
    };
    let why = |node: &Value| node["outside"].as_str().unwrap_or_default().to_owned();
    until_true("the reason is listed", DEADLINE, || {
        let listed = outside();
        listed.is_some_and(|it| why(&it).starts_with("cannot be called back at 127.0.0.1:9"))
    });
    assert_eq!(outside().expect("the node")["state"], "joining");
    let text = cairn.run(["node", "ls"]).ok().text();
    assert!(text.contains("(h4) cannot be called back at 127.0.0.1:9"), "{text}");
    let text = cairn.run(["status"]).ends(8).text();
    assert!(text.contains("cannot be called back"), "{text}");
    assert!(node.kill());
}

#[test]
fn an_empty_directory_does_not_take_a_members_place() {
    let mut cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let index = 2;
    stop(&mut cluster, index);
    let data = cluster.nodes()[index].data.clone();
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside).expect("unmount the disk, as it were");
    cluster.node(index).start().expect("start on an empty directory");
    let (code, said) = end_of(&mut cluster, index);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("already has this host and address") && said.contains("--replace"));
    assert_eq!(
        cairn.run(["node", "ls", "--json"]).ok().json()["nodes"].as_array().map(Vec::len),
        Some(3)
    );

    // Without its identity it is no empty directory.
    std::fs::remove_dir_all(&data).expect("remove the empty directory");
    std::fs::rename(&aside, &data).expect("mount the disk again");
    std::fs::rename(data.join("identity"), data.join("kept")).expect("lose the identity");
    cluster.node(index).start().expect("start without an identity");
    let (code, said) = end_of(&mut cluster, index);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("is not empty and has no identity file"), "{said}");
    assert!(!said.contains("--bootstrap"), "{said}");
    std::fs::rename(data.join("kept"), data.join("identity")).expect("find the identity");
    cluster.node(index).start().expect("start as before");
    cluster.wait_healthy();
}

#[test]
fn a_bootstrap_flag_that_was_left_in_makes_no_second_cluster() {
    let keys = tempfile::tempdir().expect("a directory");
    let key = keys.path().join("key");
    Cairn::new(program()).run(args(&[&"key", &"new", &key])).ok();
    let setup = Setup { key: Some(key.clone()), ..Setup::default() };
    let mut cluster = TestCluster::start_as(program(), &setup);
    let pin = keys.path().join("key.cluster");
    let id = cluster.cairn().run(["status", "--json"]).ok().json()["cluster"].clone();
    let id = id.as_str().expect("a cluster id").to_owned();
    assert!(std::fs::read_to_string(&pin).expect("read the pin").starts_with(&id));

    stop(&mut cluster, 0);
    let data = cluster.nodes()[0].data.clone();
    let listen = cluster.nodes()[0].address.to_string();
    std::fs::remove_dir_all(&data).expect("lose the disk");
    let key = key.display().to_string();
    let flags = ["--bootstrap", "--cluster-key", &key];
    start_alone(&data, &listen, "host1", &flags).fails(4, "already exists").hints("KEY.cluster");

    // Where nothing is remembered, its peers are asked.
    std::fs::remove_file(&pin).expect("forget the cluster");
    let peers = cluster.endpoints()[1..].join(",");
    let flags = ["--bootstrap", "--join", &peers, "--cluster-key", &key];
    let ran = start_alone(&data, &listen, "host1", &flags);
    ran.fails(4, "already exists and answers at").hints("--join instead of --bootstrap");
}

#[test]
fn a_client_takes_no_second_cluster_for_the_first() {
    let keys = tempfile::tempdir().expect("a directory");
    let [one, two, new] = ["one", "two", "new"].map(|name| keys.path().join(name));
    let cairn = Cairn::new(program());
    cairn.run(args(&[&"key", &"new", &one])).ok();
    for copy in [&two, &new] {
        std::fs::copy(&one, copy).expect("copy the key");
    }
    let setup =
        |key: &Path| Setup { nodes: 1, voters: 1, key: Some(key.to_owned()), ..Setup::default() };
    let first = TestCluster::start_as(program(), &setup(&one));
    let second = TestCluster::start_beside(program(), &setup(&two));
    let id = |cluster: &TestCluster| {
        let status = cluster.cairn().run(["status", "--json"]).ok().json();
        status["cluster"].as_str().expect("a cluster id").to_owned()
    };
    let (first_id, second_id) = (id(&first), id(&second));

    let at = |key: &Path, endpoints: &[String]| {
        let key = key.display().to_string();
        let endpoints = endpoints.join(",");
        cairn.clone().with(["--timeout", "20s", "--cluster-key", &key, "--endpoints", &endpoints])
    };
    // One that knows its cluster refuses the other, and says which is which.
    let said = at(&one, &second.endpoints()).run(["ls"]).fails(5, &first_id);
    assert!(said.stderr.contains(&second_id), "{said:?}");
    // One that does not meets both.
    let both = [first.endpoints(), second.endpoints()].concat();
    let said = at(&new, &both).run(["ls"]).fails(5, &first_id);
    assert!(said.stderr.contains(&second_id), "{said:?}");
    assert!(!keys.path().join("new.cluster").exists());
    // Where one is named, nobody else is asked who that is; the wrong one refuses by itself.
    let named = at(&new, &first.endpoints()).with(["--cluster", &second_id]);
    named.run(["status"]).fails(5, &first_id);
    assert!(!keys.path().join("new.cluster").exists(), "the one that was named did not answer");
    at(&new, &second.endpoints()).run(["status"]).ok();
    at(&new, &first.endpoints()).run(["status"]).fails(5, &second_id);
    cairn.run(["status", "--cluster", "7"]).fails(2, "malformed cluster id");
}

#[test]
fn an_address_that_nobody_can_dial_is_refused_where_it_is_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    for address in ["localhost", "::1:7400", "http://node1:7400", "node1:0", ""] {
        let start = |flags: &[&str]| start_alone(&data, "127.0.0.1:0", "h", flags);
        start(&["--join", "127.0.0.1:9", "--advertise", address]).fails(2, "malformed address");
    }
    for address in ["::1:7400", "http://node1:7400", "node1:0"] {
        let flags = ["--advertise", "node1:7400", "--join", address];
        start_alone(&data, "127.0.0.1:0", "h", &flags).fails(2, "malformed address");
    }
    assert!(!data.exists(), "nothing was made");
}
