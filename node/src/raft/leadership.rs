//! Who leads, and a way to be told when that changes.
//!
//! A subscriber sees the newest state, not every state between; subscribers are woken in the
//! order they began to wait (tokio's `watch` would wake in random order).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Leadership as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    /// Node and address of the leader, if one is known.
    pub leader: Option<(u64, String)>,
    /// This node leads.
    pub is_self: bool,
}

/// How this node stands with the others: a leader with a majority, any other node with a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// openraft takes this node for the leader, with a majority or without.
    pub leads: bool,
    /// Since the majority or the leader was heard; since the start, if never.
    pub silence: Duration,
    pub ever: bool,
}

#[derive(Default)]
struct State {
    version: u64,
    now: Leadership,
    waiting: VecDeque<oneshot::Sender<()>>,
}

#[derive(Clone, Default)]
pub(super) struct LeadershipBoard(Arc<Mutex<State>>);

impl LeadershipBoard {
    pub fn now(&self) -> Leadership {
        self.0.lock().now.clone()
    }

    pub fn set(&self, leadership: Leadership) {
        let mut state = self.0.lock();
        if state.now != leadership {
            state.now = leadership;
            state.version += 1;
            for waiter in std::mem::take(&mut state.waiting) {
                let _ = waiter.send(());
            }
        }
    }

    /// This node has stopped: it leads and follows no more.
    pub fn close(&self) {
        let term = self.now().term;
        self.set(Leadership { term, ..Leadership::default() });
    }

    pub fn watch(&self) -> LeadershipWatch {
        LeadershipWatch { board: self.clone(), seen: None }
    }
}

/// One subscriber.
pub struct LeadershipWatch {
    board: LeadershipBoard,
    seen: Option<u64>,
}

impl LeadershipWatch {
    /// The state at the first call, then each time it differs from the one given last. Never
    /// resolves after the node has stopped.
    pub async fn changed(&mut self) -> Leadership {
        loop {
            let woken = {
                let mut state = self.board.0.lock();
                if self.seen != Some(state.version) {
                    self.seen = Some(state.version);
                    return state.now.clone();
                }
                state.waiting.retain(|waiter| !waiter.is_closed());
                let (waiter, woken) = oneshot::channel();
                state.waiting.push_back(waiter);
                woken
            };
            if woken.await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
