//! The applied index, and a place to wait for it.
//!
//! Waiters are woken in the order of the index they wait for, then in order of arrival. tokio's
//! `watch` wakes in random order, which would make simulations differ.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::oneshot;

#[derive(Default)]
pub struct Applied(Mutex<State>);

#[derive(Default)]
struct State {
    /// Index of the last applied entry plus one. Zero means that no entry is applied.
    next: u64,
    arrivals: u64,
    sweep_at: usize,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
}

impl Applied {
    /// The last applied index. Zero if there is none. (Index zero is the first membership, and no
    /// reader waits for that.)
    pub fn index(&self) -> u64 {
        self.0.lock().next.saturating_sub(1)
    }

    /// Resolves once the entry at `index` is applied.
    pub async fn wait(&self, index: u64) {
        let reached = {
            let mut state = self.0.lock();
            if state.next > index {
                return;
            }
            // Callers stop waiting at their deadlines. Their entries are removed each time the
            // number of waiters has doubled, so that waiting stays cheap and memory stays bounded.
            if state.waiting.len() >= state.sweep_at {
                state.waiting.retain(|_, waiter| !waiter.is_closed());
                state.sweep_at = (state.waiting.len() * 2).max(64);
            }
            let (waiter, reached) = oneshot::channel();
            state.arrivals += 1;
            let place = (index, state.arrivals);
            state.waiting.insert(place, waiter);
            reached
        };
        if reached.await.is_err() {
            // The sender is dropped only together with this notifier.
            std::future::pending().await
        }
    }

    /// All entries up to `index` are applied.
    pub(crate) fn advance(&self, index: u64) {
        let mut state = self.0.lock();
        state.next = state.next.max(index + 1);
        while let Some(first) = state.waiting.first_entry() {
            if first.key().0 > index {
                break;
            }
            let _ = first.remove().send(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests run on tokio alone")]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn waiters_resolve_once_their_index_is_applied() {
        let applied = Arc::new(Applied::default());
        let waiter = tokio::spawn({
            let applied = applied.clone();
            async move { applied.wait(5).await }
        });
        tokio::task::yield_now().await;
        applied.advance(4);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        applied.advance(7);
        waiter.await.unwrap();
        applied.wait(7).await;
        assert_eq!(applied.index(), 7);
    }
}
