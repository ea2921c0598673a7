//! Heartbeats that the leader received: soft state, never in Raft.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_proto::wire::NodeTrouble;
use cairn_types::ids::{Incarnation, NodeId};
use parking_lot::Mutex;
use tokio::time::Instant;

/// After a goodbye, heartbeats of that process are ignored for this long, because they were sent
/// before it. Later heartbeats of a process that continues anyway count again.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy)]
pub struct Pulse {
    pub incarnation: Incarnation,
    pub at: Instant,
    pub available_bytes: u64,
    pub bytes_in_flight: u64,
    /// The process said goodbye: it is down.
    pub stops: bool,
    /// The trouble that keeps the node from its work, as the node reports it.
    pub trouble: NodeTrouble,
    /// Its audit file is damaged. It works all the same.
    pub audit_damaged: bool,
}

impl Pulse {
    /// Bytes that new segments may take. Zero on a node that is unfit.
    pub fn bytes_for_slots(&self) -> u64 {
        if self.trouble.is_none() { self.available_bytes } else { 0 }
    }
}

#[derive(Debug, Default)]
pub struct Heartbeats {
    pulses: Mutex<BTreeMap<NodeId, Pulse>>,
}

impl Heartbeats {
    pub fn record(&self, node: NodeId, pulse: Pulse) {
        let mut pulses = self.pulses.lock();
        let late = pulses.get(&node).is_some_and(|before| {
            before.stops && before.incarnation == pulse.incarnation && before.at.elapsed() < QUIET
        });
        if !late {
            pulses.insert(node, pulse);
        }
    }

    pub fn of(&self, node: NodeId) -> Option<Pulse> {
        self.pulses.lock().get(&node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_is_not_undone_by_a_heartbeat_sent_before_it() {
        let (heard, node) = (Heartbeats::default(), NodeId(3));
        let pulse = |incarnation, stops| Pulse {
            incarnation: Incarnation(incarnation),
            at: Instant::now(),
            available_bytes: 0,
            bytes_in_flight: 0,
            stops,
            trouble: NodeTrouble::default(),
            audit_damaged: false,
        };
        let stops = || heard.of(node).is_some_and(|it| it.stops);
        heard.record(node, pulse(7, true));
        heard.record(node, pulse(7, false));
        assert!(stops());
        heard.record(node, pulse(8, false));
        assert!(!stops(), "its next process is another matter");
        heard.record(node, pulse(8, true));
        tokio::time::sleep(QUIET).await;
        heard.record(node, pulse(8, false));
        assert!(!stops(), "it goes on: somebody else said goodbye for it");
    }
}
