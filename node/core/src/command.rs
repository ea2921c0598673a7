//! What Raft orders: commands, the replies apply gives, and the refusals it answers bad ones
//! with.

use std::collections::BTreeMap;

use crate::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, Namespace, NodeId, Nonce,
    RequestId, Run, SegmentDigest, SegmentId, Step,
};
use crate::model::{
    Durability, Liveness, ManifestPlace, NewNode, Policy, PolicyChange, Settings, Slot,
};

/// One log entry's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Zero for commands that are idempotent by themselves.
    pub request: RequestId,
    /// The leader's cluster time when it proposed this.
    pub clock_ms: u64,
    /// The leader's wall clock: a label only.
    pub wall_ms: u64,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The first entry of a cluster; mints node 1.
    InitCluster {
        cluster: ClusterId,
        settings: Settings,
        node: NewNode,
    },
    /// Mints a node id. Idempotent by cookie; until the node registers, a repeated one changes
    /// its place and address.
    AllocateNode(NewNode),
    /// A node process reports for duty. Refused as `StaleIdentity` unless the record's nonce is
    /// among `previous` (or equals `nonce`, a retry).
    Register {
        node: NodeId,
        cookie: Cookie,
        /// The nonces the data directory remembers, at most `NONCES_MAX`: the last one known to be
        /// registered and those whose registrations were never answered.
        previous: Vec<Nonce>,
        nonce: Nonce,
        host: String,
        rack: String,
        address: String,
        capacity_bytes: u64,
        feature_level: u32,
    },
    /// Live slots whose file is missing or unsound; `last` makes the node inventoried.
    Inventory {
        node: NodeId,
        incarnation: Incarnation,
        missing: Vec<(SegmentId, Epoch)>,
        last: bool,
    },
    /// Transitions only. Ignored for stale incarnations.
    SetLiveness {
        changes: Vec<(NodeId, Incarnation, Liveness)>,
    },
    /// For good. Refused while the node holds the only durable replica of a referenced segment,
    /// and for the last node in service.
    RemoveNode {
        node: NodeId,
    },
    SetPolicy {
        namespace: Namespace,
        change: PolicyChange,
    },

    /// Opens an upload or joins the one of the same attempt.
    Begin {
        namespace: Namespace,
        step: Step,
        parts: u32,
        attempt: Attempt,
        /// `replicas`, `write_quorum`, `min_racks`, `isolation` apply to this checkpoint,
        /// `keep_last` to the namespace.
        change: PolicyChange,
        /// Commit may take the place of a committed checkpoint of this step.
        replace: bool,
        labels: BTreeMap<String, String>,
    },
    /// Registers segments of a part before any byte moves.
    Stage {
        checkpoint: CheckpointId,
        attempt: Attempt,
        part: u32,
        run: Run,
        segments: Vec<StageSegment>,
    },
    /// A node reports replicas durable.
    Durable {
        node: NodeId,
        incarnation: Incarnation,
        replicas: Vec<(SegmentId, Epoch)>,
    },
    /// A node gives replicas up as missing or bad: they are Assigned again under a new epoch.
    Lost {
        node: NodeId,
        incarnation: Incarnation,
        replicas: Vec<(SegmentId, Epoch)>,
    },
    /// A node no longer keeps files for Released slots.
    Removed {
        node: NodeId,
        incarnation: Incarnation,
        replicas: Vec<(SegmentId, Epoch)>,
    },
    /// Seals a part; sealing the last one commits the checkpoint.
    SealPart {
        checkpoint: CheckpointId,
        attempt: Attempt,
        part: u32,
        run: Run,
        manifest: ManifestPlace,
        set_digest: [u8; 32],
        bytes: u64,
        files: u64,
    },
    /// Renews the lease of open uploads.
    Renew {
        uploads: Vec<(CheckpointId, Attempt)>,
    },
    /// A leader's first entry: every open lease gets a full term.
    LeaderStarted,
    /// Uploads whose lease ended more than a grace ago: dropped for good.
    ExpireUploads {
        checkpoints: Vec<CheckpointId>,
    },
    Delete {
        checkpoint: CheckpointId,
        reason: DeleteReason,
        now: bool,
    },
    /// Drops up to `DROP_REFERENCES_MAX` references of a deleted checkpoint, or leftovers of a
    /// committed one.
    DropReferences {
        checkpoint: CheckpointId,
    },
    /// Releases all slots of segments without references whose grace is over.
    Reap {
        segments: Vec<SegmentId>,
    },
    /// New slots beside those a segment has (repair, slow target).
    AssignSlots {
        slots: Vec<(SegmentId, NodeId)>,
    },
    /// Gives up excess replicas: needs R others that count.
    ReleaseSlots {
        slots: Vec<(SegmentId, NodeId)>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteReason {
    /// Somebody asked.
    Asked,
    /// The namespace's `keep_last`; refused if the checkpoint is among the newest by then.
    Retention,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSegment {
    pub digest: SegmentDigest,
    /// Raw bytes.
    pub len: u32,
    /// Nodes the leader chose for the slots this segment lacks; empty where it lacks none.
    pub targets: Vec<NodeId>,
}

/// What Stage answers for one segment, in request order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedSegment {
    pub segment: SegmentId,
    /// W replicas count already: the client sends nothing.
    pub kept: bool,
    /// The segment's live slots.
    pub slots: Vec<Slot>,
}

/// What apply answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Done,
    NodeAllocated {
        node: NodeId,
    },
    Registered {
        incarnation: Incarnation,
    },
    Begun(Begun),
    Staged {
        segments: Vec<StagedSegment>,
    },
    /// How many reports were current and how many were void (stale epoch or incarnation).
    Reported {
        accepted: u32,
        refused: u32,
    },
    /// A part is sealed, others are missing still.
    Sealed {
        parts_sealed: u32,
        parts: u32,
    },
    Committed {
        checkpoint: CheckpointId,
        durability: Durability,
    },
    /// Nothing was sealed: these lack W replicas that count, on the racks required; at most
    /// `BATCH_SEGMENTS_MAX` are named.
    Lacking {
        segments: Vec<SegmentId>,
        total: u64,
    },
    /// References of a checkpoint still to be dropped.
    Dropped {
        left: u64,
    },
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    pub checkpoint: CheckpointId,
    pub attempt: Attempt,
    /// The rules this checkpoint is held to.
    pub policy: Policy,
    pub parts: u32,
    /// Parts sealed already in this attempt.
    pub sealed: Vec<u32>,
    /// The same attempt has committed already.
    pub committed: bool,
}

