//! The production runtime: tokio tasks in a set of their own, lanes for blocking work, the
//! operating system's entropy and wall clock.
//!
//! ```text
//! Lane::Log         -> bounded queue -> one thread, strictly in order
//! Lane::Data        -> 4 permits     -> tokio's blocking threads
//! Lane::Snapshot    -> 2 permits     -> the same
//! Lane::Replication -> 2 permits     -> the same
//! Lane::Walk        -> 2 permits     -> the same
//! Lane::Client      -> 4 permits     -> the same
//! ```
//!
//! A client writes no log. Its host has no log thread, and its Log lane has one permit.
//!
//! A blocking job that panics aborts the process, because it leaves disk and memory in an unknown
//! state. [`abort_on_panic`] extends that to every task.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::jobs::RunningJobs;
use crate::seam::{Job, Lane, Runtime};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

/// Jobs waiting for the log thread. Raft has only a few commits outstanding. Further callers wait
/// in their own tasks.
const LOG_QUEUE_MAX: usize = 256;
/// Blocking jobs of one lane that run at the same time: enough for one disk's queue and two hashing
/// cores, and few enough that a burst of uploads does not start hundreds of threads.
const LANE_JOBS_MAX: usize = 4;
/// The same limit for the lanes other than those of segments. Each has one or two jobs at a time
/// and must not wait for the others.
const SIDE_LANE_JOBS_MAX: usize = 2;

/// The runtime environment of one server or client process.
pub struct TokioHost {
    handle: Handle,
    tasks: Arc<Tasks>,
    /// The log's thread; a client has none.
    log: Option<mpsc::Sender<LogJob>>,
    /// The permits of every lane without a thread of its own.
    permits: BTreeMap<Lane, Arc<Semaphore>>,
    jobs: RunningJobs,
    random: SystemRandom,
}

struct LogJob {
    job: Job,
    done: oneshot::Sender<()>,
}

impl TokioHost {
    /// Makes a host whose tasks run on `handle`'s runtime, and starts its log thread.
    pub fn new(handle: Handle) -> std::io::Result<Arc<Self>> {
        let (log, queue) = mpsc::channel(LOG_QUEUE_MAX);
        std::thread::Builder::new().name("cairn-log".into()).spawn(move || run_log(queue))?;
        Ok(Self::with(handle, Some(log)))
    }

    /// The runtime environment of a client, without a log thread.
    pub fn for_client(handle: Handle) -> Arc<Self> {
        Self::with(handle, None)
    }

    fn with(handle: Handle, log: Option<mpsc::Sender<LogJob>>) -> Arc<Self> {
        // A lane with a thread never asks for a permit.
        let permits = [
            (Lane::Log, 1),
            (Lane::Data, LANE_JOBS_MAX),
            (Lane::Client, LANE_JOBS_MAX),
            (Lane::Snapshot, SIDE_LANE_JOBS_MAX),
            (Lane::Replication, SIDE_LANE_JOBS_MAX),
            (Lane::Walk, SIDE_LANE_JOBS_MAX),
        ];
        Arc::new(Self {
            handle,
            tasks: Arc::default(),
            log,
            permits: permits.map(|(lane, jobs)| (lane, Arc::new(Semaphore::new(jobs)))).into(),
            jobs: RunningJobs::default(),
            random: SystemRandom::new(),
        })
    }

    /// Blocking jobs that have not ended. A stopped process may still write through them.
    pub fn jobs_running(&self) -> usize {
        self.jobs.count()
    }

    /// Tasks that have not ended.
    pub fn task_count(&self) -> usize {
        self.tasks.running.lock().len()
    }

    /// Ends every task of this host and waits until all are gone. Blocking jobs that already run
    /// are finished, not interrupted. Do not await this in one of the host's own tasks.
    pub async fn stop(&self) {
        self.tasks.stopped.store(true, Ordering::SeqCst);
        loop {
            let gone = self.tasks.gone.notified();
            {
                let running = self.tasks.running.lock();
                if running.is_empty() {
                    return;
                }
                for task in running.values() {
                    task.abort();
                }
            }
            gone.await;
        }
    }
}

