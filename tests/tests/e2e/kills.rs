//! Processes die by SIGKILL at a point drawn in bytes of progress of a put or a get.
//!
//! Each kind of victim dies at least [`KILLS`] times, and at least [`IN_FLIGHT_MIN`] of these
//! must land while bytes move, or the test shows nothing and fails. After every kill what could
//! succeed must have; at the end every committed checkpoint is restored and compared (D2, D5),
//! and nothing else is visible (C2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use cairn_client::stream::TryStreamExt;
use cairn_client::{ClientError, GetOptions, LocalSink, LocalSource, Progress, PutOptions};
use cairn_tests::chance::Chance;
use cairn_tests::cluster::{DEADLINE, TestCluster};
use cairn_tests::files;
use cairn_types::command::Refusal;
use cairn_types::ids::{Address, Namespace, Selector, Step};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::{args, program};

const KILLS: u64 = 20;
const IN_FLIGHT_MIN: u64 = 10;
/// Of those, at least so many in a put and so many in a get.
const IN_FLIGHT_EACH_MIN: u64 = 3;
/// Kills that missed are repeated up to this many in all.
const KILLS_MAX: u64 = 60;
/// One checkpoint, bytes: large enough to be hit in its middle, small enough for sixty.
const CHECKPOINT_BYTES: std::ops::Range<u64> = 24 << 20..48 << 20;
/// How often progress is looked at; a put of these sizes takes some hundred times longer.
const AIM: Duration = Duration::from_millis(1);

/// A cluster, and what it must hold.
struct Story {
    cluster: TestCluster,
    chance: Chance,
    namespace: Namespace,
    /// Committed checkpoints, by step, with the files they were made from.
    committed: BTreeMap<u64, PathBuf>,
    next_step: u64,
    kills: u64,
    in_flight: u64,
    in_flight_of: BTreeMap<&'static str, u64>,
}

impl Story {
    fn new(name: &str) -> Self {
        Self {
            cluster: TestCluster::start(program()),
            chance: Chance::of(name),
            namespace: format!("kills/{name}").parse().expect("a namespace"),
            committed: BTreeMap::new(),
            next_step: 1,
            kills: 0,
            in_flight: 0,
            in_flight_of: BTreeMap::new(),
        }
    }

    fn goes_on(&self) -> bool {
        self.kills < KILLS || (!self.shows_enough() && self.kills < KILLS_MAX)
    }

    fn shows_enough(&self) -> bool {
        let of = |what| self.in_flight_of.get(what).is_some_and(|n| *n >= IN_FLIGHT_EACH_MIN);
        self.in_flight >= IN_FLIGHT_MIN && of("put") && of("get")
    }

    fn address(&self, step: u64) -> Address {
        Address { namespace: self.namespace.clone(), selector: Selector::Step(Step(step)) }
    }

    /// New files for the next step.
    fn make(&mut self) -> (u64, PathBuf) {
        let step = self.next_step;
        self.next_step += 1;
        let directory = self.cluster.scratch(&format!("source-{step}"));
        let bytes = self.chance.within(CHECKPOINT_BYTES);
        files::checkpoint(&directory, bytes, self.chance.next_u64());
        (step, directory)
    }

    /// A committed step, drawn.
    fn any_committed(&mut self) -> (u64, PathBuf) {
        let index = self.chance.within(0..self.committed.len() as u64) as usize;
        let (step, directory) = self.committed.iter().nth(index).expect("a committed step");
        (*step, directory.clone())
    }

    fn note(&mut self, what: &'static str, percent: u64, in_flight: bool) {
        self.kills += 1;
        self.in_flight += u64::from(in_flight);
        *self.in_flight_of.entry(what).or_default() += u64::from(in_flight);
        let landed = if in_flight { "in flight" } else { "missed" };
        eprintln!("kill {}: {what}, aimed at {percent} %, {landed}", self.kills);
    }

    fn start_put(
        &self,
        step: u64,
        directory: &PathBuf,
    ) -> (JoinHandle<Result<(), ClientError>>, Arc<Progress>) {
        let source = LocalSource::scan(std::slice::from_ref(directory)).expect("list files");
        let options = PutOptions::new(self.namespace.clone(), Step(step));
        let progress = options.progress.clone();
        let client = self.cluster.client().clone();
        let put = async move { client.put(Arc::new(source), options).await.map(|_| ()) };
        (self.cluster.runtime().spawn(put), progress)
    }

    fn start_get(
        &self,
        step: u64,
        target: &Path,
    ) -> (JoinHandle<Result<(), ClientError>>, Arc<cairn_client::GetProgress>) {
        let sink = LocalSink::open(target).expect("open a directory");
        let options = GetOptions::default();
        let progress = options.progress.clone();
        let (client, address) = (self.cluster.client().clone(), self.address(step));
        let get = async move { client.get(&address, Arc::new(sink), options).await.map(|_| ()) };
        (self.cluster.runtime().spawn(get), progress)
    }

