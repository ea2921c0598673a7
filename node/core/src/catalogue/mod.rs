//! The catalogue: the state machine that Raft drives.
//!
//! [`Catalogue::apply`] is pure and total. The same log gives the same catalogue on every node
//! (C3). A bad command gets a typed refusal and changes only the cluster clock. A copy costs O(1):
//! it shares everything with the original until one of the two changes, and then only the changed
//! part is copied. So snapshots and planners never delay apply.
//!
//! ```text
//!   checkpoint --reference--> segment --slot--> node
//!      Begin        Stage       one per    Stage, AssignSlots      Assigned
//!      SealPart     (taken)     digest     Durable (by the node)   Durable --> counts
//!      Delete                              Lost, Inventory         Assigned, new epoch
//!      DropReferences (given back)         ReleaseSlots, Reap      Released --> Removed
//! ```
//!
//! The state is `cluster`, `nodes`, `namespaces`, `checkpoints`, `segments`, `refs`, `holds`,
//! `access` (tokens) and the remembered replies. Everything in [`index`] is derived from these and
//! rebuilt on load. `retention_inputs` only counts changes, and `collected` has what the last entry
//! brought about ([`Catalogue::take_events`], [`Catalogue::take_audited`]).

mod access;
mod annotate;
mod audit;
mod checkpoint;
mod deletion;
mod duty;
mod events;
mod features;
mod holds;
mod index;
mod info;
mod kinds;
mod labels;
mod nodes;
mod open_ended;
mod policy;
mod quarantine;
mod read;
mod refs;
mod replies;
mod reports;
mod restore;
mod retained;
mod rights;
mod seal;
mod sharing;
mod slots;
mod stage;
pub mod stored;
mod summary;
mod uploads;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pages::SegmentPages;
use crate::persistent::Map;
use cairn_types::audit::Audited;
use cairn_types::canary;
use cairn_types::command::{Body, Command, Refusal, Reply};
use cairn_types::command_table;
use cairn_types::ids::{CheckpointId, Epoch, LINEAGE_SHIFT, Namespace, NodeId};
use cairn_types::limits::CLOCK_STEP_MS_MAX;
use cairn_types::marks::Hold;
use cairn_types::model::{Cluster, NamespaceRecord, Node};
use cairn_types::rights::Subject;

pub use access::{Access, Issuer, Revoked};
pub use checkpoint::{Checkpoint, Upload, UploadPart};
pub use index::NodeSlots;
pub use labels::Later;
pub use nodes::RemovalCost;
pub use policy::Quorum;
pub use read::{ListPage, ListQuery};
pub use refs::Refs;
pub use restore::NoSlot;
pub use retained::{RetentionPlan, RetentionRun};
pub use sharing::SharedMost;
pub use stage::LIVE_SLOTS_MAX;
pub use stored::{LoadError, Loader};
pub use summary::{NodeTally, Summary};
pub use usage::{Usage, UsagePage, UsageQuery};

use events::Collected;
use index::Indexes;
use replies::Replies;

#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    cluster: Cluster,
    /// Few records, read for each slot and rarely changed, so they are copied as a whole.
    nodes: Arc<BTreeMap<NodeId, Node>>,
    namespaces: Map<Namespace, NamespaceRecord>,
    checkpoints: Map<CheckpointId, Arc<Checkpoint>>,
    segments: SegmentPages,
    refs: Map<Namespace, Refs>,
    /// By checkpoint and owner.
    holds: Map<(CheckpointId, String), Hold>,
    replies: Replies,
    access: Access,
    index: Indexes,
    /// By namespace: a number that rises whenever retention could have a new result, on this copy
    /// only. It is neither stored nor compared.
    retention_inputs: Map<Namespace, u64>,
    /// What the entry that is being applied brings about. Neither stored nor compared.
    collected: Collected,
    /// Its record of the audit, likewise. The end of the chain is in `cluster`.
    audited: Option<Audited>,
}

/// The data of an entry that its handlers get besides the body.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    index: u64,
    /// The epoch of slots that this entry assigns.
    epoch: Epoch,
    wall_ms: u64,
    /// The subject on whose behalf the command runs.
    subject: &'a Subject,
}

impl Catalogue {
    /// Applies the entry at log index `index`.
    ///
    /// Total: every command gets a reply. A refused command only changes the clock. A repeated
    /// request id gets its first reply and has no second effect (C4).
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        self.apply_of(0, index, command)
    }

    /// [`Catalogue::apply`] of an entry of this term, which is recorded in the audit and decides
    /// nothing.
    pub fn apply_of(&mut self, term: u64, index: u64, command: &Command) -> Reply {
        self.audited = None;
        let clock_ms = self.cluster.clock_ms;
        let step_end = clock_ms.saturating_add(CLOCK_STEP_MS_MAX);
        let least_ms = if canary!("clock_falls") { 0 } else { clock_ms };
        self.cluster.clock_ms = least_ms.max(command.clock_ms.min(step_end));
        self.collected.begin(command.wall_ms);
        if let Some(reply) = self.replies.get(command.request) {
            return reply.clone();
        }
        let epoch = Epoch(self.cluster.lineage.mint(index & ((1 << LINEAGE_SHIFT) - 1)));
        let Command { wall_ms, ref subject, .. } = *command;
        let entry = Entry { index, epoch, wall_ms, subject };
        let object = audit::object(self, &command.body);
        let reply = self.dispatch(entry, &command.body).unwrap_or_else(Reply::Refused);
        self.settle_filling();
        if let Some(object) = object {
            self.record(term, index, command, object, &reply);
        }
        self.replies.remember(command.request, &reply);
        reply
    }

    fn dispatch(&mut self, entry: Entry, body: &Body) -> Result<Reply, Refusal> {
        match body {
            Body::InitCluster(_) => {}
            _ if !self.is_initialized() => return Err(Refusal::NotInitialized),
            _ => self.admit(body)?,
        }
        self.authorize(entry.subject, body, entry.wall_ms)?;
        macro_rules! apply {
            ($catalogue:tt; $($module:ident $Name:ident $sender:ident $need:ident $level:literal $words:literal,)*) => {
                match body {
                    $(Body::$Name(command) => command.apply($catalogue, entry),)*
                }
            };
        }
        command_table!(apply self)
    }
}

/// The effect of a command on the catalogue.
trait Apply {
    /// Total. A refusal leaves the catalogue unchanged.
    fn apply(&self, catalogue: &mut Catalogue, entry: Entry) -> Result<Reply, Refusal>;
}

fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::Malformed(what.into())
}

/// Refuses text with control characters, which a terminal would not show as written.
fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    match text.contains(char::is_control) {
        true => Err(malformed(format!("{what} with control characters"))),
        false => Ok(()),
    }
}

/// Refuses a batch longer than `max`.
fn check_batch(what: &str, len: usize, max: usize) -> Result<(), Refusal> {
    if len <= max { Ok(()) } else { Err(malformed(format!("{len} {what}, at most {max}"))) }
}

/// The result of a batch whose items are handled independently.
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
