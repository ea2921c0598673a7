//! The seams that both sides of the wire share: tasks, randomness, time, blocking work and
//! dialling.
//!
//! Product code reaches the outside only through these traits (and, on a node, through the disk
//! seam of `cairn-node`). Each has two real implementations: production, in the binary, and the
//! simulator's. Timers are tokio's in both: the simulator pauses tokio's clock.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A connection to one address for the generated tonic clients. Cheap to clone. It connects on
/// first use and reconnects by itself. The error is a concrete `tonic::Status` because a boxed one
/// does not compile inside openraft's `Send` futures.
pub type Transport = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::Status,
>;

/// Makes transports. Dialling never fails and never waits: an unreachable address gives
/// `Unavailable` on the first call.
pub trait Dialer: Send + Sync + 'static {
    /// A transport to `address` (`host:port`).
    fn dial(&self, address: &str) -> Transport;

    /// Whether nobody on the way to `address` can read what is sent: secrets go nowhere else.
    fn is_private(&self, address: &str) -> bool;
}

/// The queue of a piece of blocking work. Queues are separate, so that a log commit never waits
/// behind a 32 MiB segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Raft log, votes and identity: strictly in order, one at a time.
    Log,
    /// Segment files on a node: a few at a time.
    Data,
    /// Snapshot files on a node, whole catalogues encoded and decoded.
    Snapshot,
    /// Old log entries, read for a node that is behind. It must be able to catch up even when the
    /// segment lanes are busy.
    Replication,
    /// Walks over a copy of the catalogue: no disk, but too long for an async thread.
    Walk,
    /// A client's own files and hashing: a few at a time.
    Client,
}

/// A closure that may block.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// All services of the environment to a process, except network and disk.
pub trait Runtime: Send + Sync + 'static {
    /// Starts a task that belongs to this process: it ends when the process is stopped or
    /// crashes.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> JoinHandle<()>;

    /// Runs `job` where blocking is allowed. Resolves when it is done *and its effects on a
    /// simulated disk have been given their time*. A job must not announce that something is
    /// durable. Its caller does that after awaiting it.
    fn run_blocking(&self, lane: Lane, job: Job) -> BoxFuture<'static, ()>;

    /// How long the oldest unfinished job of `lane` has run, even if its caller has stopped
    /// waiting. A disk that does not answer shows here.
    fn oldest_job(&self, lane: Lane) -> Option<Duration>;

    /// A random number: OS entropy in production, the seed in simulation.
    fn random_u64(&self) -> u64;

    /// This machine's own monotonic clock. A leader counts cluster time by it, and so leases and
    /// graces. It may run a little faster or slower than those of other machines.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Wall-clock milliseconds since the Unix epoch. It is a label for people: no decision that
    /// keeps data depends on it.
    fn wall_ms(&self) -> u64;
}

/// A cheap handle to a [`Runtime`], with functions for common uses.
#[derive(Clone)]
pub struct Env {
    pub runtime: Arc<dyn Runtime>,
    pub dialer: Arc<dyn Dialer>,
}

impl Env {
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.runtime.spawn(name, Box::pin(task))
    }

    /// Runs `work` on `lane` and returns its result. If the runtime shuts down and drops the job
    /// before it runs, this future never resolves: the task that waits is about to be dropped too.
    pub async fn blocking<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            let _ = done.send(work());
        });
        self.runtime.run_blocking(lane, job).await;
        match result.await {
            Ok(value) => value,
            Err(_) => std::future::pending().await,
        }
    }

    pub fn oldest_job(&self, lane: Lane) -> Option<Duration> {
        self.runtime.oldest_job(lane)
    }

    pub fn random_u64(&self) -> u64 {
        self.runtime.random_u64()
    }

    /// A request id: 128 random bits, never zero.
    pub fn random_u128(&self) -> u128 {
        let value = (u128::from(self.random_u64()) << 64) | u128::from(self.random_u64());
        value.max(1)
    }

    pub fn now(&self) -> Instant {
        self.runtime.now()
    }

    pub fn wall_ms(&self) -> u64 {
        self.runtime.wall_ms()
    }

    /// A random duration, uniform in `base/2 ..= base*3/2`. It spreads the retries of many callers.
    pub fn jitter(&self, base: Duration) -> Duration {
        let base_us = u64::try_from(base.as_micros()).unwrap_or(u64::MAX / 4);
        Duration::from_micros(base_us / 2 + self.random_u64() % base_us.max(1))
    }
}
