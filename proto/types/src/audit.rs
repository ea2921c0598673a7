//! The audit: who did what, with which result. Every node derives the same records, with the same
//! numbers, from the log.
//!
//! ```text
//!   hash 0 = 32 zero bytes        hash n = BLAKE3(hash n-1, encoded record n)
//! ```
//!
//! The number of records and the last hash are part of the catalogue (C3), so two nodes with equal
//! applied index have equal chains.

use bytes::Bytes;
use prost::Message;

use crate::command::Refusal;
use crate::convert::{
    ConvertError, all_known, at_most, fixed, id128_from_wire, id128_to_wire, refusal_from_wire,
    refusal_to_wire, required,
};
use crate::ids::{CheckpointId, Namespace, NodeId, RequestId, Step, TokenId};
use crate::limits::{AUDIT_RECORD_BYTES_MAX, TOKEN_BLOCKS_MAX};
use crate::rights::{Subject, check_subject};
use crate::wire;

/// A place in the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditHead {
    /// Number of the last record; zero if there is none.
    pub count: u64,
    /// Log entry of the last record.
    pub index: u64,
    /// The chain behind it.
    pub hash: [u8; 32],
}

impl AuditHead {
    /// The head behind one more record.
    pub fn after(&self, index: u64, body: &[u8]) -> Self {
        Self { count: self.count + 1, index, hash: next_hash(&self.hash, body) }
    }
}

/// The chain behind a record.
pub fn next_hash(before: &[u8; 32], body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

/// A record that was just derived, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// The chain before it.
    pub before: AuditHead,
    /// The chain behind it.
    pub head: AuditHead,
    pub body: Bytes,
}

/// On whose behalf a command was proposed, without the rights of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSubject {
    /// A node or the leader.
    Cluster,
    /// A holder of the cluster key.
    Key,
    /// A process that reached a node without a key.
    Local,
    Token {
        name: String,
        issuer: TokenId,
        tokens: Vec<TokenId>,
    },
}

impl AuditSubject {
    /// The name of a token's subject, or a word in parentheses.
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster => "(cluster)",
            Self::Key => "(key)",
            Self::Local => "(local)",
            Self::Token { name, .. } => name,
        }
    }
}

impl From<&Subject> for AuditSubject {
    fn from(subject: &Subject) -> Self {
        match subject {
            Subject::None => Self::Cluster,
            Subject::Key => Self::Key,
            Subject::Local => Self::Local,
            Subject::Token(token) => Self::Token {
                name: token.name.clone(),
                issuer: token.issuer,
                tokens: token.tokens.clone(),
            },
        }
    }
}

/// What a command names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditObject {
    pub namespace: Option<Namespace>,
    pub checkpoint: Option<CheckpointId>,
    pub step: Option<Step>,
    /// Of a ref; empty if there is none.
    pub reference: String,
    pub node: Option<NodeId>,
    /// More about it, such as the reason.
    pub detail: String,
    /// As the client names itself; nobody has proven it.
    pub client: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditResult {
    Accepted,
    /// The last part was sealed, or the upload was closed.
    Committed,
    Refused(Refusal),
}

/// One command that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    pub number: u64,
    pub term: u64,
    pub index: u64,
    /// Wall clock of the leader that proposed it.
    pub wall_ms: u64,
    pub request: RequestId,
    pub subject: AuditSubject,
    /// As in [`crate::command::Body::name`].
    pub command: String,
    pub object: AuditObject,
    pub result: AuditResult,
}

/// Records that a node does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditGap {
    pub first: u64,
    pub last: u64,
    /// Log entries of the record before them, and of the last of them.
    pub after_index: u64,
    pub until_index: u64,
    /// The chain behind the last of them.
    pub hash: [u8; 32],
}

impl AuditGap {
    pub fn to_wire(&self) -> wire::AuditGap {
        wire::AuditGap {
            first: self.first,
            last: self.last,
            after_index: self.after_index,
            until_index: self.until_index,
            hash: Bytes::copy_from_slice(&self.hash),
        }
    }

