//! The production runtime: tokio tasks in a set of their own, lanes for blocking work, the
//! operating system's entropy and wall clock.
//!
//! ```text
//! Lane::Log    -> bounded queue -> one thread, strictly in order
//! Lane::Data   -> 4 permits     -> tokio's blocking threads
//! Lane::Client -> 4 permits     -> tokio's blocking threads
//! ```
//!
//! A blocking job that panics aborts the process: it has left disk and memory in a state nobody
//! reasoned about. [`abort_on_panic`] extends that to every task.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::seam::{Job, Lane, Runtime};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

/// Jobs waiting for the log thread. Raft has a few commits outstanding at most; whoever comes
/// later waits in its own task.
const LOG_QUEUE_MAX: usize = 256;
/// Blocking jobs of one lane that run at the same time: enough to keep one disk's queue and two
/// hashing cores busy, few enough that a burst of uploads does not spawn hundreds of threads.
const LANE_JOBS_MAX: usize = 4;

/// The surroundings of one server or client process.
pub struct TokioHost {
    handle: Handle,
    tasks: Arc<Tasks>,
    log: mpsc::Sender<LogJob>,
    data: Arc<Semaphore>,
    client: Arc<Semaphore>,
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
        Ok(Arc::new(Self {
            handle,
            tasks: Arc::default(),
            log,
            data: Arc::new(Semaphore::new(LANE_JOBS_MAX)),
            client: Arc::new(Semaphore::new(LANE_JOBS_MAX)),
            random: SystemRandom::new(),
        }))
    }

    /// Tasks that have not ended.
    pub fn task_count(&self) -> usize {
        self.tasks.running.lock().len()
    }

    /// Ends every task of this host and waits until all are gone. Blocking jobs that already run
    /// are finished, not interrupted. Must not be awaited from one of the host's own tasks.
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
        // A task that ended before this line has already left; see `Leave`.
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
        let job: Job = Box::new(move || abort_if_it_panics(job));
        match lane {
            Lane::Log => {
                let log = self.log.clone();
                Box::pin(async move {
                    let (done, finished) = oneshot::channel();
                    // The thread lives as long as any sender, so neither end can be missing.
                    if log.send(LogJob { job, done }).await.is_ok() {
                        let _ = finished.await;
                    }
                })
            }
            Lane::Data => run_limited(self.handle.clone(), Arc::clone(&self.data), job),
            Lane::Client => run_limited(self.handle.clone(), Arc::clone(&self.client), job),
        }
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        // An operating system that cannot give entropy leaves us without unique ids.
        self.random.fill(&mut bytes).expect("the operating system gives random bytes");
        u64::from_le_bytes(bytes)
    }

    #[allow(clippy::disallowed_methods, reason = "implements the seam")]
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Makes any panic, in any thread or task, abort the process after it was printed. The server
/// calls it first thing; tests do not.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
}

/// The panic hook has printed message and place by the time the payload arrives here.
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
            // The job keeps its permit even if nobody waits for it any more.
            let _permit = permit;
            job();
        });
        // Only a runtime that is shutting down drops a job unrun.
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

/// Takes a task out of its set when its future is dropped, however that comes about. `ended` is
/// set first: a task may end before `spawn` has entered it.
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