    /// Everything committed is whole, and nothing else is there.
    fn audit(&mut self) {
        assert!(
            self.shows_enough(),
            "only {:?} of {} kills landed with bytes in flight",
            self.in_flight_of,
            self.kills
        );
        self.cluster.wait_healthy();
        let client = self.cluster.client().clone();
        let listed = self.cluster.run(client.list(None, true).try_collect::<Vec<_>>());
        let listed = listed.expect("list checkpoints");
        let steps: Vec<u64> = listed.iter().map(|info| info.step.0).collect();
        let wanted: Vec<u64> = self.committed.keys().copied().collect();
        assert_eq!(steps, wanted, "visible checkpoints are not those committed");
        for (step, directory) in self.committed.clone() {
            let target = self.cluster.scratch("audit");
            let (get, _) = self.start_get(step, &target);
            self.cluster.run(finish(get, "audit"));
            files::assert_same(&directory, &target);
            std::fs::remove_dir_all(&target).expect("remove files");
        }
        eprintln!(
            "{} kills, {} in flight, {} checkpoints whole",
            self.kills,
            self.in_flight,
            self.committed.len()
        );
    }
}

async fn finish(work: JoinHandle<Result<(), ClientError>>, what: &str) {
    match timeout(DEADLINE, work).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => panic!("{what} failed: {error}; {:?}", error.hint()),
        Ok(Err(error)) => panic!("{what} ended: {error}"),
        Err(_) => panic!("{what} took more than {DEADLINE:?}"),
    }
}

/// Waits until `done` reaches `percent` of its total, or the work is over.
async fn aim<T>(work: &JoinHandle<T>, percent: u64, done: impl Fn() -> (u64, u64)) {
    let began = Instant::now();
    loop {
        let (bytes, total) = done();
        if work.is_finished() || (total > 0 && bytes * 100 >= total * percent) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "no progress beyond {bytes} of {total} bytes");
        sleep(AIM).await;
    }
}

fn kill_nodes(name: &str, choose: impl Fn(&TestCluster, &mut Chance) -> usize) {
    let mut story = Story::new(name);
    while story.goes_on() {
        let victim = choose(&story.cluster, &mut story.chance);
        let percent = story.chance.within(5..95);
        let putting = story.committed.is_empty() || story.kills.is_multiple_of(2);
        if putting {
            let (step, directory) = story.make();
            let (put, progress) = story.start_put(step, &directory);
            let done = || {
                let acked = progress.bytes_acked.load(Relaxed);
                (acked, progress.bytes_total.load(Relaxed))
            };
            story.cluster.run(aim(&put, percent, done));
            story.cluster.node(victim).kill().expect("kill a node");
            let in_flight = !put.is_finished() && done().0 < done().1;
            story.note("put", percent, in_flight);
            // Two of three nodes are left: W is met, and the put must come through.
            story.cluster.run(finish(put, "put"));
            story.committed.insert(step, directory);
        } else {
            let (step, directory) = story.any_committed();
            let target = story.cluster.scratch("restored");
            let (get, progress) = story.start_get(step, &target);
            let done = || (progress.bytes_done.load(Relaxed), progress.bytes_total.load(Relaxed));
            story.cluster.run(aim(&get, percent, done));
            story.cluster.node(victim).kill().expect("kill a node");
            let in_flight = !get.is_finished() && done().0 < done().1;
            story.note("get", percent, in_flight);
            story.cluster.run(finish(get, "get"));
            files::assert_same(&directory, &target);
            std::fs::remove_dir_all(&target).expect("remove files");
        }
        story.cluster.node(victim).start().expect("start the node again");
        story.cluster.wait_healthy();
    }
    story.audit();
}

#[test]
fn killed_leaders_lose_nothing() {
    kill_nodes("leader", |cluster, _| cluster.leader());
}

#[test]
fn killed_followers_lose_nothing() {
    kill_nodes("follower", |cluster, chance| {
        let leader = cluster.leader();
        (leader + 1 + chance.within(0..2) as usize) % 3
    });
}

/// Waits until a client process has moved this many bytes, by `moved`.
fn aim_at_process(client: &mut cairn_tests::command::Running, bytes: u64, moved: impl Fn() -> u64) {
    let began = Instant::now();
    while client.is_running() && moved() < bytes {
        assert!(began.elapsed() < DEADLINE, "only {} of {bytes} bytes moved", moved());
        std::thread::sleep(AIM);
    }
}

