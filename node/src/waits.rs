//! How long callers of this node waited, for `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::time::Instant;

/// From the time of a fast disk to the time after which a person gives up, seconds.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

fn seconds() -> Histogram {
    Histogram::new(BOUNDS)
}

/// The kind of a command: one value for each command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommandKind {
    pub command: &'static str,
}

/// Waiting times in seconds, measured by this node.
#[derive(Debug, Clone)]
pub struct Waits {
    /// A client's command on the leader: planned, held back, ordered, applied.
    pub commands: Family<CommandKind, Histogram>,
    /// Until a read was linearizable.
    pub reads: Histogram,
    /// A segment from its head until it was durable.
    pub segment_puts: Histogram,
    /// A reader's stream from its request to its last block.
    pub segment_gets: Histogram,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            commands: Family::new_with_constructor(seconds),
            reads: seconds(),
            segment_puts: seconds(),
            segment_gets: seconds(),
        }
    }
}

impl Waits {
    pub fn command(&self, command: &'static str, began: Instant) {
        let histogram = self.commands.get_or_create(&CommandKind { command });
        histogram.observe(began.elapsed().as_secs_f64());
    }
}
