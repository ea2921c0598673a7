//! Tasks that end when their waiter is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};

use cairn_host::seam::Env;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::ClientError;

/// A separate task, so that work uses several cores, and a future of its result. If the future is
/// dropped before the result, the task is aborted. After the result, the task may continue by
/// itself.
pub(crate) struct Task<T> {
    said: oneshot::Receiver<Result<T, ClientError>>,
    handle: JoinHandle<()>,
    finished: bool,
}

impl<T: Send + 'static> Task<T> {
    /// Starts `work`, which sends its result through the given sender.
    pub(crate) fn start<F>(
        env: &Env,
        name: &'static str,
        work: impl FnOnce(oneshot::Sender<Result<T, ClientError>>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (say, said) = oneshot::channel();
        Self { said, handle: env.spawn(name, work(say)), finished: false }
    }

    /// Starts `work`, whose output is the result.
    pub(crate) fn run(
        env: &Env,
        name: &'static str,
        work: impl Future<Output = Result<T, ClientError>> + Send + 'static,
    ) -> Self {
        Self::start(env, name, |say| async move {
            let _ = say.send(work.await);
        })
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let said = Pin::new(&mut self.said).poll(context);
        said.map(|said| {
            self.finished = true;
            said.unwrap_or(Err(ClientError::Cancelled))
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.finished {
            self.handle.abort();
        }
    }
}
