//! The procedures of deploy/RUNBOOK.md, in its order, on five nodes in three racks with a key. What
//! it says of exit codes and texts is what happens here.

use std::path::PathBuf;

use cairn_tests::cluster::DEADLINE;
use cairn_tests::command::{Cairn, Running};
use cairn_tests::files;
use cairn_tests::wait::{until, until_true};
use serde_json::Value;
use tempfile::TempDir;

use crate::dev::three_ports;
use crate::{args, program};

/// A node as README's "Real nodes" starts it.
struct Node {
    host: String,
    rack: &'static str,
    address: String,
    process: Option<Running>,
}

struct Operator {
    directory: TempDir,
    key: PathBuf,
    nodes: Vec<Node>,
}

impl Operator {
    fn new(racks: &[&'static str]) -> Self {
        let directory =
            tempfile::Builder::new().prefix("cairn-test-").tempdir().expect("a directory");
        let key = directory.path().join("cluster.key");
        Cairn::new(program()).run(args(&[&"key", &"new", &key])).ok();
        let mut operator = Self { directory, key, nodes: Vec::new() };
        racks.iter().for_each(|rack| operator.rack_up(rack));
        operator
    }

    /// One more machine, not started.
    fn rack_up(&mut self, rack: &'static str) {
        let host = format!("h{}", self.nodes.len() + 1);
        let address = format!("127.0.0.1:{}", three_ports());
        self.nodes.push(Node { host, rack, address, process: None });
    }

    fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",")
    }

    /// The binary with the operator's environment.
    fn cairn(&self) -> Cairn {
        Cairn::new(program())
            .with_variable("CAIRN_ENDPOINTS", self.endpoints())
            .with_variable("CAIRN_CLUSTER_KEY", &self.key)
    }

    fn start(&mut self, index: usize, how: &[&str]) {
        let node = &self.nodes[index];
        let data = self.directory.path().join(&node.host);
        let mut flags = args(&[
            &"node",
            &"start",
            &"--data",
            &data,
            &"--listen",
            &node.address,
            &"--rack",
            &node.rack,
            &"--host",
            &node.host,
            &"--capacity",
            &"160MiB",
        ]);
        flags.extend(how.iter().map(AsRef::<std::ffi::OsStr>::as_ref));
        let process = self.cairn().start(flags);
        self.nodes[index].process = Some(process);
    }

    /// SIGTERM, and its orderly end.
    fn stop(&mut self, index: usize) {
        let process = self.nodes[index].process.take().expect("it runs");
        process.terminate();
        process.finish().ok();
    }

    fn kill(&mut self, index: usize) {
        assert!(self.nodes[index].process.take().expect("it runs").kill());
    }

    /// "Wait until `cairn status` exits with 0."
    fn wait_healthy(&self, what: &str) -> Value {
        until(what, DEADLINE, || {
            let ran = self.cairn().run(["status", "--json", "--timeout", "15s"]);
            match ran.code {
                Some(0) => Ok(ran.json()),
                _ => Err(format!("{ran:?}")),
            }
        })
    }

    /// Until as many vote and serve as should.
    fn wait_whole(&self, count: usize) {
        until_true("all nodes vote", DEADLINE, || {
            let status = self.wait_healthy("the cluster is healthy");
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            status["voters"] == count
                && nodes.iter().filter(|it| it["state"] == "up").count() == count
        });
    }

    /// The status text, once it says `text`.
    fn status_says(&self, text: &str, code: i32) -> String {
        until(text, DEADLINE, || {
            let ran = self.cairn().run(["status", "--timeout", "15s"]);
            let said = ran.text();
            match ran.code == Some(code) && said.contains(text) {
                true => Ok(said),
                false => Err(format!("{ran:?}")),
            }
        })
    }
}

