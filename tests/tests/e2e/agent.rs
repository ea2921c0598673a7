//! `cairn agent`: a training run goes on while the agent is killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_client::stream::TryStreamExt;
use cairn_client::{
    CheckpointInfo, CheckpointState, GetOptions, LocalSource, MemorySink, PutOptions,
};
use cairn_tests::chance::Chance;
use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::files::random_bytes;
use cairn_tests::wait::{until, until_true};
use cairn_types::ids::{Address, Namespace, Selector, Step};
use serde_json::Value;

use crate::{args, program};

const KILLS: u64 = 50;
/// Per layout; four layouts make 200 checkpoints.
const CHECKPOINTS: u64 = 50;
const KEEP_LOCAL: usize = 2;
/// Kills while a put ran, of all: fewer would show little.
const IN_FLIGHT_MIN: u64 = 10;

type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// A training program of one kind: how it writes step `n`.
struct Trainer {
    job: &'static str,
    directory: PathBuf,
    name: fn(u64) -> String,
    write: fn(&Path, u64, &Files),
}

fn put_file(path: &Path, bytes: &[u8]) {
    // In two pieces, so that a half of it is there for a while.
    let (one, two) = bytes.split_at(bytes.len() / 2);
    fs::write(path, one).unwrap();
    std::thread::yield_now();
    fs::write(path, [one, two].concat()).unwrap();
}

fn put_files(directory: &Path, files: &Files, last: &str) {
    fs::create_dir_all(directory).unwrap();
    let is_last = |name: &[u8]| name == last.as_bytes();
    for (name, bytes) in files.iter().filter(|(name, _)| !is_last(name)) {
        put_file(&directory.join(std::str::from_utf8(name).unwrap()), bytes);
    }
    if let Some(bytes) = files.get(last.as_bytes()) {
        let beside = directory.join(format!("{last}.tmp"));
        fs::write(&beside, bytes).unwrap();
        fs::rename(&beside, directory.join(last)).unwrap();
    }
}

fn write_trainer(root: &Path, step: u64, files: &Files) {
    put_files(&root.join(format!("checkpoint-{step}")), files, "trainer_state.json");
}

fn write_dcp(root: &Path, step: u64, files: &Files) {
    put_files(&root.join(format!("step-{step}")), files, ".metadata");
}

fn write_deepspeed(root: &Path, step: u64, files: &Files) {
    put_files(&root.join(format!("global_step{step}")), files, "mp_rank_00.pt");
    // As the program does it: written in place, last.
    fs::write(root.join("latest"), format!("global_step{step}")).unwrap();
}

fn write_renamed(root: &Path, step: u64, files: &Files) {
    let name = format!("epoch=0-step={step}.ckpt");
    let bytes: Vec<u8> = files.values().flatten().copied().collect();
    put_file(&root.join(format!("{name}.tmp")), &bytes);
    fs::rename(root.join(format!("{name}.tmp")), root.join(name)).unwrap();
}

fn trainers(root: &Path) -> Vec<Trainer> {
    let trainer = |job: &'static str, name, write| {
        let directory = root.join(job);
        fs::create_dir_all(&directory).unwrap();
        Trainer { job, directory, name, write }
    };
    vec![
        trainer("hf-trainer", |n| format!("checkpoint-{n}"), write_trainer),
        trainer("lightning", |n| format!("epoch=0-step={n}.ckpt"), write_renamed),
        trainer("deepspeed", |n| format!("global_step{n}"), write_deepspeed),
        trainer("dcp", |n| format!("step-{n}"), write_dcp),
    ]
}

impl Trainer {
    /// What step `n` consists of: a little that changes, a little that stays.
    fn files(&self, step: u64) -> Files {
        let seed = step * 31 + self.job.len() as u64;
        let last = match self.job {
            "hf-trainer" => "trainer_state.json",
            "deepspeed" => "mp_rank_00.pt",
            _ => ".metadata",
        };
        BTreeMap::from([
            (b"model.bin".to_vec(), random_bytes(150_000, seed)),
            (b"optimizer.bin".to_vec(), random_bytes(90_000, seed + 1)),
            (last.as_bytes().to_vec(), format!("{{\"step\": {step}}}").into_bytes()),
        ])
    }

