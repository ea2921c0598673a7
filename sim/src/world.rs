//! The world of a scenario: processes with their disks and addresses, the network between them, and
//! the list of broken promises.
//!
//! A process is defined once, by a boot function, and has any number of lives:
//!
//! ```text
//!   add(Spec) -> ProcessId      start(id)     a new life: boot(ProcessParts) runs as its first task
//!                               crash(id)     routes gone, disk cut, tasks ended
//!                               boot returns  the same, by the process itself
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_host::seam::Env;
use cairn_node::disk::Disk;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tonic::service::Routes;

use crate::disk::{Crash, SimDisk};
use crate::host::{SimHost, WallClock};
use crate::monotonic::Monotonic;
use crate::net::SimNet;
use crate::process::{Life, ProcessId};
use crate::replay::Tuning;
use crate::seed::Stream;
use crate::trace;

/// A process's `main`: the first task of each of its lives. When it returns, the process exits.
pub type Boot = Arc<dyn Fn(ProcessParts) -> BoxFuture<'static, ()> + Send + Sync>;

/// The definition of a process, for all its lives.
#[derive(Clone)]
pub struct Spec {
    /// Its name in traces; also its disk's.
    pub name: String,
    pub rack: String,
    /// The address at which others reach it, `host:port`.
    pub address: String,
    /// The offset of its wall clock.
    pub wall_skew_ms: i64,
    pub boot: Boot,
}

impl Spec {
    pub fn new<F, Fut>(name: &str, rack: &str, boot: F) -> Self
    where
        F: Fn(ProcessParts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self {
            name: name.to_owned(),
            rack: rack.to_owned(),
            address: format!("{name}:7100"),
            wall_skew_ms: 0,
            boot: Arc::new(move |parts| Box::pin(boot(parts))),
        }
    }
}

/// Everything that one life of a process is given.
#[derive(Clone)]
pub struct ProcessParts {
    pub id: ProcessId,
    pub address: String,
    pub rack: String,
    pub env: Env,
    pub disk: Arc<dyn Disk>,
    pub life: Arc<Life>,
    net: SimNet,
    violations: Arc<Mutex<Vec<Violation>>>,
}

impl ProcessParts {
    /// Records a broken promise.
    pub fn violation(&self, invariant: &str, text: impl Into<String>) {
        record(&self.violations, invariant, text.into());
    }

    /// Answers at the process's own address from now on.
    pub fn serve(&self, routes: Routes) {
        self.net.serve(&self.life, &self.address, routes);
    }

    /// Answers at a further address.
    pub fn serve_at(&self, address: &str, routes: Routes) {
        self.net.serve(&self.life, address, routes);
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's name (`D2`), or `panic`, or `end`.
    pub invariant: String,
    pub text: String,
}

fn record(violations: &Mutex<Vec<Violation>>, invariant: &str, text: String) {
    trace::event("world", trace::VIOLATION, format_args!("{invariant}: {text}"));
    let violation = Violation { invariant: invariant.to_owned(), text };
    let mut violations = violations.lock();
    // A supervisor that restarts a node repeatedly would report the same each time.
    if !violations.contains(&violation) {
        violations.push(violation);
    }
}

/// Cheap to clone. All clones are the same world.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    seed: u64,
    tuning: Tuning,
    chance: Stream,
    net: SimNet,
    processes: Mutex<BTreeMap<ProcessId, Process>>,
    abandoned: Mutex<Vec<Arc<Life>>>,
    violations: Arc<Mutex<Vec<Violation>>>,
}

struct Process {
    spec: Spec,
    clock: Arc<WallClock>,
    monotonic: Arc<Monotonic>,
    disk: SimDisk,
    lives: u32,
    parts: Option<ProcessParts>,
}

