//! The catalogue's records (DESIGN section 3). Plain data; the rules live in `catalogue`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::audit::AuditHead;
use crate::canary;
use crate::form::Form;
use crate::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, Lineage, Namespace, NodeId,
    Nonce, RefName, Run, SegmentDigest, SegmentId, Step,
};
use crate::marks::{Hold, Quarantine};
use crate::progress::UploadProgress;
use crate::retention::RetentionChange;
use crate::slots::{References, Slots};

/// How many times `replace_after_ms` a node has to make a replica: an hour by default.
const ASSIGNED_FOR_REPLACEMENTS: u64 = 6;

/// Cluster-wide times, fixed when the cluster is made: apply depends on them, so every node must
/// hold the same. All in milliseconds of cluster time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An open upload without a command for this long is stale.
    pub lease_ms: u64,
    /// What nothing refers to is kept this much longer before its space is given back.
    pub grace_ms: u64,
    /// A node silent for this long is down.
    pub down_after_ms: u64,
    /// A replica on a node that stays down this long gets a slot elsewhere.
    pub replace_after_ms: u64,
}

impl Settings {
    /// A replica that is not made for so long after its assignment gets a slot elsewhere, though
    /// its node is up: longer than any honest backlog of copies takes, as nodes that know that
    /// they cannot store decline at once.
    pub fn assigned_for_ms(&self) -> u64 {
        self.replace_after_ms.saturating_mul(ASSIGNED_FOR_REPLACEMENTS)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ms: 60_000,
            grace_ms: 3_600_000,
            down_after_ms: 5_000,
            replace_after_ms: 600_000,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    pub id: ClusterId,
    pub lineage: Lineage,
    /// Cluster time; the only clock that decides.
    pub clock_ms: u64,
    /// While set, nothing is reaped (after a recovery, until inventories are reconciled).
    pub reap_hold: bool,
    /// Highest command set every node understands.
    pub feature_level: u32,
    pub settings: Settings,
    /// Counters of the current lineage.
    pub next_node: u64,
    pub next_segment: u64,
    pub next_checkpoint: u64,
    pub next_incarnation: u64,
    /// Whether clients without a token have no rights.
    pub tokens_required: bool,
    /// The end of the audit's chain.
    pub audit: AuditHead,
}

/// Where a node stands in the operator's eyes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admin {
    #[default]
    InService,
    /// For good: its slots are void, its id never returns.
    Removed,
}

/// Where a node stands in the leader's eyes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    Up,
    #[default]
    Down,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub cookie: Cookie,
    /// Nonce of the process that registered last; ties the data directory to this record.
    pub nonce: Nonce,
    /// The last `SUPERSEDED_MAX` nonces that a later registration replaced, oldest first: their
    /// processes run on a copied directory, or do not know yet that they have ended.
    pub superseded: Vec<Nonce>,
    pub host: String,
    pub rack: String,
    /// Advertised `host:port`.
    pub address: String,
    /// Zero until the first `Register`.
    pub incarnation: Incarnation,
    /// Whether the current incarnation has compared its files with its slots.
    pub inventoried: bool,
    pub admin: Admin,
    pub duty: Duty,
    pub liveness: Liveness,
    /// Cluster time of the last liveness change.
    pub liveness_since_ms: u64,
    pub capacity_bytes: u64,
    pub feature_level: u32,
    /// Ed25519: only its holder speaks for the node. `None` until one is recorded.
    pub key: Option<[u8; 32]>,
}

impl Node {
    /// Whether replicas on this node count (DESIGN section 1).
    pub fn counts(&self) -> bool {
        (self.liveness == Liveness::Up || crate::canary!("count_the_down"))
            && self.admin == Admin::InService
            && (self.inventoried || canary!("count_uninventoried"))
    }

    /// Whether new slots may be put here.
    pub fn takes_slots(&self) -> bool {
        self.liveness == Liveness::Up
            && self.admin == Admin::InService
            && (self.duty != Duty::Draining || canary!("drained_takes_slots"))
            && self.incarnation != Incarnation(0)
    }

    /// Whether its replicas are waited for, however long it is down.
    pub fn is_maintained(&self, clock_ms: u64) -> bool {
        matches!(self.duty, Duty::Maintenance { until_ms } if clock_ms < until_ms)
    }
}

/// What an operator uses a node in service for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Duty {
    #[default]
    Serving,
    /// It gets no new replicas, and others make those that it has. Until they have, its own count.
    Draining,
    /// It is expected to be away: nobody makes its replicas before this cluster time.
    Maintenance { until_ms: u64 },
}

/// Whether a rack that cannot be had refuses the write or degrades it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    #[default]
    Hard,
    Soft,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        })
    }
}

