//! The catalogue: the state machine that Raft drives.
//!
//! [`Catalogue::apply`] is pure and total: the same log gives the same catalogue on every node
//! (C3), and a bad command is a typed refusal that changes nothing but the cluster clock. A clone
//! shares its pages with the original, so snapshots and planners never hold up apply.
//!
//! ```text
//!   checkpoint --reference--> segment --slot--> node
//!      Begin        Stage       one per    Stage, AssignSlots      Assigned
//!      SealPart     (taken)     digest     Durable (by the node)   Durable --> counts
//!      Delete                              Lost, Inventory         Assigned, new epoch
//!      DropReferences (given back)         ReleaseSlots, Reap      Released --> Removed
//! ```
//!
//! The state is `cluster`, `nodes`, `namespaces`, `checkpoints`, `segments` and the remembered
//! replies. Everything in [`index`] is derived from these and rebuilt on load.

mod checkpoint;
mod deletion;
mod digest;
mod index;
mod load;
mod nodes;
mod policy;
mod read;
mod replies;
mod reports;
mod seal;
mod slots;
mod stage;
mod summary;
mod uploads;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::{Body, Command, Refusal, Reply};
use crate::ids::{CheckpointId, Epoch, LINEAGE_SHIFT, Namespace, NodeId};
use crate::limits::CLOCK_STEP_MS_MAX;
use crate::model::{Cluster, NamespaceRecord, Node, SealedPart};
use crate::pages::SegmentPages;

pub use checkpoint::{Checkpoint, Upload, UploadPart};
pub use index::NodeSlots;
pub use load::{LoadError, Loader};
pub use policy::{Quorum, effective_policy};
pub use read::ListQuery;
pub use seal::set_digest;
pub use stage::LIVE_SLOTS_MAX;
pub use summary::{NodeTally, Summary};

use index::Indexes;
use replies::Replies;

#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    cluster: Cluster,
    nodes: BTreeMap<NodeId, Node>,
    namespaces: BTreeMap<Namespace, NamespaceRecord>,
    checkpoints: BTreeMap<CheckpointId, Arc<Checkpoint>>,
    segments: SegmentPages,
    replies: Replies,
    index: Indexes,
}

/// What an entry tells its handlers beside its body.
#[derive(Debug, Clone, Copy)]
struct Entry {
    index: u64,
    /// Of slots this entry assigns.
    epoch: Epoch,
    wall_ms: u64,
}

impl Catalogue {
    /// Applies the entry at log index `index`.
    ///
    /// Total: every command gets a reply. A refused one has no effect but the clock; a repeated
    /// request id gets its first reply and has no effect again (C4).
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        let clock_ms = self.cluster.clock_ms;
        let step_end = clock_ms.saturating_add(CLOCK_STEP_MS_MAX);
        self.cluster.clock_ms = clock_ms.max(command.clock_ms.min(step_end));
        if let Some(reply) = self.replies.get(command.request) {
            return reply.clone();
        }
        let epoch = Epoch(self.cluster.lineage.mint(index & ((1 << LINEAGE_SHIFT) - 1)));
        let entry = Entry { index, epoch, wall_ms: command.wall_ms };
        let reply = self.dispatch(entry, &command.body).unwrap_or_else(Reply::Refused);
        self.replies.remember(command.request, &reply);
        reply
    }

    fn dispatch(&mut self, entry: Entry, body: &Body) -> Result<Reply, Refusal> {
        if let Body::InitCluster { cluster, settings, node } = body {
            return self.init_cluster(*cluster, settings, node);
        }
        if !self.is_initialized() {
            return Err(Refusal::NotInitialized);
        }
        match body {
            Body::InitCluster { .. } => Err(Refusal::AlreadyInitialized),
            Body::AllocateNode(node) => self.allocate_node(node),
            Body::Register { .. } => self.register(body),
            Body::Inventory { node, incarnation, missing, last } => {
                self.inventory(entry, *node, *incarnation, missing, *last)
            }
            Body::SetLiveness { changes } => self.set_liveness(changes),
            Body::RemoveNode { node } => self.remove_node(*node),
            Body::SetPolicy { namespace, change } => self.set_policy(namespace, change),
            Body::Begin { namespace, step, parts, attempt, change, replace, labels } => {
                self.begin(uploads::Begin {
                    namespace,
                    step: *step,
                    parts: *parts,
                    attempt: *attempt,
                    change,
                    replace: *replace,
                    labels,
                })
            }
            Body::Stage { checkpoint, attempt, part, run, segments } => {
                self.stage(entry, *checkpoint, *attempt, *part, *run, segments)
            }
            Body::Durable { node, incarnation, replicas } => {
                self.durable(*node, *incarnation, replicas)
            }
            Body::Lost { node, incarnation, replicas } => {
                self.lost(entry, *node, *incarnation, replicas)
            }
            Body::Removed { node, incarnation, replicas } => {
                self.removed(*node, *incarnation, replicas)
            }
            Body::SealPart {
                checkpoint,
                attempt,
                part,
                run,
                manifest,
                set_digest,
                bytes,
                files,
            } => {
                let sealed = SealedPart {
                    manifest: manifest.clone(),
                    set_digest: *set_digest,
                    bytes: *bytes,
                    files: *files,
                };
                self.seal_part(entry, *checkpoint, *attempt, *part, *run, sealed)
            }
            Body::Renew { uploads } => self.renew(uploads),
            Body::LeaderStarted => self.leader_started(),
            Body::ExpireUploads { checkpoints } => self.expire_uploads(checkpoints),
            Body::Delete { checkpoint, reason, now } => self.delete(*checkpoint, *reason, *now),
            Body::DropReferences { checkpoint } => self.drop_references(*checkpoint),
            Body::Reap { segments } => self.reap(segments),
            Body::AssignSlots { slots } => self.assign_slots(entry, slots),
            Body::ReleaseSlots { slots } => self.release_slots(slots),
        }
    }
}

fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::Malformed(what.into())
}

/// Refuses a batch longer than `max`.
fn check_batch(what: &str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max { Ok(()) } else { Err(malformed(format!("{len} {what}, at most {max}"))) }
}

/// The answer to a batch whose items stand for themselves.
#[derive(Debug, Default)]
struct Tally {
    accepted: u32,
    refused: u32,
}

impl Tally {
    fn count(&mut self, accepted: bool) {
        if accepted {
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
    }

    fn reply(self) -> Reply {
        Reply::Reported { accepted: self.accepted, refused: self.refused }
    }
}
