//! The owner of a task: every task of a simulated process carries its process's current life, and a
//! crash ends them all at once.
//!
//! The life is a tokio task-local. So a task that openraft spawns through its own runtime type
//! ([`crate::rt::SimRt`]) gets the same owner as one spawned through `Env`.

#![allow(clippy::disallowed_methods, reason = "implements the runtime seam")]

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

use crate::seed::Stream;

/// Finished tasks are removed from the handles each time their number doubles past this.
const SWEEP_AT: usize = 64;

/// One simulated operating-system process: a node or a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// One life of a process, from start to crash or stop.
pub struct Life {
    pub process: ProcessId,
    /// 1 for the first start, then one more for each start.
    pub number: u32,
    /// The process's name in traces.
    pub name: Arc<str>,
    over: AtomicBool,
    abandoned: AtomicBool,
    paused: Gate,
    /// Closed while the process applies nothing.
    applies: Gate,
    tasks: Mutex<Tasks>,
    chance: Mutex<Stream>,
}

/// Some tasks do not pass the gate while it is closed. It holds the wakers to call when it opens.
#[derive(Default)]
struct Gate(Mutex<Option<Vec<Waker>>>);

impl Gate {
    fn shut(&self) {
        self.0.lock().get_or_insert_default();
    }

    fn open(&self) {
        let waiting = self.0.lock().take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    fn is_shut(&self) -> bool {
        self.0.lock().is_some()
    }

    fn stops(&self, cx: &Context<'_>) -> bool {
        match &mut *self.0.lock() {
            Some(waiting) => {
                waiting.push(cx.waker().clone());
                true
            }
            None => false,
        }
    }
}

#[derive(Default)]
struct Tasks {
    handles: Vec<AbortHandle>,
    sweep_at: usize,
}

tokio::task_local! {
    static LIFE: Arc<Life>;
}

impl Life {
    pub(crate) fn new(process: ProcessId, number: u32, name: Arc<str>, chance: Stream) -> Self {
        Self {
            process,
            number,
            name,
            over: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            paused: Gate::default(),
            applies: Gate::default(),
            tasks: Mutex::default(),
            chance: Mutex::new(chance),
        }
    }

    /// The life of the running task, if the task belongs to a process.
    pub fn current() -> Option<Arc<Self>> {
        LIFE.try_with(Arc::clone).ok()
    }

    /// A random number of this life.
    pub fn random_u64(&self) -> u64 {
        self.chance.lock().next_u64()
    }

    /// Whether the process has crashed or stopped.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Starts a task of this life. If the life is over, the task is dropped before it runs.
    pub fn spawn<T>(self: &Arc<Self>, task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let life = self.clone();
        // Boxed, because every wrapper would otherwise move kilobytes of state again.
        let mut task = Box::pin(task);
        let turn = move |cx: &mut Context<'_>| match life.paused.stops(cx) {
            true => Poll::Pending,
            false => task.as_mut().poll(cx),
        };
        let handle = tokio::spawn(LIFE.scope(self.clone(), poll_fn(turn)));
        if self.is_over() {
            handle.abort();
        } else {
            self.tasks.lock().push(handle.abort_handle());
        }
        handle
    }

    /// Like [`spawn`](Self::spawn), for the task that applies the log.
    pub fn spawn_applying<T>(self: &Arc<Self>, task: T) -> JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        let life = self.clone();
        let mut task = Box::pin(task);
        self.spawn(poll_fn(move |cx| match life.applies.stops(cx) {
            true => Poll::Pending,
            false => task.as_mut().poll(cx),
        }))
    }

    /// Nothing is applied until [`apply_again`](Self::apply_again). Everything else continues.
    pub fn apply_nothing(&self) {
        self.applies.shut();
    }

    pub fn apply_again(&self) {
        self.applies.open();
    }

    /// No task of this life runs until [`resume`](Self::resume), as under SIGSTOP. The world
    /// continues, its timers expire, and messages to it wait.
    pub fn pause(&self) {
        self.paused.shut();
    }

    pub fn resume(&self) {
        self.paused.open();
    }

    pub fn is_paused(&self) -> bool {
        self.paused.is_shut()
    }

    /// Its host was declared dead, and another life has its place and disk. It may not know this.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Ends every task of this life. The tasks are dropped at their next turn, so no more messages
    /// may be passed to them by then.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        let handles = std::mem::take(&mut self.tasks.lock().handles);
        for handle in handles {
            handle.abort();
        }
    }

    /// Tasks that have not finished.
    pub fn tasks(&self) -> usize {
        self.tasks.lock().handles.iter().filter(|handle| !handle.is_finished()).count()
    }
}

impl Tasks {
    fn push(&mut self, handle: AbortHandle) {
        if self.handles.len() >= self.sweep_at.max(SWEEP_AT) {
            self.handles.retain(|handle| !handle.is_finished());
            self.sweep_at = self.handles.len() * 2;
        }
        self.handles.push(handle);
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} life {}", self.name, self.number)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn life(name: &str) -> Arc<Life> {
        Arc::new(Life::new(ProcessId(1), 1, name.into(), Stream::new(1)))
    }

    #[tokio::test(start_paused = true)]
    async fn paused_life_does_nothing_until_it_goes_on() {
        let life = life("n1");
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        life.spawn(async move {
            for number in 1.. {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                let _ = sender.send(number);
            }
        });
        assert_eq!(receiver.recv().await, Some(1));
        life.pause();
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(life.is_paused() && receiver.try_recv().is_err());
        life.resume();
        assert_eq!(receiver.recv().await, Some(2));
        life.pause();
        life.end();
        tokio::task::yield_now().await;
        assert_eq!((life.tasks(), receiver.recv().await), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_that_applies_nothing_does_all_else() {
        let life = life("n1");
        life.apply_nothing();
        let applying = life.spawn_applying(async { 1 });
        assert_eq!(life.spawn(async { 2 }).await.unwrap(), 2);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert!(!applying.is_finished());
        life.apply_again();
        assert_eq!(applying.await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ended_life_drops_its_tasks_and_those_they_spawned() {
        let life = life("n1");
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let outer = life.spawn(async move {
            let inner = Life::current().map(|life| {
                life.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(sender);
                })
            });
            std::future::pending::<()>().await;
            drop(inner);
        });
        tokio::task::yield_now().await;
        assert_eq!(life.tasks(), 2);
        life.end();
        assert!(outer.await.unwrap_err().is_cancelled());
        assert!(receiver.await.is_err());
        assert!(life.spawn(async {}).await.unwrap_err().is_cancelled());
    }
}
