//! The current leader, and a subscription to its changes.
//!
//! A subscriber sees the newest state and may miss states in between. Subscribers are woken in the
//! order in which they began to wait (tokio's `watch` would wake in random order).

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

/// This node's contact with the others: a leader with a majority, any other node with a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// openraft regards this node as the leader, with or without a majority.
    pub leads: bool,
    /// Time since the last contact with the majority or the leader, or since the start if there was
    /// none.
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

    /// This node has stopped. It no longer leads or follows.
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
    /// Returns the state at the first call, then each state that differs from the last one
    /// returned. Never resolves after the node has stopped.
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
