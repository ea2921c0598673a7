//! What the parts of a running node share, by what it is about. A function takes the parts that it
//! touches; only the outermost wiring has [`Shared`] whole.
//!
//! | part | is |
//! |---|---|
//! | [`ThisNode`] | which node this process is, and what it was given at its start |
//! | [`Member`] | the applied catalogue and Raft: reads, proposals, linearizable reads |
//! | [`LeaderState`] | what a leader knows beside the catalogue: who is alive, leaves, cannot come in |
//! | [`Ending`] | how this process comes to its end |

mod ending;
pub mod leader;
mod member;
mod this_node;

use std::sync::Arc;
use std::time::Duration;

use cairn_host::envelope::Identity;
use cairn_host::seam::Transport;
use cairn_types::ids::NodeId;
use parking_lot::Mutex;
use tonic::Request;

pub use self::ending::Ending;
pub use self::leader::LeaderState;
pub use self::member::Member;
pub use self::this_node::ThisNode;
use crate::counters::Counters;
use crate::ledger::Ledger;
use crate::peers::Peers;
use crate::process::Usage;
use crate::reporter::Reporter;
use crate::store::SegmentStore;
use crate::summary::Summaries;
use crate::waits::Waits;
use crate::wake::Wake;

pub struct Shared {
    pub this: Arc<ThisNode>,
    pub member: Arc<Member>,
    pub leader: Arc<LeaderState>,
    pub ending: Arc<Ending>,
    pub store: SegmentStore,
    pub ledger: Arc<dyn Ledger>,
    pub counters: Counters,
    pub waits: Waits,
    pub summaries: Summaries,
    pub peers: Arc<Peers>,
    pub reporter: Reporter,
    /// Wakes this node's own work (fetch, destroy, report).
    pub work: Wake,
    pub usage: fn() -> Usage,
    /// What the last look at the disk said; see [`Shared::room`].
    pub room: Mutex<(u64, u64)>,
}

impl Shared {
    /// Bytes that new segments may take, and bytes on their way: as of now, or of the last time
    /// the disk answered quickly. A disk with a long queue must not make its node look dead.
    pub async fn room(&self) -> (u64, u64) {
        let patience = Duration::from_millis(self.this.config.timings.heartbeat_ms / 2);
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

    /// A transport to `address`, cached.
    pub fn transport(&self, address: &str) -> Transport {
        self.peers.transport(&self.this.env, address)
    }

    /// A request that names this cluster and, where known, the node that is meant.
    pub fn call<T>(&self, node: Option<NodeId>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let identity =
            Identity { cluster: Some(self.this.cluster), lineage: Some(self.this.lineage), node };
        identity.write(request.metadata_mut());
        request
    }
}
