//! What all parts of a running node share, and the few moves they have in common: read the
//! catalogue, propose a command, call another node.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_core::command::{Body, Command, Reply};
use cairn_core::ids::{ClusterId, Incarnation, Lineage, NodeId, RequestId};
use cairn_proto::convert;
use cairn_proto::envelope::{Identity, Reason, not_leader, refuse};
use cairn_proto::seam::{Env, Transport};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::clock::ClusterClock;
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::heard::Heard;
use crate::ledger::Ledger;
use crate::machine::CatalogueState;
use crate::peers::Peers;
use crate::process::Usage;
use crate::raft::{Consensus, ProposeError, ReadError};
use crate::report::Reporter;
use crate::store::SegmentStore;
use crate::wake::Wake;

/// The leader's answer to one proposal takes no longer; whether it was applied is unknown then.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Called with a reason when the node must stop: a failed fsync, a damaged log, a stale
/// identity. The shell of the process (or the simulator) ends the node.
pub type FatalHook = Arc<dyn Fn(String) + Send + Sync>;

pub struct Shared {
    pub env: Env,
    pub config: NodeConfig,
    pub cluster: ClusterId,
    pub lineage: Lineage,
    pub node: NodeId,
    pub state: Arc<RwLock<CatalogueState>>,
    pub consensus: Consensus,
    pub disk: Arc<dyn Disk>,
    pub store: SegmentStore,
    pub ledger: Arc<dyn Ledger>,
    pub clock: ClusterClock,
    pub counters: Counters,
    pub heard: Heard,
    pub peers: Arc<Peers>,
    pub reporter: Reporter,
    /// The incarnation of this process once it has applied its own `Register` and inventory is
    /// under way; until then it reports, deletes and quarantines nothing.
    pub incarnation: Mutex<Option<Incarnation>>,
    /// Wakes this node's own work (fetch, destroy, report) and the leader's.
    pub work: Wake,
    pub steward: Wake,
    pub members: Wake,
    pub fatal: FatalHook,
    /// Stops the node for good: removed, replaced by another process, or on an old directory.
    pub banish: FatalHook,
    /// Whether that was the reason to stop.
    pub banished: Arc<AtomicBool>,
    pub usage: fn() -> Usage,
    /// What the last look at the disk said; see [`Shared::room`].
    pub room: Mutex<(u64, u64)>,
}

impl Shared {
    /// Runs `look` on the applied catalogue. Never held across an await.
    pub fn read<T>(&self, look: impl FnOnce(&Catalogue) -> T) -> T {
        look(&self.state.read().catalogue)
    }

    /// A copy of the applied catalogue, cheap, for long looks.
    pub fn copy(&self) -> Catalogue {
        self.read(Catalogue::clone)
    }

    pub fn incarnation(&self) -> Option<Incarnation> {
        *self.incarnation.lock()
    }

    /// Bytes that new segments may take, and bytes on their way: as of now, or of the last time
    /// the disk answered quickly. A disk with a long queue must not make its node look dead.
    pub async fn room(&self) -> (u64, u64) {
        let patience = Duration::from_millis(self.config.timings.heartbeat_ms / 2);
        match tokio::time::timeout(patience, self.store.room()).await {
            Ok(Ok(room)) => *self.room.lock() = (room.available, room.reserved),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot tell how much room there is");
                *self.room.lock() = (0, 0);
            }
            Err(_) => {}
        }
        *self.room.lock()
    }

    /// Cluster time, if this node leads.
    pub fn leader_clock_ms(&self) -> Option<u64> {
        if !self.consensus.is_leader() {
            return None;
        }
        let applied_ms = self.read(|catalogue| catalogue.cluster().clock_ms);
        Some(self.clock.now_ms(self.consensus.term(), applied_ms))
    }

    /// Proposes a command on this node; anything but the leader answers `NotLeader`.
    pub async fn propose(&self, request: RequestId, body: Body) -> Result<Arc<Reply>, Status> {
        let Some(clock_ms) = self.leader_clock_ms() else {
            return Err(self.not_leader());
        };
        let command = Command { request, clock_ms, wall_ms: self.env.wall_ms(), body };
        self.propose_encoded(convert::encode_command(&command)).await
    }

    async fn propose_encoded(&self, encoded: Bytes) -> Result<Arc<Reply>, Status> {
        self.consensus.propose(encoded, PROPOSE_DEADLINE).await.map_err(|error| match error {
            ProposeError::NotLeader { leader } => {
                not_leader(leader.as_ref().map(|(node, address)| (NodeId(*node), address.as_str())))
            }
            ProposeError::Unavailable(text) => Status::unavailable(text),
            ProposeError::TooLarge(_) => Status::invalid_argument(error.to_string()),
            ProposeError::Fatal(text) => Status::unavailable(text),
        })
    }

    pub fn not_leader(&self) -> Status {
        match self.consensus.leader() {
            Some((node, address)) if node != self.node.0 => {
                let known = self.address_of(NodeId(node)).unwrap_or(address);
                not_leader(Some((NodeId(node), &known)))
            }
            _ => not_leader(None),
        }
    }

    /// Waits until reads of the local catalogue are linearizable.
    pub async fn read_index(&self, deadline: Duration) -> Result<u64, Status> {
        self.consensus.read_index(deadline).await.map_err(|error| match error {
            ReadError::Unavailable(_) | ReadError::Fatal(_) => {
                Status::unavailable(format!("{error}; try another node"))
            }
        })
    }

    /// Waits until this node has applied `index`.
    pub async fn wait_applied(&self, index: u64, deadline: Duration) -> Result<(), Status> {
        match tokio::time::timeout(deadline, self.consensus.wait_for_applied(index)).await {
            Ok(()) => Ok(()),
            Err(_) => {
                Err(refuse(Reason::NotYet, format!("log entry {index} is not applied here yet")))
            }
        }
    }

    /// A transport to `address`, cached.
    pub fn transport(&self, address: &str) -> Transport {
        self.peers.transport(&self.env, address)
    }

    /// A request that names this cluster and, where known, the node that is meant.
    pub fn call<T>(&self, node: Option<NodeId>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let identity = Identity { cluster: Some(self.cluster), lineage: Some(self.lineage), node };
        identity.write(request.metadata_mut());
        request
    }

    pub fn call_deadline(&self) -> Duration {
        Duration::from_millis(self.config.timings.call_ms)
    }

    /// Where `node` can be reached, if it is a member.
    pub fn address_of(&self, node: NodeId) -> Option<String> {
        self.read(|catalogue| catalogue.node(node).map(|record| record.address.clone()))
    }

    pub fn upkeep_period(&self) -> Duration {
        Duration::from_millis(self.config.timings.upkeep_ms)
    }

    pub fn now(&self) -> Instant {
        Instant::now()
    }
}