    /// What the cluster must give back.
    fn stored(&self, step: u64) -> Files {
        let files = self.files(step);
        match self.job {
            "lightning" => {
                let bytes = files.into_values().flatten().collect();
                BTreeMap::from([((self.name)(step).into_bytes(), bytes)])
            }
            _ => files,
        }
    }

    fn namespace(&self) -> Namespace {
        format!("agent/{}", self.job).parse().unwrap()
    }

    fn at(&self, step: u64) -> Address {
        Address { namespace: self.namespace(), selector: Selector::Step(Step(step)) }
    }

    fn config(&self) -> String {
        format!(
            "[[job]]\nname = {job:?}\nnamespace = \"agent/{job}\"\nwatch = {directory:?}\n\
             layout = {job:?}\nquiet = \"0s\"\nkeep_local = {KEEP_LOCAL}\ntries = 1000000\n",
            job = self.job,
            directory = self.directory.display().to_string(),
        )
    }
}

fn write_config(root: &Path, jobs: &str) -> PathBuf {
    let path = root.join("agent.toml");
    fs::write(&path, format!("state = \"state\"\npoll = \"50ms\"\nputs_parallel = 4\n{jobs}"))
        .unwrap();
    path
}

/// What the agent says of itself; null before it has said anything.
fn said(root: &Path) -> Value {
    let text = fs::read(root.join("state/status.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn records(cluster: &TestCluster, namespace: &Namespace) -> Vec<CheckpointInfo> {
    let list = cluster.client().list_with_deleted(Some(namespace), true);
    cluster.run(list.try_collect()).unwrap()
}

fn committed(cluster: &TestCluster, namespace: &Namespace) -> BTreeSet<u64> {
    let records = records(cluster, namespace);
    let committed = records.iter().filter(|info| info.state == CheckpointState::Committed);
    committed.map(|info| info.step.0).collect()
}

/// What training has finished and is not under its name on the local disk is in the cluster.
fn assert_nothing_lost(cluster: &TestCluster, trainer: &Trainer, finished: u64) {
    let stored = committed(cluster, &trainer.namespace());
    for step in 1..=finished {
        let name = (trainer.name)(step);
        let at = |name: &str| trainer.directory.join(name).symlink_metadata().is_ok();
        // Or set aside, to be compared once more: it is put back.
        let is_there = at(&name) || at(&format!(".cairn-agent-check-{name}"));
        assert!(is_there || stored.contains(&step), "{}: step {step} is lost", trainer.job);
    }
}

#[test]
fn agent_killed_fifty_times_stores_each_finished_checkpoint_once_and_whole() {
    let cluster = TestCluster::start(program());
    let mut chance = Chance::of("agent killed fifty times");
    let root = cluster.scratch_directory("training");
    let trainers = Arc::new(trainers(&root));
    let config = write_config(&root, &trainers.iter().map(Trainer::config).collect::<String>());
    // Training goes as far as it is allowed to, beside the agent.
    let allowed = Arc::new(AtomicU64::new(0));
    let written = Arc::new(AtomicU64::new(0));
    let training = {
        let (trainers, allowed, written) = (trainers.clone(), allowed.clone(), written.clone());
        std::thread::spawn(move || {
            for step in 1..=CHECKPOINTS {
                until_true("training may go on", DEADLINE, || {
                    allowed.load(Ordering::SeqCst) >= step
                });
                for trainer in trainers.iter() {
                    (trainer.write)(&trainer.directory, step, &trainer.files(step));
                }
                written.store(step, Ordering::SeqCst);
            }
        })
    };
    let agent = || cluster.cairn().start(args(&[&"agent", &"--config", &config]));
    let mut in_flight = 0;
    for kill in 1..=KILLS {
        allowed.store(kill * CHECKPOINTS / KILLS, Ordering::SeqCst);
        let before = said(&root)["process"].clone();
        let mut running = agent();
        // It has begun, and then some more looks, drawn from a distribution that favours few.
        let most = [2, 5, 15][chance.within(0..3) as usize];
        let mut looks = chance.within(0..most);
        let mut last = Value::Null;
        until("the agent has looked around", DEADLINE, || {
            assert!(running.is_running(), "the agent ended by itself");
            let now = said(&root);
            if now["process"] == before || now["process"].is_null() {
                return Err("not begun".to_owned());
            }
            if now != last {
                last = now;
                looks = looks.saturating_sub(1);
            }
            if looks == 0 { Ok(()) } else { Err(format!("{looks} looks are left")) }
        });
        assert!(running.kill(), "the agent ended by itself");
        let uploads = said(&root)["uploads"].as_array().map_or(0, Vec::len);
        in_flight += u64::from(uploads > 0);
        // Read before the check: training may be writing the next one.
        let finished = written.load(Ordering::SeqCst);
        for trainer in trainers.iter() {
            assert_nothing_lost(&cluster, trainer, finished);
        }
    }
    training.join().unwrap();
    assert!(in_flight >= IN_FLIGHT_MIN, "only {in_flight} kills while a put ran");
    // A last process in peace.
    let running = agent();
    for trainer in trainers.iter() {
        until("all are stored", DEADLINE, || {
            let stored = committed(&cluster, &trainer.namespace()).len() as u64;
            if stored == CHECKPOINTS { Ok(()) } else { Err(format!("{stored}: {}", said(&root))) }
        });
        until("old ones are removed from the local disk", DEADLINE, || {
            let names = fs::read_dir(&trainer.directory).unwrap().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let left: Vec<String> = names.filter(|name| !name.starts_with("latest")).collect();
            if left.len() == KEEP_LOCAL { Ok(()) } else { Err(format!("{left:?}")) }
        });
        assert_nothing_lost(&cluster, trainer, CHECKPOINTS);
    }
    let status = cluster.cairn().run(args(&[&"agent", &"status", &"--config", &config])).ok();
    assert!(status.text().contains("agent runs"), "{}", status.text());
    running.terminate();
    running.finish().ok();
    for trainer in trainers.iter() {
        let mut commits: BTreeMap<u64, u32> = BTreeMap::new();
        for info in records(&cluster, &trainer.namespace()) {
            // An upload that a kill interrupted may be left; it was never committed.
            *commits.entry(info.step.0).or_default() += u32::from(info.commit.is_some());
        }
        assert!(commits.values().all(|count| *count == 1), "{}: {commits:?}", trainer.job);
        for step in 1..=CHECKPOINTS {
            let sink = Arc::new(MemorySink::default());
            let address = trainer.at(step);
            let get = cluster.client().get(&address, sink.clone(), GetOptions::default());
            cluster.run(get).unwrap();
            let got: Files = sink.files().into_iter().collect();
            let differs = got != trainer.stored(step);
            assert!(!differs, "{} step {step} is not what was finished", trainer.job);
        }
    }
}

#[test]
fn agent_runs_schedules_and_hooks_and_says_what_fails() {
    let cluster = TestCluster::shared(program());
    let root = cluster.scratch_directory("scheduled");
    let data = root.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("f"), "nightly").unwrap();
    let log = root.join("hooks");
    let hook = |word: &str| {
        let path = log.display();
        format!("['/bin/sh', '-c', 'echo {word} $CAIRN_AGENT_STEP $CAIRN_AGENT_OUTCOME >> {path}']")
    };
    let jobs = format!(
        "[[job]]\nname = 'often'\nnamespace = 'scheduled/often'\npaths = ['data']\nevery = '1s'\n\
         before = {}\nafter = {}\nlabels = {{ origin = 'test' }}\n\
         [[job]]\nname = 'bad'\nnamespace = 'scheduled/bad'\npaths = ['data']\nevery = '1s'\n\
         before = ['/bin/false']\n",
        hook("before"),
        hook("after"),
    );
    let config = write_config(&root, &jobs);
    let cairn = cluster.cairn();
    let status = || cairn.run(args(&[&"agent", &"status", &"--config", &config, &"--json"]));
    status().ends(3);
    let check = cairn.run(args(&[&"agent", &"check", &config])).ok();
    assert!(check.text().contains("2 jobs good"), "{}", check.text());
    let agent = cairn.start(args(&[&"agent", &"--config", &config]));
    let namespace: Namespace = "scheduled/often".parse().unwrap();
    until("two runs are stored and a hook has failed", DEADLINE, || {
        let stored = committed(&cluster, &namespace).len();
        let jobs = said(&root)["jobs"].clone();
        match stored >= 2 && jobs[1]["failed"] == 1 {
            true => Ok(()),
            false => Err(format!("{stored}: {jobs}")),
        }
    });
    // A second agent on the same state is refused.
    cairn.run(args(&[&"agent", &"--config", &config])).fails(4, "another agent uses");
    let ran = status().ends(8);
    assert_eq!(ran.json()["running"], true);
    agent.terminate();
    agent.finish().ok();
    assert_eq!(status().ends(8).json()["running"], false);
    let info = &records(&cluster, &namespace)[0];
    assert_eq!(info.labels["origin"], "test");
    assert_eq!(info.labels["cairn.agent.job"], "often");
    assert!(info.step.0 > 20_260_000_000_000, "a step is a date: {}", info.step);
    let log = fs::read_to_string(log).unwrap();
    let wanted = [format!("before {}", info.step), format!("after {} stored", info.step)];
    for line in wanted {
        assert!(log.lines().any(|it| it.trim_end() == line), "{line} is not in {log}");
    }
    assert!(committed(&cluster, &"scheduled/bad".parse().unwrap()).is_empty());
}

#[test]
fn agent_removes_nothing_that_is_not_what_the_cluster_has() {
    let cluster = TestCluster::shared(program());
    let root = cluster.scratch_directory("conflict");
    let runs = root.join("runs");
    for step in 1..=3 {
        let directory = runs.join(format!("step-{step}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(".metadata"), format!("{step}")).unwrap();
    }
    // Somebody has stored another step 1.
    let other = root.join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join(".metadata"), "another run's").unwrap();
    let source = Arc::new(LocalSource::scan(&[other]).unwrap());
    let options = PutOptions::new("conflict".parse().unwrap(), Step(1));
    cluster.run(cluster.client().put(source, options)).unwrap();
    let jobs = "[[job]]\nname = 'j'\nnamespace = 'conflict'\nwatch = 'runs'\nlayout = 'dcp'\n\
                quiet = '0s'\nkeep_local = 1\n";
    let config = write_config(&root, jobs);
    let agent = cluster.cairn().start(args(&[&"agent", &"--config", &config]));
    until("2 and 3 are stored, 1 is refused, 2 is removed", DEADLINE, || {
        let job = said(&root)["jobs"][0].clone();
        let is_reached = job["stored"] == 2 && job["refused"] == 1 && !runs.join("step-2").exists();
        if is_reached { Ok(()) } else { Err(job.to_string()) }
    });
    agent.terminate();
    agent.finish().ok();
    assert_eq!(fs::read_to_string(runs.join("step-1/.metadata")).unwrap(), "1");
    assert!(runs.join("step-3").exists());
    let status = cluster.cairn().run(args(&[&"agent", &"status", &"--config", &config])).ends(8);
    assert!(status.text().contains("step 1 is refused"), "{}", status.text());
}

#[test]
fn agent_verifies_and_drills_at_set_times() {
    let cluster = TestCluster::shared(program());
    let root = cluster.scratch_directory("checked");
    let source = root.join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("f"), random_bytes(100_000, 1)).unwrap();
    cluster.cairn().run(args(&[&"put", &source, &"checked@3", &"--wait", &"full"])).ok();
    let job = |name: &str, keys: &str| {
        format!("[[job]]\nname = '{name}'\nnamespace = 'checked'\nevery = '1s'\n{keys}\n")
    };
    let jobs = [
        job("verify", "verify = 'replicas'"),
        job(
            "drill",
            "drill = 'scratch'\nlose = ['rack=rack1']\ncheck = ['/usr/bin/test', '-s', 'f']",
        ),
        job("failing", "drill = 'scratch2'\ncheck = ['/bin/false']"),
    ];
    let config = write_config(&root, &jobs.concat());
    let agent = cluster.cairn().start(args(&[&"agent", &"--config", &config]));
    until("each job has a result", DEADLINE, || {
        let jobs = said(&root)["jobs"].clone();
        let good = |index: usize| jobs[index]["found"]["good"].as_bool();
        match (good(0), good(1), good(2)) {
            (Some(true), Some(true), Some(false)) => Ok(()),
            _ => Err(jobs.to_string()),
        }
    });
    agent.terminate();
    agent.finish().ok();
    assert!(said(&root)["jobs"][1]["found"]["rto_ms"].as_u64().is_some());
    assert!(!root.join("scratch/cairn-drill").exists());
    let status = cluster.cairn().run(args(&[&"agent", &"status", &"--config", &config])).ends(8);
    assert!(status.text().contains("the check failed"), "{}", status.text());
    let labels = &records(&cluster, &"checked".parse().unwrap())[0].labels;
    assert!(labels["cairn.verified.replicas"].starts_with("good "), "{labels:?}");
    assert!(labels.contains_key("cairn.drill"), "{labels:?}");
}

#[test]
fn agent_compares_touched_files_and_keeps_those_that_only_look_the_same() {
    let cluster = TestCluster::shared(program());
    let root = cluster.scratch_directory("touched");
    let runs = root.join("runs");
    for step in 1..=3 {
        let directory = runs.join(format!("step-{step}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(".metadata"), format!("{step}")).unwrap();
    }
    let job = "[[job]]\nname = 'j'\nnamespace = 'touched'\nwatch = 'runs'\nlayout = 'dcp'\n\
               quiet = '0s'\n";
    let config = write_config(&root, job);
    let agent = || cluster.cairn().start(args(&[&"agent", &"--config", &config]));
    let first = agent();
    until("all are stored", DEADLINE, || {
        let job = said(&root)["jobs"][0].clone();
        if job["stored"] == 3 { Ok(()) } else { Err(job.to_string()) }
    });
    first.terminate();
    first.finish().ok();
    // Other files with the same names, sizes and times, one of them with other bytes. The newest last:
    // what changed last stays.
    for (step, bytes) in [(1, "1"), (2, "X"), (3, "3")] {
        let path = runs.join(format!("step-{step}/.metadata"));
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let beside = root.join("beside");
        fs::write(&beside, bytes).unwrap();
        fs::File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
        fs::rename(&beside, &path).unwrap();
    }
    write_config(&root, &format!("{job}keep_local = 1\n"));
    let second = agent();
    until("1 is compared and removed, 2 is refused", DEADLINE, || {
        let job = said(&root)["jobs"][0].clone();
        let is_reached = job["refused"] == 1 && !runs.join("step-1").exists();
        if is_reached { Ok(()) } else { Err(job.to_string()) }
    });
    second.terminate();
    second.finish().ok();
    assert_eq!(fs::read_to_string(runs.join("step-2/.metadata")).unwrap(), "X");
    assert!(runs.join("step-3").exists());
}

#[test]
fn agent_is_told_which_other_agent_has_its_run() {
    let cluster = TestCluster::shared(program());
    let job = "[[job]]\nname = 'often'\nnamespace = 'two-agents'\npaths = ['data']\n\
               every = '1s'\n";
    let machine = |name: &str| {
        let root = cluster.scratch_directory(name);
        fs::create_dir_all(root.join("data")).unwrap();
        fs::write(root.join("data/f"), name).unwrap();
        (write_config(&root, job), root)
    };
    let machines = [machine("one"), machine("two")];
    let start = |(config, _): &(PathBuf, PathBuf)| {
        cluster.cairn().start(args(&[&"agent", &"--config", config]))
    };
    let agents: Vec<_> = machines.iter().map(start).collect();
    let identity =
        |root: &Path| fs::read_to_string(root.join("state/identity")).unwrap_or_default();
    until("one is refused, with the name of the other", DEADLINE, || {
        let [(_, one), (_, two)] = &machines;
        let names = |root: &Path, other: &str| {
            let runs = said(root)["jobs"][0]["checkpoints"].to_string();
            !other.is_empty() && runs.contains(other) && runs.contains("refused")
        };
        match names(one, &identity(two)) || names(two, &identity(one)) {
            true => Ok(()),
            false => Err(format!("{} {}", said(one), said(two))),
        }
    });
    for agent in agents {
        agent.terminate();
        agent.finish().ok();
    }
}

#[test]
fn agent_says_what_is_wrong_with_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let cairn = cairn_tests::command::Cairn::new(program());
    let path = directory.path().join("agent.toml");
    fs::write(&path, "state = 's'\n[[job]]\nname = 'j'\nnamespace = 'n'\nwatch = 'w'\n").unwrap();
    cairn.run(args(&[&"agent", &"check", &path])).fails(2, "layout: missing");
    cairn.run(["agent"]).fails(2, "missing required option --config").hints("cairn agent --config");
    let gone = directory.path().join("gone.toml");
    cairn.run(args(&[&"agent", &"--config", &gone])).fails(2, "gone.toml");
}
