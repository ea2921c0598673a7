//! Heartbeats as the leader hears them: soft state, never in Raft.

use std::collections::BTreeMap;

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
}
