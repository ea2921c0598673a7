//! The types that openraft is configured with. They are written by hand because they are generic
//! over the runtime.
//!
//! `TypeConfig<Rt>` differs between runtimes only in `AsyncRuntime`. So everything stored or sent
//! has the same concrete type for every `Rt`; the aliases below name those types. The leader id is
//! openraft's `leader_id_std` with one leader per term. So a log id is `(term, index)`, as in the
//! Raft paper, and a vote conflict costs one election instead of a silent take-over.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::command::Reply;
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::impls::{self, BasicNode};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, OptionalSend, RaftTypeConfig};
use openraft_rt_tokio::TokioRuntime;

use super::snapshot::files::SnapshotFile;

/// A node's number inside openraft: `cairn_types::ids::NodeId` without its wrapper.
pub type NodeId = u64;
/// Raft's information about a node: its address.
pub type Node = BasicNode;

/// An encoded command. Opaque here; the state machine decodes it.
#[derive(Clone, PartialEq, Eq)]
pub struct LogCommand(pub Bytes);

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Debug for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The result of applying an entry. Blank and membership entries give `Reply::Done`.
#[derive(Debug, Clone)]
pub struct LogReply(pub Arc<Reply>);

impl LogReply {
    pub(super) fn done() -> Self {
        Self(Arc::new(Reply::Done))
    }
}

/// openraft's type family over one runtime.
pub struct TypeConfig<Rt>(PhantomData<fn() -> Rt>);

// Derives would require the same traits of `Rt`, which has none of them.
impl<Rt> fmt::Debug for TypeConfig<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<Rt> Clone for TypeConfig<Rt> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<Rt> Copy for TypeConfig<Rt> {}
impl<Rt> Default for TypeConfig<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<Rt> PartialEq for TypeConfig<Rt> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<Rt> Eq for TypeConfig<Rt> {}
impl<Rt> PartialOrd for TypeConfig<Rt> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<Rt> Ord for TypeConfig<Rt> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl<Rt: AsyncRuntime> RaftTypeConfig for TypeConfig<Rt> {
    type D = LogCommand;
    type R = LogReply;
    type NodeId = NodeId;
    type Node = Node;
    type Term = u64;
    type LeaderId = impls::leader_id_std::LeaderId<u64, NodeId>;
    type Vote = impls::Vote<Self::LeaderId>;
    type Payload = impls::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = Rt;
    type Responder<T>
        = impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = impls::BoxedErrorSource;
}

type Concrete = TypeConfig<TokioRuntime>;

pub type Entry = EntryOf<Concrete>;
pub type LogId = LogIdOf<Concrete>;
pub type Vote = VoteOf<Concrete>;
pub type Membership = openraft::Membership<NodeId, Node>;
pub type StoredMembership = StoredMembershipOf<Concrete>;
pub type SnapshotMeta = SnapshotMetaOf<Concrete>;
pub type Snapshot = SnapshotOf<Concrete, SnapshotFile>;