impl Runtime for TokioHost {
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> JoinHandle<()> {
        let id = self.tasks.next.fetch_add(1, Ordering::Relaxed);
        let ended = Arc::new(AtomicBool::new(false));
        let leave = Leave { tasks: Arc::clone(&self.tasks), id, ended: Arc::clone(&ended) };
        let joined = self.handle.spawn(async move {
            let _leave = leave;
            tracing::trace!(task = name, "task started");
            task.await;
        });
        let mut running = self.tasks.running.lock();
        // A task that ended before this line has already removed itself; see `Leave`.
        if !ended.load(Ordering::SeqCst) {
            running.insert(id, joined.abort_handle());
        }
        drop(running);
        if self.tasks.stopped.load(Ordering::SeqCst) {
            joined.abort();
        }
        joined
    }

    fn run_blocking(&self, lane: Lane, job: Job) -> BoxFuture<'static, ()> {
        let jobs = self.jobs.clone();
        let job: Job = Box::new(move || {
            let _running = jobs.begin(lane);
            abort_if_it_panics(job);
        });
        match (&self.log, self.permits.get(&lane)) {
            (Some(log), _) if lane == Lane::Log => {
                let log = log.clone();
                Box::pin(async move {
                    let (done, finished) = oneshot::channel();
                    // The thread lives as long as any sender, so both ends exist.
                    if log.send(LogJob { job, done }).await.is_ok() {
                        let _ = finished.await;
                    }
                })
            }
            (_, Some(permits)) => run_limited(self.handle.clone(), Arc::clone(permits), job),
            (_, None) => unreachable!("every lane has permits"),
        }
    }

    fn oldest_job(&self, lane: Lane) -> Option<Duration> {
        self.jobs.oldest(lane)
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        // Without entropy from the operating system, ids would not be unique.
        self.random.fill(&mut bytes).expect("the operating system gives random bytes");
        u64::from_le_bytes(bytes)
    }

    #[allow(clippy::disallowed_methods, reason = "implements the seam")]
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Makes any panic, in any thread or task, abort the process after the message is printed. The
/// server calls this first. Tests do not call it.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

/// By the time the payload arrives here, the panic hook has printed the message and the location.
fn abort_if_it_panics(job: Job) {
    if catch_unwind(AssertUnwindSafe(job)).is_err() {
        eprintln!("a blocking job panicked, the process stops");
        std::process::abort();
    }
}

fn run_log(mut queue: mpsc::Receiver<LogJob>) {
    while let Some(LogJob { job, done }) = queue.blocking_recv() {
        job();
        let _ = done.send(());
    }
}

fn run_limited(handle: Handle, permits: Arc<Semaphore>, job: Job) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let Ok(permit) = permits.acquire_owned().await else { return };
        let run = handle.spawn_blocking(move || {
            // The job keeps its permit even if its caller has stopped waiting.
            let _permit = permit;
            job();
        });
        // Only a runtime that is shutting down drops a job before it runs.
        let _ = run.await;
    })
}

/// The running tasks of one host.
#[derive(Default)]
struct Tasks {
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, AbortHandle>>,
    gone: Notify,
    stopped: AtomicBool,
}

/// Removes a task from its set when its future is dropped for any reason. `ended` is set first,
/// because a task may end before `spawn` has added it.
struct Leave {
    tasks: Arc<Tasks>,
    id: u64,
    ended: Arc<AtomicBool>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let mut running = self.tasks.running.lock();
        running.remove(&self.id);
        if running.is_empty() {
            self.tasks.gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn log_jobs_run_one_at_a_time_in_order() {
        let host = TokioHost::new(Handle::current()).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let jobs = (0..100).map(|number| {
            let seen = Arc::clone(&seen);
            host.run_blocking(Lane::Log, Box::new(move || seen.lock().push(number)))
        });
        futures::future::join_all(jobs).await;
        assert_eq!(*seen.lock(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn stopping_ends_every_task_and_refuses_later_ones() {
        let host = TokioHost::new(Handle::current()).unwrap();
        for _ in 0..10 {
            host.spawn("waits for ever", Box::pin(std::future::pending()));
        }
        host.spawn("ends", Box::pin(async {})).await.unwrap();
        assert_eq!(host.task_count(), 10);
        host.stop().await;
        assert_eq!(host.task_count(), 0);
        let late = host.spawn("late", Box::pin(std::future::pending()));
        assert!(late.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn data_jobs_run_a_few_at_a_time() {
        let host = TokioHost::new(Handle::current()).unwrap();
        let (now, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let jobs = (0..64).map(|_| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            host.run_blocking(
                Lane::Data,
                Box::new(move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                }),
            )
        });
        futures::future::join_all(jobs).await;
        assert!((1..=LANE_JOBS_MAX as u64).contains(&most.load(Ordering::SeqCst)));
    }
}
