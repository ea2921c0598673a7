//! `cairn dev` and `cairn demo`: they touch no cluster but their own, and nothing of theirs goes
//! on after them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cairn_tests::cluster::DEADLINE;
use cairn_tests::command::{Cairn, Running};
use cairn_tests::wait::{until, until_true};
use tempfile::TempDir;

use crate::readme::Newcomer;
use crate::{args, program};

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("cairn-test-").tempdir().expect("make a directory")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The first of three free ports in a row, for one test alone: below those of other tests'
/// clusters and those that the system hands out.
pub fn three_ports() -> u16 {
    const FROM: u32 = 8_000;
    const COUNT: u32 = 2_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let turn = NEXT.fetch_add(3, Ordering::Relaxed);
        assert!(turn < COUNT, "no three free ports in a row");
        // Runs at the same time begin at different places.
        let offset = (std::process::id() * 97 + turn) % (COUNT - 3);
        let first = u16::try_from(FROM + offset).expect("a port");
        if (first..first + 3).all(is_free) {
            return first;
        }
    }
}

fn dev(directory: &Path, port: u16) -> Running {
    let dir = directory.join("dev");
    Cairn::new(program()).start(args(&[&"dev", &"--dir", &dir, &"--port", &port.to_string()]))
}

fn at(port: u16) -> Cairn {
    Cairn::new(program()).with(["--endpoints", &format!("127.0.0.1:{port}"), "--timeout", "15s"])
}

/// Waits until three nodes serve as one cluster; returns its id.
fn wait_up(port: u16) -> String {
    let mut id = String::new();
    until_true("the cluster is up", DEADLINE, || {
        let ran = at(port).run(["status", "--json"]);
        if ran.code != Some(0) {
            return false;
        }
        let status = ran.json();
        id = status["cluster"].as_str().unwrap_or_default().to_owned();
        status["voters"] == 3
    });
    id
}

fn all_free(port: u16) -> bool {
    (port..port + 3).all(is_free)
}

/// A node of a cluster that is somebody's.
fn foreign_node(directory: &Path, port: u16) -> (Running, String) {
    let data = directory.join("foreign");
    let node = Cairn::new(program()).start(args(&[
        &"node",
        &"start",
        &"--data",
        &data,
        &"--listen",
        &format!("127.0.0.1:{port}"),
        &"--rack",
        &"r",
        &"--capacity",
        &"1GiB",
        &"--bootstrap",
    ]));
    let mut id = String::new();
    until_true("the node serves", DEADLINE, || {
        let ran = at(port).run(["status", "--json"]);
        if ran.code != Some(0) {
            return false;
        }
        let status = ran.json();
        id = status["cluster"].as_str().unwrap_or_default().to_owned();
        status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
    });
    (node, id)
}

fn node_count(port: u16) -> usize {
    let status = at(port).run(["status", "--json"]).json();
    status["nodes"].as_array().map_or(0, Vec::len)
}

#[test]
fn dev_refuses_a_port_in_use_and_leaves_the_cluster_there_alone() {
    let directory = directory();
    let port = three_ports();
    // It has the second port: also a node that is not asked to join is not disturbed.
    for taken in [port, port + 1] {
        let (node, id) = foreign_node(&directory.path().join(taken.to_string()), taken);
        let ran = dev(directory.path(), port).finish();
        let ran = ran.fails(1, "is in use by node 1 of cluster").hints("--port");
        assert!(ran.stderr.contains(&id), "{}", ran.stderr);
        assert_eq!(node_count(taken), 1);
        node.terminate();
        node.finish().ok();
        until_true("its port is free again", DEADLINE, || is_free(taken));
    }
    let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("take the port");
    dev(directory.path(), port).finish().fails(1, "is in use by another program");
}

