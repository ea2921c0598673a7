//! Conversion between openraft's types and the messages of `raft.proto`. Every incoming message is
//! checked here. A missing field is an error that names the field.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::wire;
use openraft::EntryPayload;

use super::types::{
    Entry, LogCommand, LogId, Membership, Node, SnapshotMeta, StoredMembership, Vote,
};

/// A message that cannot be read. It names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed raft message: {0}")]
pub struct Malformed(pub String);

fn required<T>(value: Option<T>, field: &str) -> Result<T, Malformed> {
    value.ok_or_else(|| Malformed(format!("{field} is missing")))
}

pub fn log_id_to_wire(id: &LogId) -> wire::RaftLogId {
    wire::RaftLogId { term: id.leader_id.term, index: id.index }
}

pub fn log_id_from_wire(id: wire::RaftLogId) -> LogId {
    LogId::new_term_index(id.term, id.index)
}

pub fn opt_log_id_to_wire(id: Option<&LogId>) -> Option<wire::RaftLogId> {
    id.map(log_id_to_wire)
}

pub fn vote_to_wire(vote: &Vote) -> wire::RaftVote {
    wire::RaftVote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub fn vote_from_wire(vote: wire::RaftVote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node)
    } else {
        Vote::new(vote.term, vote.node)
    }
}

pub fn required_vote(vote: Option<wire::RaftVote>) -> Result<Vote, Malformed> {
    required(vote, "vote").map(vote_from_wire)
}

pub fn membership_to_wire(membership: &Membership) -> wire::RaftMembership {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|ids| wire::RaftVoters { ids: ids.iter().copied().collect() })
        .collect();
    let nodes = membership
        .nodes()
        .map(|(id, node)| wire::RaftNode { id: *id, address: node.addr.clone() })
        .collect();
    wire::RaftMembership { configs, nodes }
}

pub fn membership_from_wire(membership: wire::RaftMembership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> =
        membership.nodes.into_iter().map(|node| (node.id, Node::new(node.address))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| Malformed(format!("membership: {error}")))
}

pub fn stored_membership_to_wire(stored: &StoredMembership) -> wire::RaftStoredMembership {
    wire::RaftStoredMembership {
        log_id: opt_log_id_to_wire(stored.log_id().as_ref()),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

fn stored_membership_from_wire(
    stored: wire::RaftStoredMembership,
) -> Result<StoredMembership, Malformed> {
    let membership = membership_from_wire(required(stored.membership, "membership")?)?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_wire), membership))
}

pub fn entry_to_wire(entry: &Entry) -> wire::RaftEntry {
    use wire::raft_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(wire::RaftBlank {}),
        EntryPayload::Normal(command) => Payload::Command(command.0.clone()),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_wire(membership)),
    };
    wire::RaftEntry { log_id: Some(log_id_to_wire(&entry.log_id)), payload: Some(payload) }
}

pub fn entry_from_wire(entry: wire::RaftEntry) -> Result<Entry, Malformed> {
    use wire::raft_entry::Payload;
    let log_id = log_id_from_wire(required(entry.log_id, "entry log_id")?);
    let payload = match required(entry.payload, "entry payload")? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Command(command) => EntryPayload::Normal(LogCommand(command)),
        Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_wire(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub fn head_to_wire(meta: &SnapshotMeta, len: u64, digest: &[u8; 32]) -> wire::RaftSnapshotHead {
    wire::RaftSnapshotHead {
        last_log_id: opt_log_id_to_wire(meta.last_log_id.as_ref()),
        membership: Some(stored_membership_to_wire(&meta.last_membership)),
        len,
        digest: digest.to_vec().into(),
    }
}

/// Meta, length and digest of a snapshot. A snapshot without content is malformed.
pub fn head_from_wire(
    head: Option<wire::RaftSnapshotHead>,
) -> Result<(SnapshotMeta, u64, [u8; 32]), Malformed> {
    let head = required(head, "snapshot head")?;
    let last_log_id = log_id_from_wire(required(head.last_log_id, "snapshot last_log_id")?);
    let membership =
        stored_membership_from_wire(required(head.membership, "snapshot membership")?)?;
    let digest = head
        .digest
        .as_ref()
        .try_into()
        .map_err(|_| Malformed("snapshot digest is not 32 bytes".into()))?;
    let meta = SnapshotMeta { last_log_id: Some(last_log_id), last_membership: membership };
    Ok((meta, head.len, digest))
}
