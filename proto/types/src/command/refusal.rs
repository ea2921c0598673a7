//! Why a command had no effect.

use crate::event::EventId;
use crate::ids::{Attempt, CheckpointId, Incarnation, Namespace, NodeId, SegmentDigest, Step};

/// Nodes in service that cannot take a segment, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shortage {
    /// The segment's bytes.
    pub bytes: u64,
    /// By id; the first `SHORTAGE_NODES_MAX`.
    pub nodes: Vec<(NodeId, Obstacle)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// Not up, or not registered yet.
    Down,
    /// Room for so much: too little for the segment beside what is on its way there.
    Full { free_bytes: u64 },
}

impl Shortage {
    pub fn down(&self) -> u32 {
        self.nodes.iter().filter(|(_, obstacle)| *obstacle == Obstacle::Down).count() as u32
    }

    pub fn has_full(&self) -> bool {
        self.nodes.iter().any(|(_, obstacle)| matches!(obstacle, Obstacle::Full { .. }))
    }

    fn len(&self) -> String {
        mib(self.bytes)
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (node, obstacle)) in self.nodes.iter().enumerate() {
            f.write_str(if place == 0 { ": " } else { ", " })?;
            match obstacle {
                Obstacle::Down => write!(f, "node {node} is down")?,
                Obstacle::Full { free_bytes } => {
                    write!(f, "node {node} has {} free", mib(*free_bytes))?;
                }
            }
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Why a command had no effect. One variant for each thing a caller would do differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster is already initialised")]
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
    /// Only an upload that left its number of parts open has parts dropped, and is closed.
    #[error("the number of parts of upload {0} is fixed: its last part commits it")]
    NotOpenEnded(CheckpointId),
    #[error("upload {0} has no sealed part: there is nothing to commit")]
    NothingSealed(CheckpointId),
    #[error("step {step} of {namespace} already exists")]
    StepExists { namespace: Namespace, step: Step, checkpoint: CheckpointId },
    #[error("attempt {got} is fenced by attempt {current}{}", of_client(client))]
    Fenced {
        got: Attempt,
        current: Attempt,
        /// Who began the current one, as far as it said, and when by the leader's wall clock.
        client: String,
        began_wall_ms: u64,
    },
    /// The job that wrote the bad steps would write them again.
    #[error("attempt {got} of step {step} is refused: a rollback aborted attempt {aborted}")]
    RolledBack { step: Step, got: Attempt, aborted: Attempt },
    /// Launchers count each job's restarts from 0, so two jobs may come to the same attempt.
    #[error("attempt {attempt} belongs to job {current}{}, not to job {got}", of_client(client))]
    OtherJob {
        attempt: Attempt,
        got: String,
        current: String,
        /// As in `Fenced`.
        client: String,
        began_wall_ms: u64,
    },
    /// A part, or a step that is committed already, asks for something else than the checkpoint
    /// has.
    #[error("{what} is {current:?} in this checkpoint, not {got:?}")]
    OtherTerms { what: String, got: String, current: String },
    #[error("the upload has {}, not {}", part_count(*current), part_count(*got))]
    PartCount { got: u32, current: u32 },
    #[error(
        "part {part} is out of range: the upload has {}, numbered from 0",
        plural(*parts, "part")
    )]
    PartOutOfRange { part: u32, parts: u32 },
    #[error("part {part} is sealed with other content")]
    PartSealed { part: u32 },
    #[error("another client is writing part {part}")]
    OtherRun { part: u32 },
    #[error("the staged segments of part {part} differ from those in its manifest")]
    SetDigestMismatch { part: u32 },
    #[error("the manifest of part {part} cannot be restored: {problem}")]
    BadManifest { part: u32, problem: String },
    /// The union of the parts would need the name twice.
    #[error("{name} is {} in parts {first} and {second}", clash_text(*same_kind))]
    NameClash {
        name: String,
        first: u32,
        second: u32,
        /// Both are files; else one is a directory.
        same_kind: bool,
    },
    /// A part of an open-ended upload takes the place of whole parts only.
    #[error(
        "part {second} has {name} of part {first}, but not all files of that part: drop it first"
    )]
    PartOverlap { name: String, first: u32, second: u32 },
    /// Another part was sealed since the leader compared this one; it compares again.
    #[error("part {part} was compared with {compared} sealed parts, but {sealed} are sealed")]
    NotCompared { part: u32, compared: u32, sealed: u32 },
    #[error("segment {0} is not part of this upload")]
    SegmentNotStaged(SegmentDigest),
    #[error(
        "{} can take a replica of {}, {want} needed{shortage}",
        plural(*have, "host"), shortage.len()
    )]
    NotEnoughHosts { have: u32, want: u32, shortage: Shortage },
    #[error(
        "{} can take a replica of {}, {want} needed{shortage}",
        plural(*have, "rack"), shortage.len()
    )]
    NotEnoughRacks { have: u32, want: u32, shortage: Shortage },
    /// The nodes the leader chose cannot take the slots any more, or do not suffice any more; it
    /// plans again.
    #[error("the chosen nodes can no longer take the slots")]
    BadTargets,
    #[error("the policy keeps the newest {}", plural(*keep_last, "commit"))]
    KeptByPolicy { keep_last: u32 },
    /// What was evaluated or confirmed was of another version of the namespace's policy.
    #[error("the policy is at version {current}, not {got}")]
    PolicyChanged { got: u64, current: u64 },
    /// Refs or holds keep it from deletion; they are named.
    #[error("checkpoint {checkpoint} is kept by {by}")]
    Protected { checkpoint: CheckpointId, by: String },
    /// Only what is in the trash can be undeleted: committed before its deletion, its grace not over,
    /// and not deleted with `now`.
    #[error("checkpoint {0} is not in the trash")]
    NotInTrash(CheckpointId),
    /// Its step was written again.
    #[error("checkpoint {by} was committed at the step of {checkpoint} since")]
    StepTaken { checkpoint: CheckpointId, by: CheckpointId },
    #[error("checkpoint {checkpoint} is in quarantine: {reason}")]
    Quarantined { checkpoint: CheckpointId, reason: String },
    #[error("ref {name} is at generation {current}, not {expected}")]
    RefMoved { name: String, expected: u64, current: u64 },
    #[error("no ref {name} in {namespace}")]
    NoSuchRef { namespace: String, name: String },
    /// Neither the selector nor the policy says what is best; with an empty metric, also not of what.
    #[error("{}", no_best_text(namespace, metric))]
    NoBestMetric { namespace: String, metric: String },
    /// A watcher's cursor, behind which the node has not all events any more: not even one is left out.
    #[error("cursor {cursor} is too old: this node has the events behind {floor}")]
    CursorTooOld { cursor: EventId, floor: EventId },
    #[error("the watcher was too slow: it took nothing for half a minute")]
    WatcherTooSlow,
    #[error("no hold of {owner:?} on checkpoint {checkpoint}")]
    NoSuchHold { checkpoint: CheckpointId, owner: String },
    /// Removing the node would lose data.
    #[error("node {node} holds the only living replica of {}", plural(*segments, "segment"))]
    LastReplicas { node: NodeId, segments: u64 },
    #[error(
        "removing node {node} would leave {} up, and {wanted} replicas are wanted",
        plural(*hosts, "host")
    )]
    TooFewHosts { node: NodeId, hosts: u32, wanted: u32 },
    /// Removing the node would end the cluster: nobody could be elected.
    #[error("without node {node} only {up} of {voters} voters would be up, which is no majority")]
    NoMajority { node: NodeId, up: u32, voters: u32 },
    /// A node of that host and address is a member: this may be its disk that is not mounted.
    #[error("node {node} already has this host and address")]
    PlaceTaken { node: NodeId },
    #[error("node {0} is the last one in service")]
    LastNode(NodeId),
    /// The cluster, or one of its nodes, runs an older build.
    #[error("this needs feature level {needed}, the cluster is at {current}")]
    FeatureLevel { needed: u32, current: u32 },
    /// A node's build is older than what the cluster has agreed to use.
    #[error("this build has feature level {got}, the cluster is at {current}")]
    OldBuild { got: u32, current: u32 },
    /// The token does not give this right there.
    #[error("{subject} may not {right} in {place}")]
    NotAllowed { subject: String, right: String, place: String },
    /// An upload or a ref is another subject's; `owner` is empty where it is nobody's token's.
    #[error("{what} is {}", of_owner(owner))]
    NotOwner { what: String, owner: String },
    /// Another token is needed.
    #[error("the token is not taken: {0}")]
    BadToken(String),
    #[error("malformed command: {0}")]
    Malformed(String),
}

/// `1 host`, `2 hosts`.
fn plural(count: impl Into<u64>, noun: &str) -> String {
    match count.into() {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// 0: the number is open.
fn part_count(parts: u32) -> String {
    match parts {
        0 => "an open number of parts".to_owned(),
        parts => plural(parts, "part"),
    }
}

fn no_best_text(namespace: &str, metric: &str) -> String {
    match metric {
        "" => format!("the policy of {namespace} names no metric for best"),
        _ => format!(
            "the policy of {namespace} does not say whether a small or a large {metric} is best"
        ),
    }
}

fn of_owner(owner: &str) -> String {
    match owner {
        "" => "an operator's".to_owned(),
        owner => format!("{owner}'s"),
    }
}

fn of_client(client: &str) -> String {
    if client.is_empty() { String::new() } else { format!(" of {client}") }
}

fn clash_text(same_kind: bool) -> &'static str {
    if same_kind { "a file with different content" } else { "a file and a directory" }
}