/// Why a command had no effect. One variant for each thing a caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster is initialised already")]
    AlreadyInitialized,
    #[error("the cluster is not initialised")]
    NotInitialized,
    #[error("no node {0}")]
    UnknownNode(NodeId),
    #[error("node {0} was removed from the cluster")]
    NodeRemoved(NodeId),
    #[error("node {node} is registered with another data directory")]
    WrongCookie { node: NodeId },
    #[error("the data directory of node {node} is older than its registration")]
    StaleIdentity { node: NodeId },
    #[error("incarnation {got} of node {node} is not current ({current})")]
    StaleIncarnation { node: NodeId, got: Incarnation, current: Incarnation },
    #[error("no checkpoint {0}")]
    UnknownCheckpoint(CheckpointId),
    #[error("no checkpoint {namespace}@{selector}")]
    NoSuchCheckpoint { namespace: String, selector: String },
    #[error("checkpoint {0} is not open for upload")]
    NotOpen(CheckpointId),
    #[error("step {step} of {namespace} exists already")]
    StepExists { namespace: Namespace, step: Step, checkpoint: CheckpointId },
    #[error("attempt {got} is fenced by attempt {current}")]
    Fenced { got: Attempt, current: Attempt },
    #[error("the upload has {current} parts, not {got}")]
    PartCount { got: u32, current: u32 },
    #[error("part {part} of {parts}")]
    PartOutOfRange { part: u32, parts: u32 },
    #[error("part {part} is sealed with other content")]
    PartSealed { part: u32 },
    #[error("part {part} is being written by another client run")]
    OtherRun { part: u32 },
    #[error("segments staged for part {part} are not those its manifest names")]
    SetDigestMismatch { part: u32 },
    #[error("segment {0} is not part of this upload")]
    SegmentNotStaged(SegmentDigest),
    #[error("{have} hosts can take a replica, {want} are needed")]
    NotEnoughHosts { have: u32, want: u32 },
    #[error("{have} racks can take a replica, {want} are needed")]
    NotEnoughRacks { have: u32, want: u32 },
    /// The nodes the leader chose cannot take the slots any more, or do not suffice any more; it
    /// plans again.
    #[error("chosen nodes cannot take the slots any more")]
    BadTargets,
    #[error("the newest {keep_last} commits are kept by policy")]
    KeptByPolicy { keep_last: u32 },
    /// Removing the node would lose data for good.
    #[error("node {node} holds the only durable replica of {segments} segments")]
    LastReplicas { node: NodeId, segments: u64 },
    #[error("node {0} is the last one in service")]
    LastNode(NodeId),
    #[error("malformed command: {0}")]
    Malformed(String),
}

impl Reply {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
