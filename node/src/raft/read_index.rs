//! Linearizable reads share rounds.
//!
//! A round asks a quorum whether the leader still leads, and returns an index. A read may use any
//! round that *began* after the read did. So reads that arrive during a round wait and share the
//! next one. Only one round runs at a time, independent of the number of reads.

use std::sync::Arc;

use cairn_host::seam::Env;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// An index to wait for, or `None` if the node that was asked does not lead. The error says why no
/// answer came.
pub type RoundResult = Result<Option<u64>, String>;
type Round = Box<dyn Fn() -> BoxFuture<'static, RoundResult> + Send + Sync>;

pub struct ReadRounds {
    env: Env,
    round: Round,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: bool,
    waiting: Vec<oneshot::Sender<RoundResult>>,
}

impl ReadRounds {
    pub fn new(
        env: Env,
        round: impl Fn() -> BoxFuture<'static, RoundResult> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { env, round: Box::new(round), state: Mutex::default() })
    }

    /// Joins the next round to begin.
    pub async fn join(self: &Arc<Self>) -> RoundResult {
        let (waiter, result) = oneshot::channel();
        let start = {
            let mut state = self.state.lock();
            state.waiting.push(waiter);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            let rounds = self.clone();
            self.env.spawn("read rounds", async move { rounds.run().await });
        }
        result.await.unwrap_or_else(|_| Err("the node is stopping".into()))
    }

    async fn run(&self) {
        loop {
            let waiting = {
                let mut state = self.state.lock();
                state.waiting.retain(|waiter| !waiter.is_closed());
                if state.waiting.is_empty() {
                    state.running = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let result = (self.round)().await;
            for waiter in waiting {
                let _ = waiter.send(result.clone());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::raft::testing::test_env;

    #[tokio::test(start_paused = true)]
    async fn reads_that_arrive_during_a_round_share_the_next() {
        let began = Arc::new(AtomicU64::new(0));
        let rounds = ReadRounds::new(test_env(), {
            let began = began.clone();
            move || {
                let round = began.fetch_add(1, Ordering::Relaxed) + 1;
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(Some(round))
                })
            }
        });
        let first = tokio::spawn({
            let rounds = rounds.clone();
            async move { rounds.join().await }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let later: Vec<_> = (0..100)
            .map(|_| {
                let rounds = rounds.clone();
                tokio::spawn(async move { rounds.join().await })
            })
            .collect();
        assert_eq!(first.await.unwrap(), Ok(Some(1)));
        for read in later {
            assert_eq!(read.await.unwrap(), Ok(Some(2)));
        }
        assert_eq!(began.load(Ordering::Relaxed), 2);
    }
}