/// A namespace's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// R: replicas of each segment, 1 to 7.
    pub replicas: u32,
    /// W: replicas that count before a commit is acknowledged, at most R.
    pub write_quorum: u32,
    /// Racks over which the W and the R replicas are spread, at most R.
    pub min_racks: u32,
    pub isolation: Isolation,
    /// Retention: the newest commits kept; `None` keeps all.
    pub keep_last: Option<u32>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replicas: 3,
            write_quorum: 2,
            min_racks: 2,
            isolation: Isolation::Hard,
            keep_last: None,
        }
    }
}

/// What a caller wants different from the namespace's policy; `None` leaves a rule alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChange {
    pub replicas: Option<u32>,
    pub write_quorum: Option<u32>,
    pub min_racks: Option<u32>,
    pub isolation: Option<Isolation>,
    /// `Some(0)` keeps all again.
    pub keep_last: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceRecord {
    /// What the namespace says itself; the rest comes from the namespaces above it.
    pub own: OwnPolicy,
    /// Log index of the last entry that changed its policy, also from above; 0 before.
    pub policy_version: u64,
    /// Wall time of the newest commit; never decreases.
    pub last_wall_ms: u64,
    /// A large run of retention that somebody agreed to.
    pub confirmed: Option<Confirmed>,
    /// How often a person or job changed what retention looks at, but for refs and holds: labels,
    /// quarantine, deletions by hand and their way back.
    pub changes: u64,
    /// `keep_last` was said with an upload: it is for this namespace and none below.
    pub keep_last_alone: bool,
}

impl NamespaceRecord {
    /// Whether it says nothing of policy.
    pub fn is_plain(&self) -> bool {
        self.own == OwnPolicy::default()
    }

    /// What namespaces below go by, where they do not say it themselves.
    pub fn inherited(&self) -> OwnPolicy {
        let mut own = self.own.clone();
        own.rules.keep_last = own.rules.keep_last.filter(|_| !self.keep_last_alone);
        own
    }
}

/// The part of a policy that one namespace says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnPolicy {
    pub rules: PolicyChange,
    pub retention: RetentionChange,
}

/// Retention may let go so many checkpoints of a namespace without asking again, as long as its
/// policy stays at this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    pub policy_version: u64,
    /// At least one.
    pub left: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotState {
    Assigned,
    Durable,
    Released,
}

/// The assignment of a segment to a node. A node may have one live slot (Assigned or Durable) of
/// a segment, and beside it Released ones of older epochs whose file it has not given up yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub node: NodeId,
    pub epoch: Epoch,
    pub state: SlotState,
    /// While Assigned: cluster time up to which the replica is worth waiting for; zero once its
    /// node has declined it. Zero in other states.
    pub until_ms: u64,
}