#[test]
fn killed_clients_leave_nothing_half() {
    let mut story = Story::new("client");
    let cairn = story.cluster.cairn();
    while story.goes_on() {
        let percent = story.chance.within(5..95);
        let putting = story.committed.is_empty() || story.kills.is_multiple_of(2);
        if putting {
            let (step, directory) = story.make();
            let address = story.address(step);
            let name = address.to_string();
            let put = args(&[&"put", &directory, &name, &"--attempt", &"7", &"--json"]);
            let len = files::total_len(&directory);
            let received = || story.cluster.sum(|node| node.bytes_received);
            let before = received();
            let mut client = cairn.start(&put);
            // Each byte goes to three nodes.
            aim_at_process(&mut client, 3 * len * percent / 100, || received() - before);
            let in_flight = client.kill() && received() - before < 3 * len;
            match story.cluster.run(story.cluster.client().resolve(&address)) {
                // Killed between the commit and its own end: then it is whole, as the audit sees.
                Ok(_) => {}
                Err(ClientError::Refused(Refusal::NoSuchCheckpoint { .. })) => {}
                Err(error) => panic!("resolve {name}: {error}"),
            }
            story.note("put", percent, in_flight);
            // The same attempt joins what is left of the first.
            cairn.run(&put).ok();
            story.committed.insert(step, directory);
        } else {
            let (step, directory) = story.any_committed();
            let name = story.address(step).to_string();
            let target = story.cluster.scratch("restored");
            let len = files::total_len(&directory);
            let get = args(&[&"get", &name, &target, &"--json"]);
            let mut client = cairn.start(&get);
            aim_at_process(&mut client, len * percent / 100, || files::written_len(&target));
            let running = client.kill();
            let unfinished = !target.join("model.safetensors").exists();
            story.note("get", percent, running && unfinished);
            for name in files::list(&target).iter().filter(|name| directory.join(name).exists()) {
                let same =
                    files::digest(&directory.join(name)) == files::digest(&target.join(name));
                assert!(same, "{} has its name before its bytes", name.display());
            }
            cairn.run(&get).ok();
            files::assert_same(&directory, &target);
            std::fs::remove_dir_all(&target).expect("remove files");
        }
    }
    story.audit();
}

/// Lets the client run a few milliseconds at a time, and looks while it stands still: however busy
/// the machine is, nothing moves between the look and the kill.
fn creep_up_to(client: &mut cairn_tests::command::Running, bytes: u64, moved: impl Fn() -> u64) {
    let began = Instant::now();
    while client.is_running() && moved() < bytes {
        assert!(began.elapsed() < DEADLINE, "only {} of {bytes} bytes moved", moved());
        client.go_on();
        std::thread::sleep(CREEP);
        client.stand_still();
        std::thread::sleep(SETTLE);
    }
}

/// So long a client runs between two looks, and so long the nodes get to store what they have.
const CREEP: Duration = Duration::from_millis(4);
const SETTLE: Duration = Duration::from_millis(12);

/// What counts as killed at 80 %.
const NEAR_80: std::ops::RangeInclusive<u64> = 78..=88;

/// Kills a put of `bytes` when `moved` of it are 80 %, runs it again, and expects less than 30 % to
/// be sent. `moved` is asked with the cluster and gives bytes of one copy; a kill that missed shows
/// nothing and is tried again with other bytes.
fn kill_a_put_at_80_percent(name: &str, bytes: u64, moved: fn(&TestCluster) -> u64) {
    let cluster = TestCluster::start(program());
    let cairn = cluster.cairn();
    let directory = cluster.scratch("source");
    for attempt in 1..=16_u64 {
        files::checkpoint(&directory, bytes, attempt);
        let len = files::total_len(&directory);
        let name = format!("{name}@{attempt}");
        let put = args(&[&"put", &directory, &name, &"--attempt", &"7", &"--json"]);
        let before = moved(&cluster);
        let so_far = || moved(&cluster) - before;
        let mut client = cairn.start(&put);
        creep_up_to(&mut client, len * NEAR_80.start() / 100, so_far);
        let running = client.kill();
        let percent_first = so_far() * 100 / len;
        if !running || !NEAR_80.contains(&percent_first) {
            eprintln!("killed at {percent_first} %: missed");
            continue;
        }
        let received = cluster.sum(|node| node.bytes_received);
        let again: Value = cairn.run(&put).ok().json();
        let received = cluster.sum(|node| node.bytes_received) - received;
        let sent = again["bytes_sent"].as_u64().expect("bytes sent");
        eprintln!(
            "{name}: killed at {percent_first} %, sent {:.1} % when run again",
            sent as f64 * 100.0 / len as f64
        );
        assert!(sent * 100 < len * 30, "{sent} of {len} bytes were sent again");
        assert!(received * 100 < 3 * len * 30, "nodes received {received} bytes again");
        let restored = cluster.scratch("restored");
        cairn.run(args(&[&"get", &name, &restored])).ok();
        files::assert_same(&directory, &restored);
        return;
    }
    panic!("no kill landed near 80 %");
}

/// 80 % as `put` shows it: bytes that W nodes hold. It does not matter how much is in flight.
#[test]
fn a_put_killed_at_80_percent_sends_less_than_30_when_run_again() {
    kill_a_put_at_80_percent("kills/shown", 160 << 20, |cluster| {
        let mut held = [0, 1, 2].map(|index| cluster.node_status(index).bytes_held);
        held.sort_unstable();
        held[1]
    });
}

/// 80 % as the nodes see it, with bytes of segments that are not whole yet. Those go again, so the
/// checkpoint is several times what a client has in flight (128 MiB).
#[test]
fn a_put_killed_at_80_percent_of_the_wire_sends_less_than_30_when_run_again() {
    kill_a_put_at_80_percent("kills/wire", 512 << 20, |cluster| {
        cluster.sum(|node| node.bytes_received) / 3
    });
}
