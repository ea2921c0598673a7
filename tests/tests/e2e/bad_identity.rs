//! Data directories that are not what they claim: a copy, or the state of an earlier day. Two
//! nodes under one number would vote twice, so each is refused, and the original goes on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_host::envelope::{Reason, refuse};
use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::command::{Cairn, Ran};
use cairn_tests::files;
use cairn_tests::wait::until_true;
use tonic::service::Routes;

use crate::{args, program};

const STOP: Duration = Duration::from_secs(90);

fn shell(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) {
    let status = Command::new(program).args(args(arguments)).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} failed");
}

/// Starts a node process on `data` with the flags of node `index`, and waits for its end.
fn start_on(cluster: &TestCluster, index: usize, data: &Path, listen: &str) -> Ran {
    let node = &cluster.nodes()[index];
    let host = format!("host{}", index + 1);
    let join = cluster.endpoints().remove((index + 1) % 3);
    Cairn::new(program()).run(args(&[
        &"node",
        &"start",
        &"--data",
        &data,
        &"--listen",
        &listen,
        &"--advertise",
        &"127.0.0.1:9",
        &"--rack",
        &node.rack,
        &"--host",
        &host,
        &"--capacity",
        &"1GiB",
        &"--join",
        &join,
    ]))
}

fn stop(cluster: &mut TestCluster, index: usize) {
    cluster.node(index).terminate().expect("tell the node to stop");
    let status = cluster.node(index).wait(STOP).expect("wait for the node");
    assert!(status.is_some_and(|status| status.success()), "the node should stop in good order");
}

fn archive(cluster: &TestCluster, index: usize) -> (PathBuf, PathBuf) {
    let data = cluster.nodes()[index].data.clone();
    let archive = cluster.scratch_directory("archive").join("node.tar");
    shell("tar", &[&"-C", &data, &"-cf", &archive, &"."]);
    (data, archive)
}

/// Stops a node, archives its directory, and starts it again. Gives directory and archive.
fn archive_while_down(cluster: &mut TestCluster, index: usize) -> (PathBuf, PathBuf) {
    stop(cluster, index);
    let archived = archive(cluster, index);
    cluster.node(index).start().expect("start the node again");
    cluster.wait_healthy();
    archived
}

fn put_something(cluster: &TestCluster, step: u64) {
    let directory = cluster.scratch_directory(&format!("files-{step}"));
    std::fs::write(directory.join("weights"), files::random_bytes(3 << 20, step)).expect("write");
    let address = format!("identity@{step}");
    cluster.cairn().run(args(&[&"put", &directory, &address])).ok();
}

#[test]
fn a_copied_directory_is_refused_while_the_original_runs_and_after() {
    let mut cluster = TestCluster::start(program());
    put_something(&cluster, 1);
    let original = cluster.nodes()[1].data.clone();
    let copy = cluster.scratch_directory("copies").join("node2");

    shell("cp", &[&"-a", &original, &copy]);
    start_on(&cluster, 1, &copy, "127.0.0.1:0").fails(4, "is a copy").hints("--join");
    start_on(&cluster, 1, &original, "127.0.0.1:0").fails(1, "in use by another process");

    stop(&mut cluster, 1);
    let second = cluster.scratch("copies").join("node2-stopped");
    shell("cp", &[&"-a", &original, &second]);
    start_on(&cluster, 1, &second, "127.0.0.1:0").fails(4, "is a copy");
    // The same port, where the original was.
    let port = cluster.nodes()[1].address.to_string();
    start_on(&cluster, 1, &copy, &port).fails(4, "is a copy");

    cluster.node(1).start().expect("start the original again");
    cluster.wait_healthy();
    put_something(&cluster, 2);
}

#[test]
fn a_directory_of_an_earlier_day_is_refused() {
    let mut cluster = TestCluster::start(program());
    put_something(&cluster, 1);
    let (data, archive) = archive_while_down(&mut cluster, 2);
    put_something(&cluster, 2);
    stop(&mut cluster, 2);

    // Overwritten in place: every file keeps its inode, only the content is of yesterday.
    let inode = || std::fs::metadata(data.join("identity")).map(|found| found.ino()).ok();
    let before = inode();
    shell("tar", &[&"-C", &data, &"--overwrite", &"-xf", &archive]);
    assert_eq!(inode(), before, "this tar does not write in place");
    let port = cluster.nodes()[2].address.to_string();
    start_on(&cluster, 2, &data, &port).fails(4, "older than its registration").hints("--join");

    // Removed and unpacked: a new inode, or by chance the old one.
    std::fs::remove_dir_all(&data).expect("remove the directory");
    std::fs::create_dir(&data).expect("make the directory");
    shell("tar", &[&"-C", &data, &"-xf", &archive]);
    let ran = start_on(&cluster, 2, &data, &port).ends(4);
    let says = |text: &str| ran.stderr.contains(text);
    assert!(says("is a copy") || says("older than its registration"), "{}", ran.stderr);

    // The others never noticed; the way back is a new node on an empty directory.
    put_something(&cluster, 3);
    let cairn = cluster.cairn();
    let nodes = cairn.run(["node", "ls", "--json"]).ok().json();
    let old = nodes["nodes"].as_array().and_then(|nodes| {
        nodes.iter().find(|node| node["address"] == port.as_str())?["id"].as_u64()
    });
    let old = old.expect("the node's number").to_string();
    cairn.run(["node", "remove", &old]).ok();
    std::fs::remove_dir_all(&data).expect("remove the directory");
    cluster.node(2).start().expect("start on an empty directory");
    cluster.wait_healthy();
    cairn.run(["status"]).ok();
    for step in 1..=3 {
        cairn.run(["get", &format!("identity@{step}"), "--verify-only"]).ok();
    }
}