impl World {
    pub(crate) fn new(seed: u64, tuning: Tuning) -> Self {
        let chance = Stream::new(seed);
        let inner = Inner {
            seed,
            tuning,
            net: SimNet::new(chance.fork("net")),
            chance,
            processes: Mutex::default(),
            abandoned: Mutex::default(),
            violations: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A stream of this run's randomness under its own label.
    pub fn stream(&self, label: &str) -> Stream {
        self.inner.chance.fork("scenario").fork(label)
    }

    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// The caller's changes to the values from the seed.
    pub fn tuning(&self) -> &Tuning {
        &self.inner.tuning
    }

    pub fn net(&self) -> &SimNet {
        &self.inner.net
    }

    /// Defines a process with an empty disk; it does not run yet.
    pub fn add(&self, spec: Spec) -> ProcessId {
        let mut processes = self.inner.processes.lock();
        let id = ProcessId(processes.len() as u32 + 1);
        self.inner.net.place(id, &spec.rack, &spec.address);
        let chance = self.inner.chance.fork("disk").fork(&spec.name);
        let disk = SimDisk::new(&spec.name, id.0, &chance);
        let clock = Arc::new(WallClock::new(spec.wall_skew_ms));
        let monotonic = Arc::default();
        processes.insert(id, Process { spec, clock, monotonic, disk, lives: 0, parts: None });
        id
    }

    /// Starts a process. A running process is not affected. Returns the parts of its new life.
    pub fn start(&self, id: ProcessId) -> Option<ProcessParts> {
        let mut processes = self.inner.processes.lock();
        let process = processes.get_mut(&id)?;
        if let Some(parts) = &process.parts {
            return Some(parts.clone());
        }
        process.lives += 1;
        let Spec { name, rack, address, wall_skew_ms: _, boot } = process.spec.clone();
        trace::event(&name, "start", format_args!("{id} life {}", process.lives));
        let chance = self.inner.chance.fork(&name).fork(&process.lives.to_string());
        let life = Arc::new(Life::new(id, process.lives, name.into(), chance));
        let clocks = (process.clock.clone(), process.monotonic.clone());
        let runtime = SimHost::new(life.clone(), process.disk.clone(), clocks);
        let env = Env { runtime: Arc::new(runtime), dialer: self.inner.net.dialer(&life) };
        let disk = Arc::new(process.disk.mount());
        let net = self.inner.net.clone();
        let violations = self.inner.violations.clone();
        let parts = ProcessParts { id, address, rack, env, disk, life, net, violations };
        process.parts = Some(parts.clone());
        drop(processes);
        let (booted, world) = (boot(parts.clone()), Arc::downgrade(&self.inner));
        let life = parts.life.clone();
        parts.life.spawn(async move {
            booted.await;
            if let Some(inner) = world.upgrade() {
                Self { inner }.exited(id, &life);
            }
        });
        Some(parts)
    }

    /// Ends a process from outside. A process that is down is not affected.
    pub fn crash(&self, id: ProcessId, how: Crash) {
        if let Some(in_flight) = self.end(id, how) {
            trace::count("world.crashes", 1);
            trace::count("world.crashes_in_job", u64::from(in_flight > 0));
        }
    }

    /// The boot function of a life has returned, as `main` of a program does. The process has ended
    /// by itself, and the page cache survives.
    fn exited(&self, id: ProcessId, life: &Life) {
        if life.is_abandoned() {
            life.end();
        } else if self.parts(id).is_some_and(|parts| parts.life.number == life.number) {
            trace::count("world.exits", 1);
            self.end(id, Crash::Kill);
        }
    }

    /// Treats a living process as dead. It is paused, and its disk and its address are free for
    /// another life. When it is resumed, its disk hangs, but its messages arrive.
    pub fn abandon(&self, id: ProcessId) -> Option<Arc<Life>> {
        let (parts, disk) = {
            let mut processes = self.inner.processes.lock();
            let process = processes.get_mut(&id)?;
            (process.parts.take()?, process.disk.clone())
        };
        trace::event(&parts.life.name, "abandon", format_args!("life {}", parts.life.number));
        trace::count("world.abandoned", 1);
        parts.life.abandon();
        parts.life.pause();
        self.inner.net.silence_process(id);
        disk.crash(Crash::Kill);
        self.inner.abandoned.lock().push(parts.life.clone());
        Some(parts.life)
    }

    /// Returns the number of jobs in flight, if the process ran.
    fn end(&self, id: ProcessId, how: Crash) -> Option<usize> {
        let (parts, disk) = {
            let mut processes = self.inner.processes.lock();
            let process = processes.get_mut(&id)?;
            (process.parts.take()?, process.disk.clone())
        };
        let in_flight = disk.jobs_in_flight();
        trace::event(
            &parts.life.name,
            "crash",
            format_args!("{how:?}, {in_flight} jobs in flight"),
        );
        // The order matters: an ended task is dropped only at its next turn. By then no other task
        // may reach it, and it must not be able to write.
        self.inner.net.silence_process(id);
        disk.crash(how);
        parts.life.end();
        Some(in_flight)
    }

    /// Crashes, then starts again at once.
    pub fn restart(&self, id: ProcessId, how: Crash) -> Option<ProcessParts> {
        self.crash(id, how);
        self.start(id)
    }

    pub fn is_up(&self, id: ProcessId) -> bool {
        self.parts(id).is_some()
    }

    /// The parts of the current life of a process.
    pub fn parts(&self, id: ProcessId) -> Option<ProcessParts> {
        self.inner.processes.lock().get(&id)?.parts.clone()
    }

    pub fn rack(&self, id: ProcessId) -> Option<String> {
        self.inner.processes.lock().get(&id).map(|process| process.spec.rack.clone())
    }

    pub fn name(&self, id: ProcessId) -> Option<String> {
        self.inner.processes.lock().get(&id).map(|process| process.spec.name.clone())
    }

    pub fn disk(&self, id: ProcessId) -> Option<SimDisk> {
        self.inner.processes.lock().get(&id).map(|process| process.disk.clone())
    }

    /// The wall clock of a process. It continues from life to life.
    pub fn clock(&self, id: ProcessId) -> Option<Arc<WallClock>> {
        self.inner.processes.lock().get(&id).map(|process| process.clock.clone())
    }

    /// The monotonic clock of a process's machine.
    pub fn monotonic(&self, id: ProcessId) -> Option<Arc<Monotonic>> {
        self.inner.processes.lock().get(&id).map(|process| process.monotonic.clone())
    }

    /// The current rate of the fastest of all clocks.
    pub fn fastest_rate(&self) -> u64 {
        let processes = self.inner.processes.lock();
        processes.values().map(|process| process.monotonic.rate()).max().unwrap_or(0)
    }

    /// Puts another disk into a process that is down (a swap, a copy). False if the process runs.
    pub fn replace_disk(&self, id: ProcessId, disk: SimDisk) -> bool {
        let mut processes = self.inner.processes.lock();
        match processes.get_mut(&id) {
            Some(process) if process.parts.is_none() => {
                trace::event(&process.spec.name, "disk", format_args!("another one"));
                process.disk = disk;
                true
            }
            _ => false,
        }
    }

    /// Gives two processes that are down each other's disk. False if one runs.
    pub fn exchange_disks(&self, one: ProcessId, other: ProcessId) -> bool {
        let (Some(first), Some(second)) = (self.disk(one), self.disk(other)) else { return false };
        if self.is_up(one) || self.is_up(other) {
            return false;
        }
        let (for_one, for_other) = (second.named(&first.name), first.named(&second.name));
        self.replace_disk(one, for_one) && self.replace_disk(other, for_other)
    }

    /// Records a broken promise. The run continues.
    pub fn violation(&self, invariant: &str, text: impl Into<String>) {
        record(&self.inner.violations, invariant, text.into());
    }

    /// Whether a promise of one of these invariants was broken.
    pub fn is_violated(&self, invariants: &[&str]) -> bool {
        let violations = self.inner.violations.lock();
        violations.iter().any(|violation| invariants.contains(&violation.invariant.as_str()))
    }

    /// Ends all processes and drops the data of their boot functions, which may include this world.
    pub(crate) async fn tear_down(&self) -> Vec<Violation> {
        let ids: Vec<_> = self.inner.processes.lock().keys().copied().collect();
        for id in ids {
            self.end(id, Crash::Kill);
        }
        self.inner.abandoned.lock().drain(..).for_each(|life| life.end());
        // Ended tasks are dropped at their next turn. Then the tasks that they held get a turn.
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
        let processes = std::mem::take(&mut *self.inner.processes.lock());
        drop(processes);
        std::mem::take(&mut *self.inner.violations.lock())
    }
}
