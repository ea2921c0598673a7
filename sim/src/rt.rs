//! The runtime of consensus in simulation: tokio with three things replaced.
//!
//! * Random numbers come from the seed (of the process's life, if there is one).
//! * Watch channels wake their waiters in order; tokio's wake them in a random one.
//! * A spawned task belongs to the process that spawned it, so that a crash ends it. The task that
//!   applies the log is recognised by its type, so that only this task of a node can be delayed.

#![allow(clippy::disallowed_methods, reason = "implements the runtime seam")]

use std::cell::Cell;
use std::io;
use std::time::Duration;

use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_sim::SimWatch;
use openraft_rt_tokio::{TokioInstant, TokioMpsc, TokioMutex, TokioOneshot, TokioRuntime};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Sleep, Timeout, error::Elapsed};

use crate::process::Life;
use crate::seed::split_mix;
use crate::trace;

thread_local! {
    /// Randomness for tasks that belong to no process.
    static SHARED: Cell<u64> = const { Cell::new(0) };
}

/// Resets this thread's shared numbers. Called at the start of every run.
pub(crate) fn reset(seed: u64) {
    SHARED.set(seed);
}

fn next_seed() -> u64 {
    if let Some(life) = Life::current() {
        return life.random_u64();
    }
    let next = split_mix(SHARED.get());
    SHARED.set(next);
    next
}

/// Whether a task of this type is openraft's state machine worker, the only one that applies.
fn applies(task: &str) -> bool {
    task.contains("::sm::worker::") && task.contains("do_spawn")
}

/// See the module.
pub struct SimRt(tokio::runtime::Runtime);

impl std::fmt::Debug for SimRt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimRt")
    }
}

impl AsyncRuntime for SimRt {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = TokioInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = TokioMpsc;
    type Watch = SimWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Life::current() {
            Some(life) if applies(std::any::type_name::<T>()) => {
                trace::count("raft.appliers", 1);
                life.spawn_applying(future)
            }
            Some(life) => life.spawn(future),
            None => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Sleep {
        tokio::time::sleep(duration)
    }

    fn sleep_until(deadline: TokioInstant) -> Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(after: Duration, future: F) -> Timeout<F> {
        tokio::time::timeout(after, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: TokioInstant,
        future: F,
    ) -> Timeout<F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(error: &JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> SmallRng {
        SmallRng::seed_from_u64(next_seed())
    }

    #[allow(clippy::expect_used, reason = "only openraft's own test suite calls it")]
    fn new(_threads: usize) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        Self(builder.enable_time().start_paused(true).build().expect("build a tokio runtime"))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }

    /// Runs inline, because a second thread would have its own time and order.
    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(work())
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;

    use super::*;

    #[test]
    fn openraft_accepts_the_runtime() {
        Suite::<SimRt>::test_all();
    }
}
