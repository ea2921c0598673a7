//! What all parts of a running node share, and the few moves they have in common: read the
//! catalogue, propose a command, call another node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::catalogue::Catalogue;
use cairn_host::envelope::{Identity, Reason, not_leader, refuse};
use cairn_host::seam::{Env, Transport};
use cairn_proto::refused::{invalid, refusal_status};
use cairn_types::canary;
use cairn_types::command::{Body, Command, Refusal, Reply};
use cairn_types::convert::{self, ConvertError};
use cairn_types::ids::{ClusterId, Incarnation, Lineage, NodeId, RequestId};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::accused::Accusations;
use crate::clock::{self, ClusterClock, Seldom};
use crate::config::NodeConfig;
use crate::counters::Counters;
use crate::disk::Disk;
use crate::fatal::FatalHook;
use crate::hastened::Hastened;
use crate::health::Health;
use crate::heartbeats::Heartbeats;
use crate::joining::Joining;
use crate::leaving::Leaving;
use crate::ledger::Ledger;
use crate::machine::CatalogueState;
use crate::peers::Peers;
use crate::process::Usage;
use crate::raft::{Consensus, ProposeError, ReadError};
use crate::reporter::Reporter;
use crate::store::SegmentStore;
use crate::summary::Summaries;
use crate::waits::Waits;
use crate::wake::Wake;

/// The leader's answer to one proposal takes no longer; whether it was applied is unknown then.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(10);

