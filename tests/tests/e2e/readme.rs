//! README.md as a newcomer types it: each command of *First steps* and *Real nodes* is run, and
//! what README shows below a command is compared with what it prints.

use std::path::{Path, PathBuf};

use cairn_tests::cluster::DEADLINE;
use cairn_tests::command::{Cairn, Ran, Running};
use cairn_tests::transcript::{Block, Step, blocks, differs};
use cairn_tests::wait::until_true;
use tempfile::TempDir;

use crate::dev::three_ports;
use crate::program;

const README: &str = include_str!("../../../README.md");
/// What README calls these are here: a build, and the way to it.
const BUILD: [&str; 2] = ["cargo build --release", r#"export PATH="$PWD/target/release:$PATH""#];
/// The put that README shows killed and repeated, and how large its file is there and here.
const RESUMED: &str = "cairn put big run@3";
const RESUMED_BYTES: (&str, &str) = ("400000000", "100000000");

/// A directory and a shell in which `cairn` is the binary under test.
pub struct Newcomer {
    directory: TempDir,
    shell: Cairn,
    port: u16,
}

impl Newcomer {
    pub fn new() -> Self {
        let directory =
            tempfile::Builder::new().prefix("cairn-test-").tempdir().expect("make a directory");
        let bin = directory.path().join("bin");
        std::fs::create_dir(&bin).expect("make a directory");
        std::os::unix::fs::symlink(program(), bin.join("cairn")).expect("link the binary");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let port = three_ports();
        let shell = Cairn::new(Path::new("bash"))
            .with_variable("PATH", path)
            .with_variable("CAIRN_DEV_PORT", port.to_string())
            .with_variable("CAIRN_ENDPOINTS", format!("127.0.0.1:{port}"));
        Self { directory, shell, port }
    }

    /// Sets a variable of the shell.
    pub fn export(&mut self, name: &str, value: &str) {
        self.shell = self.shell.clone().with_variable(name, value);
    }

    /// Where commands run.
    pub fn home(&self) -> PathBuf {
        let home = self.directory.path().join("home");
        std::fs::create_dir_all(&home).expect("make a directory");
        home
    }

    fn script(&self, text: &str) -> [String; 3] {
        let text = format!("cd '{}'; {text}", self.home().display());
        ["-ec".to_owned(), text, "readme".to_owned()]
    }

    pub fn run(&self, text: &str) -> Ran {
        self.shell.run(self.script(text))
    }

    /// Runs in the background; a signal reaches the command itself.
    pub fn start(&self, command: &str) -> Running {
        self.shell.start(self.script(&format!("exec {command}")))
    }

    fn wait_voters(&self, status: &str) {
        until_true("three nodes vote", DEADLINE, || {
            let ran = self.run(&format!("{status} --json"));
            ran.code == Some(0) && ran.json()["voters"] == 3
        });
    }

    fn play(&self, step: &Step) {
        if step.command == RESUMED {
            return self.resume(step);
        }
        let printed = self.run(&step.command).ok().text();
        // Two replicas are enough for a put that does not wait for all.
        let printed = match step.command.contains("--wait full") {
            true => printed,
            false => printed.replace(": 2 of 3 replicas, 2 racks", ": 3 of 3 replicas, 3 racks"),
        };
        if !step.shown.is_empty()
            && let Some(what) = differs(&step.shown, &printed)
        {
            panic!("README.md shows below `{}` what it does not print\n  {what}", step.command);
        }
    }

    /// A put is killed with bytes on the way, then repeated. How far it came by then is chance.
    fn resume(&self, step: &Step) {
        let put = self.start(&step.command);
        until_true("the put has begun", DEADLINE, || {
            let open = self.run("cairn ls run --open --json");
            open.code == Some(0) && open.json()["checkpoints"] != serde_json::json!([])
        });
        put.kill();
        let printed = self.run(&step.command).ok().text();
        let shown = step.shown.iter().map(|line| without_numbers(line)).collect::<Vec<_>>();
        assert_eq!(differs(&shown, &without_numbers(&printed)), None);
    }
}

/// The words of lines, with `#` for each number and each unit.
fn without_numbers(text: &str) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "KiB/s", "MiB/s", "GiB/s"];
    let word = |word: &str| {
        let is_number = word.parse::<f64>().is_ok();
        if is_number || units.contains(&word) { "#".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn blocks_of(section: &str) -> Vec<Block> {
    blocks(README).into_iter().filter(|block| block.section == section).collect()
}

#[test]
fn each_block_of_readme_is_played() {
    let mut sections: Vec<String> = blocks(README).into_iter().map(|it| it.section).collect();
    sections.dedup();
    // "Try it" is the demo, which `dev` plays, and what it prints, shortened.
    assert_eq!(sections, ["Try it", "First steps", "Real nodes"]);
}

#[test]
fn readmes_first_steps_work_as_written() {
    let blocks = blocks_of("First steps");
    let (first, sessions) = blocks.split_first().expect("README has first steps");
    let mut commands = first.commands();
    let dev = commands.pop().expect("a command starts the cluster");
    assert_eq!(commands, BUILD);
    assert!(sessions.iter().all(Block::is_session), "a block shows no command: {sessions:?}");
    let newcomer = Newcomer::new();
    let up = newcomer.start(&dev);
    newcomer.wait_voters("cairn status");
    let mut resumed = false;
    for mut step in sessions.iter().flat_map(Block::steps) {
        step.command = step.command.replace(RESUMED_BYTES.0, RESUMED_BYTES.1);
        newcomer.play(&step);
        resumed |= step.command == RESUMED;
    }
    assert!(resumed, "README has no `{RESUMED}` any more");
    up.interrupt();
    up.finish().ok();
}

#[test]
fn readmes_real_nodes_start_as_written() {
    let blocks = blocks_of("Real nodes");
    let commands = blocks.iter().flat_map(Block::commands).collect::<Vec<_>>();
    let [make_key, export, first, second, status] = &commands[..] else {
        panic!("other commands than this test knows: {commands:?}");
    };
    let newcomer = Newcomer::new();
    // The machines of README are ports of this one.
    let here = |command: &str, node: u16| {
        let mut command = command.to_owned();
        for other in 1..=3 {
            let address = format!("127.0.0.1:{}", newcomer.port + other - 1);
            command = command.replace(&format!("node{other}:7400"), &address);
        }
        let listen = format!("127.0.0.1:{}", newcomer.port + node - 1);
        let data = newcomer.directory.path().join(format!("srv{node}"));
        let command = command.replace("0.0.0.0:7400", &listen);
        let placed = command.replace("/srv/cairn", &data.display().to_string());
        assert!(!placed.contains("7400"), "an address was not replaced: {placed}");
        format!("{export}; {placed}")
    };
    let start = |command: &str, node: u16| {
        let command = here(command, node).replace("; cairn ", "; exec cairn ");
        newcomer.shell.start(newcomer.script(&command))
    };
    newcomer.run(make_key).ok();
    let third = second.replace("--advertise node2", "--advertise node3");
    let third = third.replace("--host node2", "--host node3").replace("--rack b", "--rack c");
    let nodes = [start(first, 1), start(second, 2), start(&third, 3)];
    newcomer.wait_voters(&here(status, 1));
    let pinned = newcomer.directory.path().join("home/cluster.key.cluster");
    assert!(pinned.exists(), "the key does not remember its cluster");
    // Stopped in order.
    for node in nodes {
        node.terminate();
        node.finish().ok();
    }
}
