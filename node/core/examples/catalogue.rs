//! What a large catalogue costs: copies, entries, reads and memory.
//!
//!     cargo run --release -p cairn-core --example catalogue -- [SEGMENTS [CHECKPOINTS]]
//!
//! Builds a catalogue of 9 nodes in 3 racks (4,000,000 segments in 100,000 checkpoints unless told
//! otherwise) by commands alone, then times each question and prints a Markdown table. Times are
//! CPU time of the thread that does the work; the crate's README.md has the last table. "With a
//! copy" means that a copy of the catalogue is alive while the entry is applied, as it is while a
//! snapshot is written or a planner looks: the entry then copies the parts that it changes.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
#![allow(clippy::unwrap_used, reason = "a benchmark ends with what it did not expect")]

use std::mem::swap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_core::catalogue::{Catalogue, ListQuery, stored};
use cairn_types::command::{self, Accept, Body, Command, FEATURE_LEVEL, Reply, StageSegment};
use cairn_types::form::Form;
use cairn_types::ids::{
    Address, Attempt, CheckpointId, ClusterId, Cookie, Epoch, NodeId, Nonce, RequestId, Run,
    SegmentDigest, SegmentId, Step,
};
use cairn_types::limits::BATCH_SEGMENTS_MAX;
use cairn_types::model::{Liveness, ManifestPlace, NewNode, PolicyChange, Settings};
use cairn_types::set_digest;
use rustix::time::{ClockId, clock_gettime};

const NODES: u64 = 9;
const RACKS: u64 = 3;
const NAMESPACES: u64 = 100;
const LEN: u32 = 16 << 20;
const RUN: Run = Run(1);
const ATTEMPT: Attempt = Attempt(1);
/// Segments of the Stage that is timed.
const STAGED: u64 = 1_000;
/// Parts of a large checkpoint, and the segments of each.
const MANY_PARTS: u32 = 16_384;
const PART_SEGMENTS: u64 = 6;
/// Parts of the upload whose seals are timed.
const PARTS: u32 = 20_000;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut number = |default| match arguments.next() {
        None => default,
        Some(Ok(number)) if number > 0 => number,
        Some(_) => {
            eprintln!("usage: catalogue [SEGMENTS [CHECKPOINTS]], numbers above zero");
            std::process::exit(2);
        }
    };
    let (segments, checkpoints) = (number(4_000_000), number(100_000));
    let before = resident_bytes();
    let mut bench = Bench::new();
    let started = Instant::now();
    let each = segments.div_ceil(checkpoints);
    for checkpoint in 0..checkpoints {
        let first = checkpoint * each;
        bench.put(checkpoint, first..(first + each).min(segments));
    }
    let built = started.elapsed();
    let held = resident_bytes().saturating_sub(before);
    let segments = bench.catalogue.segments().len();
    println!(
        "{segments} segments, {checkpoints} checkpoints, built in {:.1} s",
        built.as_secs_f64()
    );
    println!("\n| what | shortest | median | longest |\n|---|---|---|---|");
    bench.measure(checkpoints, segments);
    println!("| bytes a segment, all told | | {} | |", held / segments);
}

