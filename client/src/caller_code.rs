//! The caller's code: sources, sinks, filters, callbacks. A panic in it becomes an error of the
//! call that it belongs to. The process continues, unlike a node's. The same holds for a panic of
//! this crate during that code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_host::seam::{Env, Lane};
use futures::FutureExt;

use crate::error::ClientError;

/// Runs `work` where blocking is allowed, as [`Env::blocking`] does.
pub(crate) async fn blocking<T: Send + 'static, E: Into<ClientError>>(
    env: &Env,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ClientError> {
    let job = move || match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(Into::into),
        Err(payload) => Err(panicked(&*payload)),
    };
    env.blocking(Lane::Client, job).await
}

/// Runs a whole call that contains the caller's code.
pub(crate) async fn guarded<T>(
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let result = AssertUnwindSafe(call).catch_unwind().await;
    result.unwrap_or_else(|payload| Err(panicked(&*payload)))
}

fn panicked(payload: &(dyn Any + Send)) -> ClientError {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    ClientError::Panicked { message: text.unwrap_or_else(|| "no message".to_owned()) }
}

type Callback<P> = dyn Fn(&P) + Send + Sync;

/// The callback for each change of a progress `P`. If it panics, it is not called again.
pub(crate) struct Watcher<P> {
    call: Option<Box<Callback<P>>>,
    is_broken: AtomicBool,
}

impl<P> Default for Watcher<P> {
    fn default() -> Self {
        Self { call: None, is_broken: AtomicBool::new(false) }
    }
}

impl<P> std::fmt::Debug for Watcher<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.call.is_some() { "Watcher(..)" } else { "Watcher(none)" })
    }
}

impl<P> Watcher<P> {
    pub fn new(call: impl Fn(&P) + Send + Sync + 'static) -> Self {
        Self { call: Some(Box::new(call)), ..Self::default() }
    }

    pub fn tell(&self, progress: &P) {
        let Some(call) = &self.call else { return };
        if self.is_broken.load(Ordering::Relaxed) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| call(progress))).is_err() {
            self.is_broken.store(true, Ordering::Relaxed);
            tracing::warn!("the callback for progress panicked and is not called again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cairn_host::dial::TcpDialer;
    use cairn_host::tokio_host::TokioHost;
    use tokio::runtime::Handle;

    use super::*;

    /// On the production host, whose blocking jobs end the process when they panic.
    #[tokio::test]
    async fn panic_in_a_blocking_job_is_an_error_and_the_process_goes_on() {
        let runtime = TokioHost::for_client(Handle::current());
        let env = Env { runtime, dialer: Arc::new(TcpDialer::new(None)) };
        let work = || -> Result<(), ClientError> { panic!("on purpose") };
        let error = blocking(&env, work).await.unwrap_err();
        assert_eq!(error.to_string(), "a panic ended the call: on purpose");
    }
}