/// A wrong clock is said in the log so often.
const CLOCK_WARNING_PERIOD: Duration = Duration::from_secs(60);

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
    pub clock_warned: Seldom,
    pub counters: Counters,
    pub waits: Waits,
    pub heartbeats: Heartbeats,
    pub hastened: Hastened,
    pub health: Arc<Health>,
    pub summaries: Summaries,
    pub peers: Arc<Peers>,
    pub reporter: Reporter,
    /// The incarnation of this process once it has applied its own `Register` and inventory is
    /// under way; until then it reports, deletes and quarantines nothing.
    pub incarnation: Mutex<Option<Incarnation>>,
    /// Wakes this node's own work (fetch, destroy, report) and the leader's.
    pub work: Wake,
    pub steward: Wake,
    pub members: Wake,
    /// Nodes whose vote this leader moves because they are to be removed.
    pub leaving: Leaving,
    /// Nodes that this leader could not call back.
    pub joining: Joining,
    /// This process has said goodbye: no more heartbeats.
    pub stopping: AtomicBool,
    pub fatal: FatalHook,
    /// Stops the node for good: removed, replaced by another process, or on an old directory.
    pub stop_for_good: FatalHook,
    /// Where a peer's word is brought that this process must not go on.
    pub accusations: Accusations,
    /// Whether that was the reason to stop.
    pub stopped_for_good: Arc<AtomicBool>,
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

    /// A command that somebody sent. One that only a newer build understands is refused like one
    /// for which the cluster is not ready.
    pub fn decode_command(&self, bytes: &[u8]) -> Result<Command, Status> {
        let level = self.config.feature_level;
        convert::decode_command(bytes, level).map_err(|error| match error {
            // The leader may understand it.
            ConvertError::FutureCommand { .. } if !self.consensus.is_leader() => self.not_leader(),
            ConvertError::FutureCommand { feature_level: needed } if needed > level => {
                let current = self.read(|catalogue| catalogue.cluster().feature_level);
                refusal_status(&Refusal::FeatureLevel { needed, current })
            }
            error => invalid(error),
        })
    }

    /// Proposes a command on this node; anything but the leader answers `NotLeader`.
    pub async fn propose(&self, request: RequestId, body: Body) -> Result<Arc<Reply>, Status> {
        let Some(clock_ms) = self.leader_clock_ms() else {
            return Err(self.not_leader());
        };
        // A node of an older build could not apply it.
        if let Err(refusal) = self.admit(&body).await?
            && !canary!("propose_above_level")
        {
            return Ok(Arc::new(Reply::Refused(refusal)));
        }
        let command = Command { request, clock_ms, wall_ms: self.label_ms(), body };
        let encoded = convert::encode_command(&command);
        debug_assert_eq!(
            convert::decode_command(&encoded, self.config.feature_level).as_ref(),
            Ok(&command),
            "command does not read back"
        );
        self.propose_encoded(encoded).await
    }

    /// Whether the cluster is ready for a command, by all that is committed: a new leader may not
    /// have applied yet what raised the level.
    async fn admit(&self, body: &Body) -> Result<Result<(), Refusal>, Status> {
        let level = self.config.feature_level;
        if let Body::RaiseFeatureLevel(raise) = body
            && raise.level > level
        {
            return Ok(Err(Refusal::FeatureLevel { needed: raise.level, current: level }));
        }
        if self.read(|catalogue| catalogue.admit(body)).is_ok() {
            return Ok(Ok(()));
        }
        self.read_index(self.call_deadline()).await?;
        Ok(self.read(|catalogue| catalogue.admit(body)))
    }

    /// The wall clock that labels what is committed now.
    fn label_ms(&self) -> u64 {
        let own_ms = self.env.wall_ms();
        let label_ms = clock::label_ms(own_ms, self.consensus.clocks_ahead_ms().into_values());
        let cut_ms = own_ms - label_ms.min(own_ms);
        if cut_ms > 0 && self.clock_warned.claim(CLOCK_WARNING_PERIOD) {
            let ahead_ms = cut_ms + clock::WALL_AHEAD_MAX_MS.unsigned_abs();
            tracing::warn!(ahead_ms, "this node's wall clock is ahead of the voters' median");
        }
        label_ms
    }

    /// How far the wall clock of each node is ahead of the voters' median, as far as a leader has
    /// heard lately. Nothing on another node.
    pub fn clocks_ahead_of_median_ms(&self) -> BTreeMap<NodeId, i64> {
        if !self.consensus.is_leader() {
            return BTreeMap::new();
        }
        let median_ms = self.median_ahead_ms();
        let others = self.consensus.member_clocks_ahead_ms().into_iter();
        let all = others.chain([(self.node.0, 0)]);
        all.map(|(node, ahead_ms)| (NodeId(node), ahead_ms.saturating_sub(median_ms))).collect()
    }

    /// The voters' median wall clock, as far as this node has heard.
    pub fn median_wall_ms(&self) -> u64 {
        self.env.wall_ms().saturating_add_signed(self.median_ahead_ms())
    }

    fn median_ahead_ms(&self) -> i64 {
        clock::median_ahead_ms(self.consensus.clocks_ahead_ms().into_values())
    }

    async fn propose_encoded(&self, encoded: Bytes) -> Result<Arc<Reply>, Status> {
        self.consensus.propose(encoded, PROPOSE_DEADLINE).await.map_err(|error| match error {
            ProposeError::NotLeader { leader } => {
                not_leader(leader.as_ref().map(|(node, address)| (NodeId(*node), address.as_str())))
            }
            ProposeError::Unavailable(text) => Status::unavailable(text),
            ProposeError::TooLarge(_) => Status::invalid_argument(error.to_string()),
            ProposeError::Undecodable(_) => Status::internal(error.to_string()),
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
        let trouble = self.health.trouble();
        if trouble.log_late_ms > 0 {
            // Raft waits for the log here, and so would the caller, until the deadline.
            let text = trouble.text();
            return Err(Status::unavailable(format!("node {}: {text}; try another", self.node)));
        }
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

    /// Resolves once this node takes another one than `node` for the leader, or none.
    pub async fn until_not_led_by(&self, node: u64) {
        let mut watch = self.consensus.watch_leadership();
        while watch.changed().await.leader.is_some_and(|(leader, _)| leader == node) {}
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