#[test]
fn the_runbooks_procedures_work_as_written() {
    let mut operator = Operator::new(&["a", "a", "b", "b", "c"]);
    let first = operator.nodes[0].address.clone();
    operator.start(0, &["--bootstrap", "--grace", "1s"]);
    (1..5).for_each(|index| operator.start(index, &["--join", &first]));
    operator.wait_whole(5);
    let cairn = operator.cairn();
    let source = operator.directory.path().join("ckpt");
    files::checkpoint(&source, 40 << 20, 1);
    cairn.run(args(&[&"put", &source, &"llama/pretrain@1000", &"--wait", &"full"])).ok();
    let restores = || cairn.run(["get", "llama/pretrain@latest", "--verify-only"]).ok();

    // Reading `cairn status`.
    let text = operator.status_says("ok: all data meets its policy", 0);
    for said in
        ["FREE", "leader", "any 2 nodes, or any 1 rack, without losing", "any 2 voters of 5"]
    {
        assert!(text.contains(said), "{said:?} is not in\n{text}");
    }

    // A node is dead, and comes back with its disk.
    operator.kill(4);
    operator.status_says("(h5, c) is down", 8);
    restores();
    operator.start(4, &[]);
    operator.wait_whole(5);

    // Replacing a node.
    operator.kill(3);
    operator.status_says("(h4, b) is down", 8);
    operator.rack_up("b");
    let others = operator.endpoints();
    operator.start(5, &["--join", &others]);
    cairn.run(["node", "wait", "h6"]).ok();
    cairn.run(["node", "remove", "h4", "--dry-run"]).ok();
    cairn.run(["node", "remove", "h4"]).ok();
    cairn.run(["status", "--wait-healthy", "--wait-timeout", "60s"]).ok();
    operator.wait_whole(5);
    operator.start(3, &[]);
    let returned = operator.nodes[3].process.take().expect("it was started");
    returned.finish().fails(4, "removed");
    restores();

    // Stopping and upgrading: one node at a time; wait for that node, then for the cluster.
    for index in [0, 1, 2, 4, 5] {
        operator.stop(index);
        operator.start(index, &[]);
        cairn.run(["node", "wait", &operator.nodes[index].host]).ok();
        cairn.run(["status", "--wait-healthy", "--wait-timeout", "60s"]).ok();
        operator.wait_whole(5);
        restores();
    }

    // A majority of voters is lost, and comes back.
    [0, 1, 2].into_iter().for_each(|index| operator.kill(index));
    let without = operator.cairn().with(["--timeout", "3s"]);
    without.run(["ls"]).ends(5);
    without.run(["get", "llama/pretrain@latest", "--verify-only"]).ends(5);
    [0, 1].into_iter().for_each(|index| operator.start(index, &[]));
    until_true("a majority is back", DEADLINE, || {
        cairn.run(["get", "llama/pretrain@latest", "--verify-only"]).code == Some(0)
    });
    operator.start(2, &[]);
    operator.wait_whole(5);

    // The disk is full: puts are refused, status says so, and nothing that is stored is harmed. What
    // fills the disks is committed, so that it stays: an upload that is refused gives its space back.
    let fill = |step: usize| {
        let source = operator.directory.path().join(format!("more-{step}"));
        files::checkpoint(&source, 16 << 20, step as u64);
        cairn.run(args(&[&"put", &source, &format!("llama/pretrain@{step}")]))
    };
    let refused = (2000..2050).map(fill).position(|ran| match ran.code {
        Some(0) => false,
        _ => {
            // The leader's words, or those of nodes that it does not know to be full yet.
            ran.fails(4, "can take a replica").hints("frees space");
            true
        }
    });
    let filled = refused.expect("five disks of 160 MiB take less than 50 puts of 16 MiB");
    operator.status_says("has no room", 8);
    restores();
    let listed = cairn.run(["ls", "--json"]).ok().json();
    assert_eq!(listed["checkpoints"].as_array().map(Vec::len), Some(1 + filled), "{listed}");
    cairn.run(["rm", "llama/pretrain@1000", "--now"]).ok();
}