impl Slot {
    /// Whether the replica is there, or worth waiting for at this cluster time.
    pub fn is_awaited(&self, clock_ms: u64) -> bool {
        match self.state {
            SlotState::Durable => true,
            SlotState::Assigned => clock_ms < self.until_ms || canary!("trust_the_declined"),
            SlotState::Released => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub id: SegmentId,
    pub digest: SegmentDigest,
    /// Fixed by the first Stage. Any replica may be raw instead (decision 0016).
    pub form: Form,
    /// References by wanted replicas, ascending, no zero counts: (R, count).
    pub references: References,
    /// Cluster time from which a record without references may be reaped; meaningless while
    /// referenced.
    pub reap_after_ms: u64,
    /// Whether `Reap` released all slots; undone only by a new Stage.
    pub reaped: bool,
    /// Ordered by (node, epoch).
    pub slots: Slots,
}

impl Segment {
    /// R: the largest wanted replicas of any reference, 0 without one.
    pub fn replicas_wanted(&self) -> u32 {
        if crate::canary!("least_replicas_wanted") {
            return self.references.first().map_or(0, |(replicas, _)| *replicas);
        }
        self.references.last().map_or(0, |(replicas, _)| *replicas)
    }

    pub fn is_referenced(&self) -> bool {
        !self.references.is_empty()
    }

    /// Slots that are Assigned or Durable.
    pub fn live_slots(&self) -> impl Iterator<Item = Slot> {
        self.slots.iter().filter(|slot| slot.state != SlotState::Released)
    }

    pub fn live_slot_on(&self, node: NodeId) -> Option<Slot> {
        self.live_slots().find(|slot| slot.node == node)
    }
}

/// Where a part's manifest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestPlace {
    /// The encoded manifest itself, at most 4 KiB.
    Inline(Bytes),
    /// Segments whose bytes, joined, are the encoded manifest.
    Segments(Vec<SegmentDigest>),
}

/// A sealed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedPart {
    pub manifest: ManifestPlace,
    /// BLAKE3 over the sorted (digest, len) of all segments the part names; see
    /// `catalogue::set_digest`.
    pub set_digest: [u8; 32],
    /// Bytes of the part's files.
    pub bytes: u64,
    pub files: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckpointState {
    Open,
    Committed,
    Deleted,
}

/// A number that somebody measured of a checkpoint, such as a loss. Always finite, zero is positive:
/// equal metrics have equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric(u64);

impl Metric {
    /// `None` for an infinity or what is no number.
    pub fn new(value: f64) -> Option<Self> {
        // Adding zero makes a negative zero positive.
        value.is_finite().then(|| Self((value + 0.0).to_bits()))
    }

    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// When and where in the log a checkpoint was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    pub index: u64,
    /// Wall-clock label, milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// What a client needs to know of a checkpoint: the answer to `Resolve`. The catalogue's own
/// record adds its segment sets and lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointInfo {
    pub id: CheckpointId,
    pub namespace: Namespace,
    pub step: Step,
    pub attempt: Attempt,
    pub state: CheckpointState,
    pub policy: Policy,
    /// Shared with the record, as they may be many.
    pub parts: Arc<[SealedPart]>,
    pub commit: Option<Commit>,
    pub labels: BTreeMap<String, String>,
    pub metrics: BTreeMap<String, Metric>,
    pub bytes: u64,
    pub files: u64,
    /// Distinct segments, and their raw bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Of these: what no other committed checkpoint, also in the trash, had at the commit. `None` where
    /// the reader may not know what others store.
    pub new_bytes: Option<u64>,
    pub durability: Durability,
    /// Parts it has once it is committed; of an open-ended upload those sealed so far.
    pub parts_wanted: u32,
    /// Its upload left the number of parts open.
    pub open_ended: bool,
    /// Of an open upload: how many of them are not sealed, and the first `MISSING_PARTS_MAX`.
    pub parts_missing: u32,
    pub first_missing: Vec<u32>,
    pub began: Began,
    /// Set where it must not be used.
    pub quarantine: Option<Quarantine>,
    /// What keeps it from deletion: refs that point to it, and holds that have not ended.
    pub refs: Vec<RefName>,
    pub holds: Vec<Hold>,
    /// Set where it is deleted.
    pub deletion: Option<Deletion>,
    /// Set while it is open, by nodes that say so.
    pub upload: Option<UploadProgress>,
}

impl CheckpointInfo {
    /// What keeps it from deletion, as a refusal names it; empty without anything.
    pub fn kept_by(&self) -> String {
        let refs = self.refs.iter().map(|name| format!("ref {name}"));
        refs.chain(self.holds.iter().map(Hold::shown)).collect::<Vec<_>>().join(", ")
    }
}

/// How safe a set of segments is: the least over its members, counting replicas that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durability {
    pub replicas_wanted: u32,
    /// Least number of replicas that count, over all segments.
    pub replicas_min: u32,
    /// Least number of racks those replicas stand in.
    pub racks_min: u32,
    /// Segments that have fewer than the wanted replicas, and their raw bytes.
    pub segments_below: u64,
    pub bytes_below: u64,
    /// Segments without any replica that counts.
    pub segments_unavailable: u64,
}

/// Where in the log an upload's attempt began, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Began {
    pub index: u64,
    /// Wall-clock label, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// What the client called itself; empty if it did not say.
    pub client: String,
    /// The job it is part of, as its launcher names it; empty if it did not say.
    pub job: String,
    /// Whose token began it: the upload is that subject's. Empty where no token did.
    pub subject: String,
}

/// Why a checkpoint was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletedFor {
    /// Somebody asked.
    Asked,
    /// The namespace's rules of retention.
    Retention,
    /// Another one was committed in its place.
    Replaced,
    /// An upload whose lease and grace ran out.
    Expired,
    /// An upload that a rollback aborted: its attempt, and lower ones, may not begin again.
    RolledBack,
}

/// How a checkpoint was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub reason: DeletedFor,
    /// The client that asked for it, as it named itself; empty if it did not, or nobody asked.
    pub by: String,
    /// Wall-clock label, milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// For so much longer it can be undeleted, by cluster time; zero if not.
    pub restorable_ms: u64,
}

impl DeletedFor {
    /// As messages and records carry it.
    pub fn number(self) -> u32 {
        match self {
            Self::Asked => 1,
            Self::Retention => 2,
            Self::Replaced => 3,
            Self::Expired => 4,
            Self::RolledBack => 5,
        }
    }

    pub fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Asked, Self::Retention, Self::Replaced, Self::Expired, Self::RolledBack];
        all.into_iter().find(|reason| reason.number() == number)
    }
}

/// A part of an upload in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenPart {
    pub run: Run,
    pub sealed: Option<SealedPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    pub cookie: Cookie,
    pub host: String,
    pub rack: String,
    pub address: String,
    pub capacity_bytes: u64,
    pub feature_level: u32,
    /// The node of the same host and address whose place it takes.
    pub replaces: Option<NodeId>,
    /// The node's public key, from feature level 5 on.
    pub key: Option<[u8; 32]>,
}
