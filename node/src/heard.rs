//! Heartbeats as the leader hears them: soft state, never in Raft.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_core::ids::{Incarnation, NodeId};
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    pub incarnation: Incarnation,
    pub at: Instant,
    pub available_bytes: u64,
    pub bytes_in_flight: u64,
}

#[derive(Debug, Default)]
pub struct Heard {
    pulses: Mutex<BTreeMap<NodeId, Pulse>>,
}

impl Heard {
    pub fn record(&self, node: NodeId, pulse: Pulse) {
        self.pulses.lock().insert(node, pulse);
    }

    pub fn of(&self, node: NodeId) -> Option<Pulse> {
        self.pulses.lock().get(&node).copied()
    }

    /// How long `node`'s `incarnation` has been silent, counted from `led_for` ago for one that
    /// this leadership has not heard yet.
    pub fn silence(&self, node: NodeId, incarnation: Incarnation, led_for: Duration) -> Duration {
        match self.of(node) {
            Some(pulse) if pulse.incarnation == incarnation => pulse.at.elapsed().min(led_for),
            _ => led_for,
        }
    }
}