    pub fn from_wire(gap: &wire::AuditGap) -> Result<Self, ConvertError> {
        if gap.first == 0 || gap.last < gap.first {
            return Err(ConvertError::Value { field: "gap of the audit", got: gap.last });
        }
        Ok(Self {
            first: gap.first,
            last: gap.last,
            after_index: gap.after_index,
            until_index: gap.until_index,
            hash: fixed("hash of the audit", &gap.hash)?,
        })
    }
}

impl AuditRecord {
    pub fn is_accepted(&self) -> bool {
        !matches!(self.result, AuditResult::Refused(_))
    }

    pub fn to_wire(&self) -> wire::AuditRecord {
        let AuditObject { namespace, checkpoint, step, reference, node, detail, client } =
            &self.object;
        let refusal = match &self.result {
            AuditResult::Refused(refusal) => Some(refusal_to_wire(refusal)),
            AuditResult::Accepted | AuditResult::Committed => None,
        };
        wire::AuditRecord {
            number: self.number,
            term: self.term,
            index: self.index,
            wall_ms: self.wall_ms,
            request: id128_to_wire(self.request.0),
            subject: subject_to_wire(&self.subject),
            client: client.clone(),
            command: self.command.clone(),
            namespace: namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
            checkpoint: checkpoint.map(|id| id.0),
            step: step.map(|step| step.0),
            r#ref: reference.clone(),
            node: node.map(|node| node.0),
            detail: detail.clone(),
            committed: self.result == AuditResult::Committed,
            refusal,
        }
    }

    pub fn from_wire(record: wire::AuditRecord) -> Result<Self, ConvertError> {
        let namespace = match record.namespace.as_str() {
            "" => None,
            name => Some(name.parse()?),
        };
        let result = match (record.refusal, record.committed) {
            (None, false) => AuditResult::Accepted,
            (None, true) => AuditResult::Committed,
            (Some(refusal), false) => AuditResult::Refused(refusal_from_wire(refusal)?),
            (Some(_), true) => return Err(ConvertError::Value { field: "result", got: 1 }),
        };
        Ok(Self {
            number: record.number,
            term: record.term,
            index: record.index,
            wall_ms: record.wall_ms,
            request: RequestId(id128_from_wire("request id", &record.request)?),
            subject: subject_from_wire(record.subject)?,
            command: record.command,
            object: AuditObject {
                namespace,
                checkpoint: record.checkpoint.map(CheckpointId),
                step: record.step.map(Step),
                reference: record.r#ref,
                node: record.node.map(NodeId),
                detail: record.detail,
                client: record.client,
            },
            result,
        })
    }

    /// The stored form, which the chain is over.
    pub fn encode(&self) -> Bytes {
        Bytes::from(self.to_wire().encode_to_vec())
    }

    /// A record from its stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConvertError> {
        at_most("record of the audit", bytes.len(), AUDIT_RECORD_BYTES_MAX)?;
        let message = wire::AuditRecord::decode(bytes)?;
        all_known("record of the audit", &message, bytes.len())?;
        Self::from_wire(message)
    }
}

fn subject_to_wire(subject: &AuditSubject) -> Option<wire::Subject> {
    let of =
        |kind: wire::SubjectKind| wire::Subject { kind: kind.into(), ..wire::Subject::default() };
    match subject {
        AuditSubject::Cluster => None,
        AuditSubject::Key => Some(of(wire::SubjectKind::Key)),
        AuditSubject::Local => Some(of(wire::SubjectKind::Local)),
        AuditSubject::Token { name, issuer, tokens } => Some(wire::Subject {
            name: name.clone(),
            issuer: id128_to_wire(issuer.0),
            tokens: tokens.iter().map(|id| id128_to_wire(id.0)).collect(),
            ..of(wire::SubjectKind::Token)
        }),
    }
}