#[test]
fn a_cold_cluster_refuses_a_directory_of_an_earlier_day() {
    let mut cluster = TestCluster::start(program());
    put_something(&cluster, 1);
    let (data, archive) = archive_while_down(&mut cluster, 2);
    put_something(&cluster, 2);
    for index in 0..3 {
        stop(&mut cluster, index);
    }
    shell("tar", &[&"-C", &data, &"--overwrite", &"-xf", &archive]);
    for index in [2, 0, 1] {
        cluster.node(index).start().expect("start a node");
    }
    // Nobody could be asked at its start; its registration is refused.
    until_true("the old directory ends by itself", Duration::from_secs(60), || {
        !cluster.node(2).is_running()
    });
    let said = std::fs::read_to_string(&cluster.nodes()[2].log).expect("read its log");
    assert!(said.contains("older than its registration"), "{}", cluster.nodes()[2].log_tail());
    let serves = || matches!(cluster.cairn().run(["status"]).code, Some(0 | 8));
    until_true("the other two serve", DEADLINE, serves);
    put_something(&cluster, 3);
    for step in 1..=3 {
        cluster.cairn().run(["get", &format!("identity@{step}"), "--verify-only"]).ok();
    }
}

/// A machine's disk set back to a snapshot that was taken while the node ran: the identity file
/// is the right one, only the log has forgotten what it acknowledged.
#[test]
fn a_directory_set_back_within_one_registration_is_refused() {
    let mut cluster = TestCluster::start(program());
    put_something(&cluster, 1);
    let index = 1;
    let pid = cluster.nodes()[index].pid().expect("the node runs").to_string();
    shell("kill", &[&"-STOP", &pid]);
    let (data, archive) = archive(&cluster, index);
    shell("kill", &[&"-CONT", &pid]);
    put_something(&cluster, 2);
    cluster.wait_healthy();
    stop(&mut cluster, index);

    let before = std::fs::read(data.join("identity")).expect("read the identity file");
    shell("tar", &[&"-C", &data, &"--overwrite", &"-xf", &archive]);
    let after = std::fs::read(data.join("identity")).expect("read the identity file");
    assert_eq!(before, after, "another registration came between");
    let port = cluster.nodes()[index].address.to_string();
    start_on(&cluster, index, &data, &port)
        .fails(4, "older than what this node has told others")
        .hints("--join");
    put_something(&cluster, 3);
    for step in 1..=3 {
        cluster.cairn().run(["get", &format!("identity@{step}"), "--verify-only"]).ok();
    }
}

/// A process that took a member's address and tells every caller that it was replaced.
#[test]
fn one_peer_that_says_so_ends_nobody() {
    let mut cluster = TestCluster::start(program());
    let liar = (cluster.leader() + 1) % 3;
    let address = cluster.nodes()[liar].address;
    cluster.node(liar).kill().expect("kill a node");
    let heard = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&heard);
    let lies = axum::Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let refused = refuse(Reason::StaleIdentity, "another process has registered as you");
        std::future::ready(refused.into_http::<axum::body::Body>())
    });
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = cluster.runtime().spawn(async move {
        let server = tonic::transport::Server::builder().add_routes(Routes::from(lies));
        let end = async { drop(ended.await) };
        server.serve_with_shutdown(address, end).await
    });
    until_true("the liar is asked", DEADLINE, || heard.load(Ordering::Relaxed) > 50);
    let source = cluster.scratch("among-liars");
    files::checkpoint(&source, 4 << 20, 1);
    let put: [&dyn AsRef<std::ffi::OsStr>; 3] = [&"put", &source, &"among/liars@1"];
    cluster.cairn().run(args(&put)).ok();
    for node in (0..3).filter(|node| *node != liar) {
        assert!(cluster.node(node).is_running(), "{}", cluster.nodes()[node].log_tail());
    }
    drop(end);
    cluster.run(serving).expect("the liar ends").expect("the liar served");
    cluster.node(liar).start().expect("start the node");
    cluster.wait_healthy();
}
