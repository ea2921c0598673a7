//! What can go wrong for a caller: one variant for each thing they would do differently.

use cairn_core::command::Refusal;
use cairn_core::ids::{ClusterId, NodeId, SegmentDigest};

use crate::sink::SinkError;
use crate::source::SourceError;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No endpoint ever answered.
    #[error("no node answers at {}: {last}", endpoints.join(", "))]
    Unreachable { endpoints: Vec<String>, last: String },
    /// Something answers there, but it does not speak Cairn.
    #[error("{endpoint} is not a cairn node: {what}")]
    NotACluster { endpoint: String, what: String },
    /// The endpoints belong to different clusters.
    #[error("{endpoint} belongs to another cluster: {what}")]
    OtherCluster { endpoint: String, want: Option<ClusterId>, what: String },
    /// The node speaks another version of the protocol.
    #[error("{endpoint} speaks another version of the protocol: {what}")]
    Incompatible { endpoint: String, what: String },
    /// The catalogue refused; retrying the same changes nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node wants to know who asks, and was not satisfied.
    #[error("{endpoint} does not allow this: {what}")]
    NotAllowed { endpoint: String, what: String },
    /// Nodes answered, but not what was needed in the time given.
    #[error("{what} did not complete in time: {last}")]
    Timeout { what: String, last: String },
    /// A node's answer makes no sense.
    #[error("{what} answered with something malformed: {problem}")]
    Malformed { what: String, problem: String },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// No replica of a segment gave the right bytes.
    #[error("segment {segment} of {file} cannot be read from any replica: {}", said(nodes))]
    Damaged { file: String, segment: SegmentDigest, nodes: Vec<(NodeId, String)> },
    /// Parts of one checkpoint name the same file with different content.
    #[error("{file} is in parts {first} and {second} with different content")]
    ConflictingParts { file: String, first: usize, second: usize },
    /// The checkpoint has no such file, or not that range of it.
    #[error("{address} has no {what}")]
    NoSuchFile { address: String, what: String },
    #[error("{what} is {got}, the most is {max}")]
    TooLarge { what: &'static str, got: u64, max: u64 },
    /// The work was abandoned because its runtime or its sibling work ended.
    #[error("cancelled")]
    Cancelled,
}

impl ClientError {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Unreachable { .. } => {
                "check that the nodes run and that the endpoints name their host:port"
            }
            Self::NotACluster { .. } => "the endpoint must be a node's gRPC address",
            Self::OtherCluster { .. } => "give endpoints of one cluster only",
            Self::Incompatible { .. } => "use a client of the same release as the nodes",
            Self::NotAllowed { .. } => "pass the cluster key that the nodes were given",
            Self::Refused(refusal) => return refusal_hint(refusal),
            Self::Timeout { .. } => {
                "the cluster may lack a majority or enough nodes; see `cairn status`"
            }
            Self::Source(error) => return error.hint(),
            Self::Sink(error) => return error.hint(),
            Self::Damaged { .. } => {
                "bring the nodes that hold it back, or restore another checkpoint"
            }
            Self::ConflictingParts { .. } => "restore one of the two with --file",
            Self::NoSuchFile { .. } => "`cairn show` lists a checkpoint's files",
            Self::Malformed { .. } | Self::TooLarge { .. } | Self::Cancelled => return None,
        };
        Some(hint.to_owned())
    }

    /// The catalogue's refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

fn refusal_hint(refusal: &Refusal) -> Option<String> {
    let hint = match refusal {
        Refusal::StepExists { .. } => {
            "a step is written once; --replace puts this upload in its place"
        }
        Refusal::Fenced { .. } => {
            "a newer upload of this step has begun; start again with a higher attempt"
        }
        Refusal::PartCount { .. } => "all ranks must pass the same number of parts",
        Refusal::PartSealed { .. } => {
            "the same attempt already holds other content for this part; use a new attempt"
        }
        Refusal::OtherRun { .. } => "another process writes this part; let it finish or stop it",
        Refusal::NoSuchCheckpoint { .. } => "`cairn ls` lists the committed checkpoints",
        Refusal::NotEnoughHosts { .. } => {
            "start more nodes on other hosts, or lower --replicas and --write-quorum"
        }
        Refusal::NotEnoughRacks { .. } => {
            "start nodes in other racks, or allow fewer with --isolation soft or --min-racks"
        }
        Refusal::KeptByPolicy { .. } => "lower keep_last of the namespace first",
        Refusal::LastReplicas { .. } => {
            "bring back or start other nodes and wait until `cairn status` shows full replication"
        }
        Refusal::LastNode(_) => "a cluster keeps at least one node; join another one first",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn said(nodes: &[(NodeId, String)]) -> String {
    if nodes.is_empty() {
        return "no node is known to hold it".to_owned();
    }
    let lines: Vec<_> = nodes.iter().map(|(node, text)| format!("node {node}: {text}")).collect();
    lines.join("; ")
}
