//! The headers of every call and the reason in every error.
//!
//! Request headers name the cluster, its lineage and the target node. A node refuses a call that is
//! meant for another one (DESIGN section 6, Identity). A client that does not know these values yet
//! leaves them out and learns them from the response headers, which always contain them.

use cairn_types::ids::{CheckpointId, ClusterId, Lineage, NodeId};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Raised when two versions cannot talk at all.
pub const PROTOCOL_VERSION: u32 = 1;

const CLUSTER: &str = "cairn-cluster";
const LINEAGE: &str = "cairn-lineage";
const TARGET: &str = "cairn-target";
const PROTOCOL: &str = "cairn-protocol";
const LEADER: &str = "cairn-leader";
const REASON: &str = "cairn-reason";
/// On account of which checkpoint a call asks for segments: a digest alone gives no right to them.
pub const ABOUT_HEADER: &str = "cairn-about";

/// The target of a call, or the node that answers. Unknown fields are `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster: Option<ClusterId>,
    pub lineage: Option<Lineage>,
    pub node: Option<NodeId>,
}

impl Identity {
    /// Writes the known fields and the protocol version into a call's headers.
    pub fn write(&self, metadata: &mut MetadataMap) {
        put(metadata, PROTOCOL, &PROTOCOL_VERSION.to_string());
        if let Some(cluster) = self.cluster {
            put(metadata, CLUSTER, &cluster.to_string());
        }
        if let Some(lineage) = self.lineage {
            put(metadata, LINEAGE, &lineage.to_string());
        }
        if let Some(node) = self.node {
            put(metadata, TARGET, &node.to_string());
        }
    }

    /// Reads the identity from a call's headers. Malformed values are an error, absent ones `None`.
    pub fn read(metadata: &MetadataMap) -> Result<Self, Status> {
        if let Some(protocol) = get(metadata, PROTOCOL)
            && protocol != PROTOCOL_VERSION.to_string()
        {
            return Err(refuse(
                Reason::Protocol,
                format!("protocol {protocol} is not protocol {PROTOCOL_VERSION}"),
            ));
        }
        let malformed = |name: &str| Status::invalid_argument(format!("malformed header {name}"));
        let cluster = get(metadata, CLUSTER)
            .map(|text| u128::from_str_radix(text, 16).map_err(|_| malformed(CLUSTER)))
            .transpose()?;
        let lineage = get(metadata, LINEAGE)
            .map(|text| text.parse().map_err(|_| malformed(LINEAGE)))
            .transpose()?;
        let node = get(metadata, TARGET)
            .map(|text| text.parse().map_err(|_| malformed(TARGET)))
            .transpose()?;
        Ok(Self {
            cluster: cluster.map(ClusterId),
            lineage: lineage.map(Lineage),
            node: node.map(NodeId),
        })
    }

    /// Whether `own` (all fields known) may answer a call meant for `self`.
    pub fn check(&self, own: &Identity) -> Result<(), Status> {
        if let (Some(meant), Some(own)) = (self.cluster, own.cluster)
            && meant != own
        {
            let text = format!("this is cluster {own}, not {meant}");
            return Err(refuse(Reason::OtherCluster, text));
        }
        if let (Some(meant), Some(own)) = (self.lineage, own.lineage)
            && meant != own
        {
            let text = format!("this is lineage {own}, not {meant}");
            return Err(refuse(Reason::OtherLineage, text));
        }
        if let (Some(meant), Some(own)) = (self.node, own.node)
            && meant != own
        {
            return Err(refuse(Reason::OtherNode, format!("this is node {own}, not {meant}")));
        }
        Ok(())
    }
}

/// Why a node refused a call. There is one word for each different action of a caller, sent in the
/// trailer `cairn-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Ask the node in `cairn-leader`, or another one later.
    NotLeader,
    OtherCluster,
    OtherLineage,
    OtherNode,
    Protocol,
    /// The caller's data directory must not come back.
    StaleIdentity,
    /// This node has not applied enough yet (a slot's epoch, its own registration): try again.
    NotYet,
    /// This node listens but does not serve yet. It has no memory of what others told it.
    Starting,
    /// This node does not hold the segment; another may.
    NotHeld,
    /// No room for segment data here.
    NoSpace,
    /// Too many requests at once. Try again later.
    Busy,
    /// The two ends do not hold the same cluster key. The dialer reports this.
    Key,
    /// The segment's bytes do not match its digest.
    WrongBytes,
    /// The slot for these bytes is no longer current.
    StaleSlot,
    /// The segment's bytes come in a form that is not accepted here: in a codec that this build
    /// does not know, or neither raw nor in the form of the segment's record.
    Form,
    /// The caller cannot be called back at its stated address, so it stays outside the cluster.
    Unreached,
    /// No correct member can have sent this. Accepting it would end the node.
    Implausible,
    /// The call or report is not signed with the key of the node that it names.
    Speaker,
}