fn subject_from_wire(message: Option<wire::Subject>) -> Result<AuditSubject, ConvertError> {
    let Some(message) = message else { return Ok(AuditSubject::Cluster) };
    let got = u64::from(message.kind as u32);
    match wire::SubjectKind::try_from(message.kind) {
        Ok(wire::SubjectKind::Key) => Ok(AuditSubject::Key),
        Ok(wire::SubjectKind::Local) => Ok(AuditSubject::Local),
        Ok(wire::SubjectKind::Token) => {
            check_subject(&message.name)?;
            at_most("blocks of a token", message.tokens.len(), TOKEN_BLOCKS_MAX)?;
            let id = |bytes: &Bytes| id128_from_wire("token id", bytes).map(TokenId);
            let tokens = message.tokens.iter().map(id).collect::<Result<_, _>>()?;
            Ok(AuditSubject::Token { issuer: id(&message.issuer)?, tokens, name: message.name })
        }
        _ => Err(ConvertError::Value { field: "subject", got }),
    }
}

/// An answer's entry: a record, or a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditEntry {
    Record(Box<AuditRecord>),
    Gap(AuditGap),
}

impl AuditEntry {
    pub fn from_wire(entry: wire::AuditEntry) -> Result<Self, ConvertError> {
        match (entry.record, entry.gap) {
            (Some(record), None) => Ok(Self::Record(Box::new(AuditRecord::from_wire(record)?))),
            (None, gap) => Ok(Self::Gap(AuditGap::from_wire(&required("entry", gap)?)?)),
            (Some(_), Some(_)) => Err(ConvertError::Value { field: "entry", got: 2 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> AuditRecord {
        AuditRecord {
            number: 7,
            term: 3,
            index: 90,
            wall_ms: 5,
            request: RequestId(9),
            subject: AuditSubject::Token {
                name: "ci".to_owned(),
                issuer: TokenId(1),
                tokens: vec![TokenId(2)],
            },
            command: "delete".to_owned(),
            object: AuditObject {
                namespace: Some("team/run".parse().unwrap()),
                checkpoint: Some(CheckpointId(4)),
                step: Some(Step(0)),
                ..AuditObject::default()
            },
            result: AuditResult::Refused(Refusal::UnknownCheckpoint(CheckpointId(4))),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_every_other_byte_changes_the_chain() {
        for result in [record().result, AuditResult::Accepted, AuditResult::Committed] {
            for subject in [record().subject, AuditSubject::Cluster, AuditSubject::Key] {
                let one = AuditRecord { result: result.clone(), subject, ..record() };
                assert_eq!(AuditRecord::decode(&one.encode()), Ok(one));
            }
        }
        let (start, body) = (AuditHead::default(), record().encode());
        let head = start.after(90, &body);
        assert_eq!((head.count, head.index), (1, 90));
        for place in 0..body.len() {
            let mut other = body.to_vec();
            other[place] ^= 1;
            assert_ne!(start.after(90, &other).hash, head.hash);
        }
        assert_ne!(head.after(91, &body).hash, head.hash, "the record before counts");
    }

    #[test]
    fn what_no_node_wrote_is_refused() {
        let mut bytes = record().encode().to_vec();
        bytes.extend([0xf8, 0x7f, 1]);
        assert!(matches!(AuditRecord::decode(&bytes), Err(ConvertError::UnknownFields { .. })));
        for end in 1..record().encode().len() {
            // A cut may leave a whole message; then it lacks a field at the end.
            if let Ok(cut) = AuditRecord::decode(&record().encode()[..end]) {
                assert_ne!(cut, record());
            }
        }
        let gap = AuditGap { first: 4, last: 9, after_index: 30, until_index: 50, hash: [7; 32] };
        assert_eq!(AuditGap::from_wire(&gap.to_wire()), Ok(gap));
        let turned = wire::AuditGap { first: 9, last: 4, ..gap.to_wire() };
        assert!(AuditGap::from_wire(&turned).is_err());
    }
}
