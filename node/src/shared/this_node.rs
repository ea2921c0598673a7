//! The identity of this process, and its settings from the start.

use std::sync::Arc;
use std::time::Duration;

use cairn_host::seam::Env;
use cairn_types::ids::{ClusterId, Incarnation, Lineage, NodeId};
use parking_lot::Mutex;

use crate::audit::Trail;
use crate::config::NodeConfig;
use crate::disk::Disk;

pub struct ThisNode {
    pub env: Env,
    pub config: NodeConfig,
    /// The data directory.
    pub disk: Arc<dyn Disk>,
    /// The audit file.
    pub trail: Arc<Trail>,
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub id: NodeId,
    incarnation: Mutex<Option<Incarnation>>,
}

impl ThisNode {
    pub fn new(
        env: Env,
        config: NodeConfig,
        disk: Arc<dyn Disk>,
        trail: Arc<Trail>,
        (cluster, lineage, id): (ClusterId, Lineage, NodeId),
    ) -> Self {
        Self { env, config, disk, trail, cluster, lineage, id, incarnation: Mutex::new(None) }
    }

    /// The incarnation of this process, once it has applied its own `Register`. Inventory follows.
    /// Before that the process reports, deletes and quarantines nothing.
    pub fn incarnation(&self) -> Option<Incarnation> {
        *self.incarnation.lock()
    }

    /// The `Register` of this process is applied.
    pub fn registered_as(&self, incarnation: Incarnation) {
        *self.incarnation.lock() = Some(incarnation);
    }

    /// Deadline of one call between nodes that carries no segment bytes.
    pub fn call_deadline(&self) -> Duration {
        Duration::from_millis(self.config.timings.call_ms)
    }

    pub fn heartbeat_period(&self) -> Duration {
        Duration::from_millis(self.config.timings.heartbeat_ms)
    }

    pub fn upkeep_period(&self) -> Duration {
        Duration::from_millis(self.config.timings.upkeep_ms)
    }
}