#[test]
fn a_node_joins_only_the_cluster_that_it_is_told() {
    let directory = directory();
    let port = three_ports();
    let (_node, id) = foreign_node(directory.path(), port);
    let data = directory.path().join("newcomer");
    let join = |cluster: &str| {
        Cairn::new(program()).start(args(&[
            &"node",
            &"start",
            &"--data",
            &data,
            &"--listen",
            &format!("127.0.0.1:{}", port + 1),
            &"--rack",
            &"r",
            &"--host",
            &"another",
            &"--capacity",
            &"1GiB",
            &"--join",
            &format!("127.0.0.1:{port}"),
            &"--cluster",
            &cluster,
        ]))
    };
    let other = "0123456789abcdef0123456789abcdef";
    let ran = join(other).finish().fails(4, "belongs to cluster");
    assert!(ran.stderr.contains(&id) && ran.stderr.contains(other), "{}", ran.stderr);
    assert_eq!(node_count(port), 1, "it was asked for a place all the same");
    let newcomer = join(&id);
    until_true("it joins the right one", DEADLINE, || node_count(port) == 2);
    until_true("it serves", DEADLINE, || at(port + 1).run(["status"]).code == Some(0));
    newcomer.terminate();
    newcomer.finish().ok();
    // Its directory is now that cluster's.
    join(other).finish().fails(4, "the data directory belongs to cluster");
}

#[test]
fn a_second_dev_in_the_same_directory_says_what_runs_there() {
    let directory = directory();
    let (port, other) = (three_ports(), three_ports());
    let first = dev(directory.path(), port);
    let id = wait_up(port);
    let second = dev(directory.path(), other).finish().fails(1, "is already running in");
    let runs = format!("process {}, ports {port} to {}", first.pid(), port + 2);
    assert!(second.stderr.contains(&runs), "{}", second.stderr);
    assert!(all_free(other));
    first.interrupt();
    first.finish().ok();
    until_true("its nodes have ended", DEADLINE, || all_free(port));
    // And goes on with it, as the same cluster.
    let again = dev(directory.path(), port);
    assert_eq!(wait_up(port), id);
    drop(again);
    until_true("nodes of a killed dev end by themselves", DEADLINE, || all_free(port));
}

#[test]
fn dev_ends_with_its_nodes_when_its_terminal_closes_or_it_is_killed() {
    let directory = directory();
    let port = three_ports();
    let up = dev(directory.path(), port);
    wait_up(port);
    up.hang_up();
    up.finish().ok();
    assert!(all_free(port));
    let up = dev(directory.path(), port);
    wait_up(port);
    assert!(up.kill());
    until_true("nodes of a killed dev end by themselves", DEADLINE, || all_free(port));
}

#[test]
fn ctrl_c_before_dev_is_ready_stops_it_in_order() {
    let directory = directory();
    let port = three_ports();
    let starting = dev(directory.path(), port);
    let log = directory.path().join("dev/node1.log");
    until_true("the first node is started", DEADLINE, || log.exists());
    starting.interrupt();
    let ran = starting.finish().ok();
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(all_free(port));
}

#[test]
fn a_missing_key_in_the_environment_does_not_stop_dev() {
    let directory = directory();
    let port = three_ports();
    let missing = directory.path().join("missing.key");
    let dir = directory.path().join("dev");
    let up = Cairn::new(program()).with_variable("CAIRN_CLUSTER_KEY", &missing).start(args(&[
        &"dev",
        &"--dir",
        &dir,
        &"--port",
        &port.to_string(),
    ]));
    wait_up(port);
    up.terminate();
    let said = up.finish().ok().stderr;
    assert!(said.contains("missing.key, which does not exist"), "{said}");
    // A key that is asked for by name has to be there.
    let flags = args(&[&"dev", &"--dir", &dir, &"--cluster-key", &missing]);
    Cairn::new(program()).run(flags).fails(2, "missing.key");
}

