//! The errors for a caller: one variant for each different reaction.

use cairn_types::command::Refusal;
use cairn_types::ids::{Attempt, ClusterId, NodeId, SegmentDigest};

use crate::builder::SetupError;
use crate::sink::SinkError;
use crate::source::SourceError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The client cannot be made.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// No endpoint has ever answered.
    #[error("no node answers at {}: {last}", endpoints.join(", "))]
    Unreachable { endpoints: Vec<String>, last: String },
    /// A server answers, but it does not speak Cairn's protocol.
    #[error("{endpoint} is not a cairn node: {what}")]
    NotACluster { endpoint: String, what: String },
    /// A node belongs to another cluster than the one that this client knows or was given.
    #[error("{endpoint} belongs to {}, {} to cluster {want}", which(*got), from_where(want_from))]
    OtherCluster {
        endpoint: String,
        got: Option<ClusterId>,
        want: ClusterId,
        /// The address that named that cluster. `None` if the caller did.
        want_from: Option<String>,
    },
    /// The node speaks another version of the protocol.
    #[error("{endpoint} speaks another version of the protocol: {what}")]
    Incompatible { endpoint: String, what: String },
    /// The catalogue refused. A retry without a change gets the same answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The node needs to know the caller's identity, and did not accept it.
    #[error("{endpoint} does not allow this: {what}")]
    NotAllowed { endpoint: String, what: String },
    /// The node and this client do not hold the same cluster key.
    #[error("{what}")]
    Key { endpoint: String, what: String },
    /// Nodes answered, but not with the needed result in the given time.
    #[error("{what} did not complete in time: {last}")]
    Timeout { what: String, last: String },
    /// The nodes chosen to store it have no room.
    #[error("{what}: the nodes that can take a replica have no room: {last}")]
    NoSpace { what: String, last: String },
    /// A node's answer is malformed.
    #[error("{what}: malformed answer: {problem}")]
    Malformed { what: String, problem: String },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// No replica of a segment gave the right bytes. `lost` means that every node that should have
    /// a replica answers and has no right one.
    #[error("segment {segment} of {file} cannot be read from any replica: {}", said(nodes))]
    Damaged { file: String, segment: SegmentDigest, nodes: Vec<(NodeId, String)>, lost: bool },
    /// The nodes that may have the right bytes were overloaded.
    #[error("segment {segment} of {file} could not be read in time: {}", said(nodes))]
    Busy { file: String, segment: SegmentDigest, nodes: Vec<(NodeId, String)> },
    /// The checkpoint existed when the read began.
    #[error("{address} was deleted during the read")]
    Deleted { address: String },
    /// A part of several has no attempt. Each part would choose its own, and they would not form
    /// one upload.
    #[error("an upload of several parts needs an attempt")]
    PartWithoutAttempt,
    /// The upload ended without a commit during the wait.
    #[error("the upload of {address}, attempt {attempt}, ended without a commit")]
    UploadOver { address: String, attempt: Attempt },
    /// Files of an open-ended upload are still written: they would be missing.
    #[error("{count} files of the upload are not finished")]
    UnfinishedFiles { count: u64 },
    /// One directory cannot hold both parts of a checkpoint.
    #[error("{file} is in parts {first} and {second}, {how}")]
    ConflictingParts { file: String, first: u32, second: u32, how: &'static str },
    /// The checkpoint has no such file, or the file has no such range.
    #[error("{address} has no {what}")]
    NoSuchFile { address: String, what: String },
    /// The step has no record of the requested kind.
    #[error("{address} has no {what}")]
    NoSuchRecord { address: String, what: &'static str },
    #[error("{what}: limit {max}, got {got}")]
    TooLarge { what: &'static str, got: u64, max: u64 },
    /// The caller's source, sink or filter panicked, or this crate panicked while running it.
    #[error("a panic ended the call: {message}")]
    Panicked { message: String },
    /// The work was abandoned because its runtime or its sibling work ended.
    #[error("cancelled")]
    Cancelled,
}

impl ClientError {
    /// The fix for the error, if it is known. Programs show it. It names no flag and no verb of the
    /// command line, which has its own hints.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Setup(error) => return error.hint().map(str::to_owned),
            Self::Unreachable { .. } => {
                "check that the nodes run and that the endpoints name their host:port"
            }
            Self::NotACluster { .. } => "the endpoint must be a node's gRPC address",
            Self::OtherCluster { want_from: None, .. } => {
                "a node created a second cluster, perhaps on an empty directory: stop it and join it again; if you replaced the cluster on purpose, name the new one"
            }
            Self::OtherCluster { .. } => {
                "give endpoints of one cluster only; if a node created a second cluster on an empty directory, stop it and join it again"
            }
            Self::Incompatible { .. } => "use a client of the same release as the nodes",
            Self::Key { what, .. } if what.contains("uses no cluster key") => {
                "leave the key out, or give it to the nodes"
            }
            Self::Key { what, .. } if what.contains("or a token") => {
                "pass the cluster key that the nodes use; or a token, and the cluster's public certificate"
            }
            Self::Key { .. } | Self::NotAllowed { .. } => "pass the cluster key that the nodes use",
            Self::Refused(refusal) => return refusal_hint(refusal),
            Self::Timeout { .. } => "the cluster may lack a majority or enough nodes",
            Self::NoSpace { .. } => {
                "deleting without a grace frees space at once, another node adds some"
            }
            Self::Source(error) => return error.hint(),
            Self::Sink(error) => return error.hint(),
            Self::Damaged { lost: false, .. } => {
                "bring the nodes that hold it back, or restore another checkpoint"
            }
            Self::Damaged { lost: true, .. } => {
                "its replicas are lost or damaged: restore another checkpoint, or put the same \
                 files again as another step to repair this one"
            }
            Self::Busy { .. } => "the nodes have too many readers; try again",
            Self::Deleted { .. } => "list the committed checkpoints to find another one",
            Self::ConflictingParts { .. } => "restore each part alone, into a directory of its own",
            Self::NoSuchFile { .. } => "the checkpoint's manifests list its files",
            Self::NoSuchRecord { .. } => {
                "list checkpoints and open uploads to see what there is; a deleted one is remembered \
                 until its grace is over"
            }
            Self::PartWithoutAttempt => {
                "all parts pass the same attempt, a number that rises with each restart"
            }
            Self::UploadOver { .. } => {
                "a higher attempt took it over, or it was aborted or expired"
            }
            Self::UnfinishedFiles { .. } => {
                "finish or discard each file before the upload is closed"
            }
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::Panicked { .. }
            | Self::Cancelled => return None,
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
        Refusal::FeatureLevel { .. } => {
            "nodes that do not understand this are in service: upgrade them first"
        }
        Refusal::StepExists { .. } => {
            "a step is written once, unless the upload asks to replace it"
        }
        Refusal::Fenced { current, client, began_wall_ms, .. } => {
            return Some(fenced_hint(*current, client, *began_wall_ms));
        }
        Refusal::RolledBack { .. } => {
            "stop this job: it writes what was rolled back; start it again from the latest checkpoint, \
             with a higher attempt"
        }
        Refusal::OtherJob { attempt, current, client, began_wall_ms, .. } => {
            return Some(other_job_hint(*attempt, current, client, *began_wall_ms));
        }
        Refusal::OtherTerms { .. } => {
            "parts of one checkpoint and a repeated put must ask for the same; an upload that \
             replaces commits the step again"
        }
        Refusal::PartCount { .. } => "all ranks must pass the same number of parts",
        Refusal::PartSealed { .. } => {
            "the same attempt already holds other content for this part; use a new attempt"
        }
        Refusal::OtherRun { .. } => "another process writes this part; let it finish or stop it",
        Refusal::NameClash { .. } => {
            "parts are restored into one directory; give the files of each a prefix of its own, \
             such as rank0"
        }
        Refusal::NoSuchCheckpoint { .. } => "list the committed checkpoints to find another one",
        Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. }
            if shortage.has_full() =>
        {
            "deleting without a grace frees space at once, another node adds some"
        }
        Refusal::NotEnoughHosts { shortage, .. } | Refusal::NotEnoughRacks { shortage, .. }
            if shortage.down() > 0 =>
        {
            "bring back the nodes that are down, or start other nodes"
        }
        Refusal::NotEnoughHosts { .. } => {
            "start more nodes on other hosts, or lower the replicas and the write quorum"
        }
        Refusal::NotEnoughRacks { .. } => {
            "start nodes in other racks, or allow fewer: soft isolation, or a lower rack minimum"
        }
        Refusal::NotAllowed { .. } => "ask an operator for a token with that right and namespace",
        Refusal::NotOwner { .. } => {
            "use the token it was begun with, or wait until its lease is over; an operator may end it"
        }
        Refusal::BadToken(_) => "ask an operator for another token",
        Refusal::NotInTrash(_) => {
            "only what was committed, and whose grace runs after a deletion without now, comes back"
        }
        Refusal::StepTaken { .. } => "delete the one that was committed since, if it is not needed",
        Refusal::PolicyChanged { .. } => "look at the plan again: its policy has changed",
        Refusal::KeptByPolicy { .. } => "lower keep_last of the namespace first",
        Refusal::Protected { .. } => "move the refs and release the holds, or delete it with force",
        Refusal::RefMoved { .. } => "list the refs to see where it points, and its generation",
        Refusal::NoSuchRef { .. } => "list the refs of the namespace",
        Refusal::CursorTooOld { .. } => {
            "watch without a cursor: it begins with what is there, and goes on from then"
        }
        Refusal::WatcherTooSlow => "go on with the last cursor",
        Refusal::NoBestMetric { .. } => {
            "name a metric and whether small or large values are good, such as best:loss:min"
        }
        Refusal::NoSuchHold { .. } => "list the holds and their owners",
        Refusal::Quarantined { .. } => {
            "take it out of quarantine, or ask for it although it is there; a higher attempt may \
             write its step again"
        }
        Refusal::LastReplicas { .. } => {
            "bring back or start other nodes and wait for full replication"
        }
        Refusal::NoMajority { .. } => {
            "bring back voters that are down or join other nodes, and wait until a voter can be lost"
        }
        Refusal::TooFewHosts { .. } => {
            "join another node on another host first, or accept fewer hosts"
        }
        Refusal::NodeRemoved(_) => "a removed node never returns under its id",
        Refusal::UnknownNode(_) => "the status lists the nodes",
        Refusal::LastNode(_) => "a cluster keeps at least one node; join another one first",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn which(cluster: Option<ClusterId>) -> String {
    cluster.map_or("another cluster".to_owned(), |id| format!("cluster {id}"))
}

fn from_where(address: &Option<String>) -> &str {
    address.as_deref().unwrap_or("this client")
}

/// The time and the client of an upload's begin: `2026-11-21T19:20:00Z by process 7 on host`.
pub fn began_text(client: &str, began_wall_ms: u64) -> String {
    // The last second of the year 9999. Later times cannot be printed.
    let began_wall_ms = began_wall_ms.min(253_402_300_799_000);
    let began = std::time::UNIX_EPOCH + std::time::Duration::from_millis(began_wall_ms);
    let began = humantime::format_rfc3339_seconds(began);
    let by = if client.is_empty() { String::new() } else { format!(" by {client}") };
    format!("{began}{by}")
}

fn other_job_hint(attempt: Attempt, job: &str, client: &str, began_wall_ms: u64) -> String {
    let (began, next) = (began_text(client, began_wall_ms), attempt.0.saturating_add(1));
    format!(
        "job {job} began it at {began}; if that job is gone, pass attempt {next} on all ranks, or \
         abort its upload; ranks of one job pass the same job"
    )
}

/// Describes the other upload, so that a person can tell a competing job from a wrong clock.
fn fenced_hint(current: Attempt, client: &str, began_wall_ms: u64) -> String {
    let began = began_text(client, began_wall_ms);
    format!(
        "attempt {current} began at {began}; to take over from it, give a higher attempt, \
         or none for a single part"
    )
}

fn said(nodes: &[(NodeId, String)]) -> String {
    if nodes.is_empty() {
        return "no node is known to hold it".to_owned();
    }
    let lines: Vec<_> = nodes.iter().map(|(node, text)| format!("node {node}: {text}")).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    /// The command line has its own hints, which name its flags and verbs.
    #[test]
    fn no_hint_names_a_flag_or_a_verb_of_the_command_line() {
        let (flag, verb) = (concat!("-", "-"), concat!("`cai", "rn "));
        for (file, text) in [
            ("error.rs", include_str!("error.rs")),
            ("sink.rs", include_str!("sink.rs")),
            ("source.rs", include_str!("source.rs")),
            ("builder.rs", include_str!("builder.rs")),
        ] {
            let is_code = |line: &&str| !line.trim_start().starts_with("//");
            let named =
                text.lines().filter(is_code).find(|it| it.contains(flag) || it.contains(verb));
            assert_eq!(named, None, "in {file}");
        }
    }
}