impl Reason {
    const ALL: [(Self, &'static str, Code); 18] = [
        (Self::NotLeader, "not-leader", Code::FailedPrecondition),
        (Self::OtherCluster, "other-cluster", Code::FailedPrecondition),
        (Self::OtherLineage, "other-lineage", Code::FailedPrecondition),
        (Self::OtherNode, "other-node", Code::FailedPrecondition),
        (Self::Protocol, "protocol", Code::Unimplemented),
        (Self::StaleIdentity, "stale-identity", Code::PermissionDenied),
        (Self::NotYet, "not-yet", Code::Unavailable),
        (Self::Starting, "starting", Code::Unavailable),
        (Self::NotHeld, "not-held", Code::NotFound),
        (Self::NoSpace, "no-space", Code::ResourceExhausted),
        (Self::Busy, "busy", Code::ResourceExhausted),
        (Self::Key, "key", Code::Unavailable),
        (Self::WrongBytes, "wrong-bytes", Code::DataLoss),
        (Self::StaleSlot, "stale-slot", Code::FailedPrecondition),
        (Self::Form, "form", Code::InvalidArgument),
        (Self::Unreached, "unreached", Code::Unavailable),
        (Self::Implausible, "implausible", Code::InvalidArgument),
        (Self::Speaker, "speaker", Code::Unauthenticated),
    ];

    pub fn code(self) -> Code {
        Self::ALL.iter().find(|row| row.0 == self).map_or(Code::Unknown, |row| row.2)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|row| row.0 == self).map_or("unknown", |row| row.1)
    }

    /// The reason a status carries, if it carries one.
    pub fn of(status: &Status) -> Option<Self> {
        let word = get(status.metadata(), REASON)?;
        Self::ALL.iter().find(|row| row.1 == word).map(|row| row.0)
    }
}

/// A status that carries a reason.
pub fn refuse(reason: Reason, text: impl Into<String>) -> Status {
    let mut status = Status::new(reason.code(), text.into());
    put(status.metadata_mut(), REASON, reason.word());
    status
}

/// Most bytes of another server's text that are passed on.
const SAID_BYTES_MAX: usize = 256;

/// Another server's text, made fit for a log line, a message and a terminal: one line of bounded
/// length. It may come from any server at a given address.
pub fn said(text: &str) -> String {
    let seen = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut said = String::new();
    for c in seen {
        if said.len() + c.len_utf8() > SAID_BYTES_MAX {
            break;
        }
        said.push(c);
    }
    said
}

/// The refusal "not the leader", with the leader's id and address if they are known.
pub fn not_leader(leader: Option<(NodeId, &str)>) -> Status {
    let text = match leader {
        Some((node, address)) => format!("not the leader; node {node} at {address} is"),
        None => "not the leader, and no leader is known".to_owned(),
    };
    let mut status = refuse(Reason::NotLeader, text);
    if let Some((node, address)) = leader {
        put(status.metadata_mut(), LEADER, &format!("{node} {address}"));
    }
    status
}

/// The leader that a `NotLeader` status names.
pub fn leader_of(status: &Status) -> Option<(NodeId, String)> {
    let (node, address) = get(status.metadata(), LEADER)?.split_once(' ')?;
    Some((NodeId(node.parse().ok()?), address.to_owned()))
}

/// The checkpoint that a call says it is about. What is malformed is about none.
pub fn about(metadata: &MetadataMap) -> Option<CheckpointId> {
    get(metadata, ABOUT_HEADER)?.parse().ok().map(CheckpointId)
}

fn put(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    if let Ok(value) = MetadataValue::try_from(value) {
        metadata.insert(name, value);
    }
}

fn get<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_said_is_one_line_of_bounded_length() {
        assert_eq!(said("no\nreplicas: 3\u{1b}[8m\u{9b}1m"), "no replicas: 3 [8m 1m");
        assert_eq!(said("Grüße"), "Grüße");
        let long = said(&"ü".repeat(10_000));
        assert_eq!(long, "ü".repeat(SAID_BYTES_MAX / 2));
        let odd = said(&format!("x{}", "ü".repeat(10_000)));
        assert_eq!(odd.len(), SAID_BYTES_MAX - 1, "cut between characters");
    }

    #[test]
    fn identity_survives_headers_and_a_mismatch_is_named() {
        let own = Identity {
            cluster: Some(ClusterId(7)),
            lineage: Some(Lineage(0)),
            node: Some(NodeId(2)),
        };
        let mut metadata = MetadataMap::new();
        own.write(&mut metadata);
        assert_eq!(Identity::read(&metadata).unwrap(), own);
        let meant = Identity { node: Some(NodeId(3)), ..own };
        let status = meant.check(&own).unwrap_err();
        assert_eq!(Reason::of(&status), Some(Reason::OtherNode));
        Identity::default().check(&own).unwrap();
    }

    #[test]
    fn not_leader_carries_the_leader() {
        let status = not_leader(Some((NodeId(4), "host:7100")));
        assert_eq!(Reason::of(&status), Some(Reason::NotLeader));
        assert_eq!(leader_of(&status), Some((NodeId(4), "host:7100".to_owned())));
        assert_eq!(leader_of(&not_leader(None)), None);
    }
}