struct Bench {
    catalogue: Catalogue,
    index: u64,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self { catalogue: Catalogue::default(), index: 0 };
        for number in 1..=NODES {
            let node = NewNode {
                cookie: Cookie(u128::from(number)),
                host: format!("host{number}"),
                rack: format!("rack{}", number % RACKS),
                address: format!("host{number}:7000"),
                capacity_bytes: 1 << 50,
                feature_level: FEATURE_LEVEL,
                replaces: None,
                key: None,
            };
            let settings = Settings::default();
            bench.done(match number {
                1 => Body::InitCluster(command::InitCluster {
                    cluster: ClusterId(77),
                    settings,
                    node: node.clone(),
                }),
                _ => Body::AllocateNode(node.clone()),
            });
            bench.done(Body::Register(command::Register {
                node: NodeId(number),
                cookie: node.cookie,
                previous: Vec::new(),
                nonce: Nonce(u128::from(number)),
                host: node.host,
                rack: node.rack,
                address: node.address,
                capacity_bytes: node.capacity_bytes,
                feature_level: node.feature_level,
                key: None,
            }));
            let incarnation = bench.catalogue.node(NodeId(number)).unwrap().incarnation;
            bench.done(Body::Inventory(command::Inventory {
                node: NodeId(number),
                incarnation,
                missing: Vec::new(),
                last: true,
            }));
        }
        bench
    }

    fn apply(&mut self, body: Body) -> Reply {
        self.index += 1;
        let command = Command::new(RequestId(0), 1_000, self.index, body);
        self.catalogue.apply(self.index, &command)
    }

    /// Applies what must not be refused.
    fn done(&mut self, body: Body) -> Reply {
        let reply = self.apply(body);
        assert!(reply.refusal().is_none(), "{reply:?}");
        reply
    }

    fn begin(&mut self, checkpoint: u64, parts: u32) -> CheckpointId {
        let begun = self.done(Body::Begin(command::Begin {
            namespace: format!("runs/run{}", checkpoint % NAMESPACES).parse().unwrap(),
            step: Step(checkpoint / NAMESPACES),
            parts,
            attempt: Some(ATTEMPT),
            change: PolicyChange::default(),
            replace: false,
            labels: Default::default(),
            client: String::new(),
            job: String::new(),
        }));
        let Reply::Begun(begun) = begun else { panic!("{begun:?}") };
        begun.checkpoint
    }

    fn stage_body(checkpoint: CheckpointId, part: u32, segments: &[u64]) -> Body {
        let staged = segments.iter().map(|number| StageSegment {
            digest: digest(*number),
            form: Form::raw(LEN),
            targets: targets(*number).to_vec(),
        });
        let segments = staged.collect();
        Body::Stage(command::Stage { checkpoint, attempt: ATTEMPT, part, run: RUN, segments })
    }

    /// Stages these segments, and reports them durable where that is not known.
    fn stage(&mut self, checkpoint: CheckpointId, part: u32, segments: &[u64]) {
        for batch in segments.chunks(BATCH_SEGMENTS_MAX) {
            self.done(Self::stage_body(checkpoint, part, batch));
            for body in self.durable_bodies(batch) {
                self.done(body);
            }
        }
    }

    /// What each node reports of these segments.
    fn durable_bodies(&self, segments: &[u64]) -> Vec<Body> {
        let body = |number| {
            let node = self.catalogue.node(NodeId(number)).unwrap();
            let staged = segments.iter().filter_map(|number| {
                let segment = self.catalogue.segment_by_digest(&digest(*number))?;
                Some((segment.id, segment.live_slot_on(node.id)?.epoch))
            });
            let replicas: Vec<(SegmentId, Epoch)> = staged.collect();
            let incarnation = node.incarnation;
            Body::Durable(command::Durable { node: node.id, incarnation, replicas })
        };
        (1..=NODES).map(body).collect()
    }

    fn seal_body(&self, checkpoint: CheckpointId, part: u32, segments: &[u64]) -> Body {
        Body::SealPart(command::SealPart {
            checkpoint,
            attempt: ATTEMPT,
            part,
            run: RUN,
            manifest: ManifestPlace::Inline(Bytes::from_static(b"manifest")),
            set_digest: set_digest(segments.iter().map(|number| (digest(*number), LEN))),
            bytes: u64::from(LEN) * segments.len() as u64,
            files: 1,
            compared: self.catalogue.parts_version(checkpoint),
            voids: Vec::new(),
        })
    }

    fn put(&mut self, checkpoint: u64, segments: std::ops::Range<u64>) {
        let segments: Vec<u64> = segments.collect();
        let id = self.begin(checkpoint, 1);
        self.stage(id, 0, &segments);
        let body = self.seal_body(id, 0, &segments);
        assert!(matches!(self.done(body), Reply::Committed { .. }));
    }

    /// Applies each body while a copy is alive; how long each took.
    fn beside_copies(&mut self, bodies: Vec<Body>) -> Vec<Duration> {
        let each = |body| {
            let copy = self.catalogue.clone();
            let took = timed(|| self.done(body)).0;
            drop(copy);
            took
        };
        bodies.into_iter().map(each).collect()
    }

    fn measure(&mut self, checkpoints: u64, segments: u64) {
        row("copy", many(100, || self.catalogue.clone()));

        let upload = self.begin(checkpoints, 1);
        let fresh = |round: u64| -> Vec<u64> {
            let first = segments + round * STAGED;
            (first..first + STAGED).collect()
        };
        let bodies = |rounds: std::ops::Range<u64>, which: &dyn Fn(u64) -> Vec<u64>| {
            rounds.map(|round| Self::stage_body(upload, 0, &which(round))).collect::<Vec<_>>()
        };
        let without = bodies(0..10, &fresh).into_iter().map(|body| timed(|| self.done(body)).0);
        row("Stage of 1,000 new segments", without.collect());
        row("the same with a copy", self.beside_copies(bodies(10..20, &fresh)));
        // As far apart as they can be.
        let spread = |round: u64| -> Vec<u64> {
            (0..STAGED).map(|n| (n * (segments / STAGED) + round * 7) % segments).collect()
        };
        let known = self.beside_copies(bodies(0..10, &spread));
        row("Stage of 1,000 known segments, spread out, with a copy", known);
        let durable: Vec<Body> = (10..12).flat_map(|it| self.durable_bodies(&fresh(it))).collect();
        row("Durable of about 333 replicas, with a copy", self.beside_copies(durable));

        let address = |number: u64| -> Address {
            format!("runs/run{}@{}", number % NAMESPACES, number / NAMESPACES).parse().unwrap()
        };
        let mut number = 0;
        let resolve = many(1_000, || {
            number = (number + 7_919) % checkpoints;
            self.catalogue.resolve(&address(number)).unwrap()
        });
        row("resolve", resolve);
        let large: Vec<u64> = (0..segments / 4).map(|number| number * 4).collect();
        let id = self.begin(checkpoints + 1, 1);
        self.stage(id, 0, &large);
        let seal = self.seal_body(id, 0, &large);
        let took = timed(|| self.done(seal)).0;
        row(&format!("commit of a checkpoint of {} segments", large.len()), vec![took]);
        let large_address = address(checkpoints + 1);
        let resolve = many(20, || self.catalogue.resolve(&large_address).unwrap());
        row(&format!("resolve of a checkpoint of {} segments", large.len()), resolve);
        let list = many(10, || {
            let query = ListQuery { limit: 1_000, ..ListQuery::default() };
            let page = self.catalogue.list(&query).records;
            page.iter().map(|record| self.catalogue.listed(record)).collect::<Vec<_>>()
        });
        row("list of 1,000 checkpoints", list);
        row("summary, for status and metrics", many(10, || self.catalogue.summary()));
        self.measure_parts(checkpoints + 3, segments + 100 * STAGED, address(checkpoints + 3));
        let incarnation = self.catalogue.node(NodeId(1)).unwrap().incarnation;
        for (what, liveness) in [("down", Liveness::Down), ("up", Liveness::Up)] {
            let changes = vec![(NodeId(1), incarnation, liveness)];
            let body = Body::SetLiveness(command::SetLiveness { changes });
            row(&format!("a node goes {what}"), self.beside_copies(vec![body]));
            let resolve = many(10, || self.catalogue.resolve(&large_address).unwrap());
            row(&format!("resolve of the large checkpoint, node {what}"), resolve);
        }

        let upload = self.begin(checkpoints + 2, PARTS);
        let mut seals = Vec::new();
        for part in 0..PARTS - 1 {
            let body = self.seal_body(upload, part, &[]);
            seals.push(timed(|| self.done(body)).0);
        }
        let last = seals.split_off(seals.len() - 100);
        row("SealPart, the first 100 of 20,000 parts", seals[..100].to_vec());
        row("SealPart, the last 100 of 20,000 parts", last);

        self.measure_snapshot(checkpoints + 4, segments + 1_000 * STAGED);

        let accept = Accept { data_loss: true, fewer_hosts: true };
        let body = Body::RemoveNode(command::RemoveNode { node: NodeId(1), accept });
        row("RemoveNode, with a copy", self.beside_copies(vec![body]));
        let body = || Body::VoidSlots(command::VoidSlots { node: NodeId(1) });
        let bodies = (0..10).map(|_| body()).collect();
        row("VoidSlots, 2,048 segments, with a copy", self.beside_copies(bodies));
    }

    /// A checkpoint of many parts, of which each has a few new segments.
    fn measure_parts(&mut self, checkpoint: u64, first: u64, address: Address) {
        let id = self.begin(checkpoint, MANY_PARTS);
        let mut took = Duration::ZERO;
        for part in 0..MANY_PARTS {
            let first = first + u64::from(part) * PART_SEGMENTS;
            let segments: Vec<u64> = (first..first + PART_SEGMENTS).collect();
            self.stage(id, part, &segments);
            let seal = self.seal_body(id, part, &segments);
            took = timed(|| self.done(seal)).0;
        }
        let what = format!(
            "a checkpoint of {} segments in {MANY_PARTS} parts",
            u64::from(MANY_PARTS) * PART_SEGMENTS
        );
        row(&format!("commit of {what}"), vec![took]);
        row(&format!("resolve of {what}"), many(20, || self.catalogue.resolve(&address).unwrap()));
    }

    /// A snapshot is written and read on a thread of its own, while entries are applied here.
    fn measure_snapshot(&mut self, checkpoint: u64, first: u64) {
        let upload = self.begin(checkpoint, 1);
        let mut next = first;
        let mut beside = |bench: &mut Self, what: &str, work: &dyn Fn() -> bool| {
            let mut times = Vec::new();
            while !work() || times.is_empty() {
                let segments: Vec<u64> = (next..next + STAGED).collect();
                next += STAGED;
                let body = Self::stage_body(upload, 0, &segments);
                times.push(timed(|| bench.done(body)).0);
                // The log of a busy cluster brings no more.
                std::thread::sleep(Duration::from_millis(20));
            }
            row(&format!("Stage of 1,000 new segments, while a snapshot is {what}"), times);
        };

        let copy = self.catalogue.clone();
        let writing = std::thread::spawn(move || {
            let (encode, bytes) = timed(|| stored::encode(&copy));
            (encode, timed(|| drop(copy)).0, bytes)
        });
        beside(self, "written", &|| writing.is_finished());
        let (encode, dropped, bytes) = writing.join().unwrap();
        row(&format!("encode of a snapshot, {} bytes, beside apply", bytes.len()), vec![encode]);
        row("drop of the copy it was made from, beside apply", vec![dropped]);

        let reading = std::thread::spawn(move || {
            let (decode, catalogue) = timed(|| stored::decode(&bytes, FEATURE_LEVEL).unwrap());
            (decode, catalogue)
        });
        beside(self, "read", &|| reading.is_finished());
        let (decode, mut other) = reading.join().unwrap();
        row("decode of a snapshot, beside apply", vec![decode]);
        row("swap of the catalogue for it", many(2, || swap(&mut self.catalogue, &mut other)));
        row("drop of the other catalogue, beside apply", vec![timed(|| drop(other)).0]);
    }
}

fn digest(number: u64) -> SegmentDigest {
    SegmentDigest::of(&number.to_le_bytes())
}

/// Three nodes of different racks.
fn targets(number: u64) -> [NodeId; 3] {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let of_rack = |rack: u64| {
        let place = (mixed >> (8 * rack)) % (NODES / RACKS);
        NodeId(1 + rack + RACKS * place)
    };
    [of_rack(0), of_rack(1), of_rack(2)]
}

/// The time that this thread spent on it. Other processes of a busy machine count only as far as
/// they take its caches.
fn timed<T>(deed: impl FnOnce() -> T) -> (Duration, T) {
    let started = thread_time();
    let answer = deed();
    (thread_time() - started, answer)
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The time that each of `count` calls took, without the time to drop its answer.
fn many<T>(count: usize, mut deed: impl FnMut() -> T) -> Vec<Duration> {
    (0..count).map(|_| timed(&mut deed).0).collect()
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (shortest, median) = (times[0], times[times.len() / 2]);
    println!("| {what} | {shortest:.2?} | {median:.2?} | {:.2?} |", times[times.len() - 1]);
}

/// Memory of this process, as Linux counts it.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
