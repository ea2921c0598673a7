//! The seams both sides of the wire share: tasks, chance, time, blocking work and dialling.
//!
//! Product code reaches the world only through these traits (and, on a node, through the disk
//! seam of `cairn-node`). Each has two real implementations: production, in the binary, and the
//! simulator's. Timers are tokio's in both worlds: the simulator pauses tokio's clock.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A connection to one address that the generated tonic clients can be built over. Cheap to
/// clone; connects on first use and reconnects by itself. The error is a concrete
/// `tonic::Status` because a boxed one does not compile inside openraft's `Send` futures.
pub type Transport = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    tonic::Status,
>;

/// Makes transports. Dialling never fails and never waits: an unreachable address shows as
/// `Unavailable` on the first call.
pub trait Dialer: Send + Sync + 'static {
    /// A transport to `address` (`host:port`).
    fn dial(&self, address: &str) -> Transport;
}

/// Which queue a piece of blocking work waits in, so that a log commit never stands behind a
/// 32 MiB segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Raft log, votes and identity: strictly in order, one at a time.
    Log,
    /// Segment files on a node: a few at a time.
    Data,
    /// Snapshot files on a node, whole catalogues encoded and decoded.
    Snapshot,
    /// Old log entries, read for a node that is behind: it must catch up however busy the
    /// segments are.
    Replication,
    /// Walks over a copy of the catalogue: no disk, but too long for an async thread.
    Walk,
    /// A client's own files and hashing: a few at a time.
    Client,
}

/// A closure that may block.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Everything a process asks of its surroundings besides network and disk.
pub trait Runtime: Send + Sync + 'static {
    /// Starts a task that belongs to this process: it ends when the process is stopped or
    /// crashes.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> JoinHandle<()>;

    /// Runs `job` where blocking is allowed; resolves when it is done *and its effects on a
    /// simulated disk have been given their time*. A job must not itself tell others that
    /// something is durable: that is for whoever awaits it.
    fn run_blocking(&self, lane: Lane, job: Job) -> BoxFuture<'static, ()>;

    /// How long the oldest job of `lane` has run that has not ended, whether anybody still waits
    /// for it or not. A disk that does not answer shows here.
    fn oldest_job(&self, lane: Lane) -> Option<Duration>;

    /// A random number: OS entropy in production, the seed in simulation.
    fn random_u64(&self) -> u64;

    /// This machine's own monotonic clock: by it a leader counts cluster time, and so leases and
    /// graces. It may run a little faster or slower than those of other machines.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Wall-clock milliseconds since the Unix epoch. A label for people; nothing that keeps data
    /// depends on it.
    fn wall_ms(&self) -> u64;
}

/// A cheap handle to a [`Runtime`] with the conveniences callers want.
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

    /// Runs `work` on `lane` and hands back what it returned. If the runtime is being torn down
    /// and drops the job unrun, this future never resolves: the task that waits is about to be
    /// dropped too.
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

    /// A duration drawn evenly from `base/2 ..= base*3/2`: spreads retries of many callers.
    pub fn jitter(&self, base: Duration) -> Duration {
        let base_us = u64::try_from(base.as_micros()).unwrap_or(u64::MAX / 4);
        Duration::from_micros(base_us / 2 + self.random_u64() % base_us.max(1))
    }
}