/// The command that dev says to try next, once it is up; its words go to a file of the shell's
/// directory.
fn tried_next(shell: &Newcomer) -> String {
    let words = shell.home().join("words");
    until("dev says what to try", DEADLINE, || {
        let said = std::fs::read_to_string(&words).unwrap_or_default();
        let line = said.lines().find_map(|line| line.strip_prefix("try:"));
        match line.filter(|_| said.contains("Ctrl-C stops the cluster")) {
            Some(line) => Ok(line.trim().to_owned()),
            None => Err(said),
        }
    })
}

#[test]
fn what_dev_says_to_try_works_and_does_not_tie_a_real_key_to_it() {
    let mut shell = Newcomer::new();
    shell.run("cairn key new real.key").ok();
    let key = shell.home().join("real.key");
    shell.export("CAIRN_CLUSTER_KEY", key.to_str().expect("a path of text"));
    // The environment is that of real nodes.
    shell.export("CAIRN_CLUSTER", "0123456789abcdef0123456789abcdef");
    shell.export("CAIRN_ENDPOINTS", "192.0.2.1:7400");
    let up = shell.start("cairn dev 2>words");
    let command = tried_next(&shell);
    shell.run(&command).ok();
    // Nor without the id of a real cluster in the environment.
    shell.run(&format!("unset CAIRN_CLUSTER; {command}")).ok();
    assert!(!shell.home().join("real.key.cluster").exists(), "a real key is tied to a toy");
    up.interrupt();
    up.finish().ok();
}

#[test]
fn what_dev_says_to_try_works_where_the_key_of_the_environment_is_missing() {
    let mut shell = Newcomer::new();
    let missing = shell.home().join("missing.key");
    shell.export("CAIRN_CLUSTER_KEY", missing.to_str().expect("a path of text"));
    let up = shell.start("cairn dev 2>words");
    shell.run(&tried_next(&shell)).ok();
    up.interrupt();
    up.finish().ok();
}

#[test]
fn a_demo_whose_terminal_closes_leaves_nothing_behind() {
    let directory = directory();
    let temporary = directory.path().join("tmp");
    std::fs::create_dir(&temporary).expect("make a directory");
    let cairn = Cairn::new(program()).with_variable("TMPDIR", &temporary);
    let mut demo = cairn.start(["demo"]);
    let entries = || {
        let entries = std::fs::read_dir(&temporary).expect("list a directory");
        entries.flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    until_true("its nodes run", DEADLINE, || {
        assert!(demo.is_running(), "the demo has ended");
        entries().iter().any(|path| path.join("node3.log").exists())
    });
    demo.hang_up();
    demo.finish().ends(130);
    assert_eq!(entries(), Vec::<std::path::PathBuf>::new());
    // A killed one cannot tidy up. The next one does.
    let mut demo = cairn.start(["demo"]);
    until_true("its nodes run", DEADLINE, || {
        assert!(demo.is_running(), "the demo has ended");
        entries().iter().any(|path| path.join("node3.log").exists())
    });
    demo.kill();
    let left = entries();
    let mut demo = cairn.start(["demo"]);
    until_true("the next one runs", DEADLINE, || {
        assert!(demo.is_running(), "the demo has ended");
        let entries = entries();
        entries != left && entries.iter().any(|path| path.join("node3.log").exists())
    });
    demo.interrupt();
    let said = demo.finish().ends(130).stderr;
    assert!(said.contains("left by an earlier run"), "{said}");
    assert_eq!(entries(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_demo_without_its_files_or_room_says_so_at_once() {
    let directory = directory();
    let cairn = Cairn::new(program());
    let missing = directory.path().join("missing");
    cairn.run(args(&[&"demo", &"--checkpoint", &missing])).fails(1, "does not exist");
    let sparse = directory.path().join("sparse");
    std::fs::create_dir(&sparse).expect("make a directory");
    let file = std::fs::File::create(sparse.join("large")).expect("make a file");
    file.set_len(1 << 40).expect("make it seem large");
    let started = std::time::Instant::now();
    cairn.run(args(&[&"demo", &"--checkpoint", &sparse])).fails(1, "the demo needs").hints("--dir");
    assert!(started.elapsed() < Duration::from_secs(120));
}
