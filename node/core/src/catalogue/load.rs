//! Makes a catalogue from its persistent records, one by one, and trusts none of them.
//!
//! A snapshot's reader hands over every record; `finish` counts what is derived and compares it
//! with what the records claim. Bytes that passed a checksum can still have been written by a bug.

use std::sync::Arc;

use super::replies::is_kept;
use super::{Catalogue, Checkpoint};
use crate::command::Reply;
use crate::ids::{
    CheckpointId, LINEAGE_SHIFT, Namespace, NodeId, RequestId, SegmentDigest, SegmentId,
};
use crate::limits::{NODES_MAX, REPLICAS_MAX, REPLIES_MAX, SEGMENT_BYTES_MAX, SUPERSEDED_MAX};
use crate::model::{
    Admin, CheckpointState, Cluster, NamespaceRecord, Node, Policy, Segment, SlotState,
};
use crate::segment_set::SegmentCounts;

/// Records that cannot belong to one catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("id counters of the cluster are out of range")]
    Counters,
    #[error("node {0} is invalid or there twice")]
    Node(NodeId),
    #[error("namespace {0} is invalid or there twice")]
    Namespace(Namespace),
    #[error("checkpoint {id}: {what}")]
    Checkpoint { id: CheckpointId, what: &'static str },
    #[error("segment {id}: {what}")]
    Segment { id: SegmentId, what: &'static str },
    #[error("segment digest {0} is there twice")]
    Digest(SegmentDigest),
    #[error("remembered reply of request {0} is invalid, there twice, or one too many")]
    Reply(RequestId),
}

/// Collects records in any order within each kind; nodes before segments.
#[derive(Debug)]
pub struct Loader {
    catalogue: Catalogue,
}

impl Loader {
    /// Starts from the cluster record; [`Cluster::default`] is that of an empty catalogue.
    pub fn new(cluster: Cluster) -> Result<Self, LoadError> {
        // Half of the room below the lineage, so that minting at apply can never run over.
        let max = 1 << (LINEAGE_SHIFT - 1);
        let counters = [
            cluster.next_node,
            cluster.next_segment,
            cluster.next_checkpoint,
            cluster.next_incarnation,
        ];
        let empty = counters.iter().all(|counter| *counter == 0);
        if !empty && counters.iter().any(|counter| !(1..max).contains(counter)) {
            return Err(LoadError::Counters);
        }
        Ok(Self { catalogue: Catalogue { cluster, ..Catalogue::default() } })
    }

    pub fn node(&mut self, node: Node) -> Result<(), LoadError> {
        let id = node.id;
        let minted = is_minted(id.0, &self.catalogue.cluster, |cluster| cluster.next_node);
        let full = self.catalogue.nodes.len() >= NODES_MAX;
        let superseded = &node.superseded;
        if superseded.len() > SUPERSEDED_MAX || superseded.contains(&node.nonce) {
            return Err(LoadError::Node(id));
        }
        if !minted || full || self.catalogue.nodes.insert(id, node).is_some() {
            return Err(LoadError::Node(id));
        }
        Ok(())
    }

    pub fn namespace(&mut self, name: Namespace, record: NamespaceRecord) -> Result<(), LoadError> {
        let known = self.catalogue.namespaces.contains_key(&name);
        if known || !policy_is_sound(&record.policy) {
            return Err(LoadError::Namespace(name));
        }
        self.catalogue.namespaces.insert(name, record);
        Ok(())
    }

    pub fn segment(&mut self, segment: Segment) -> Result<(), LoadError> {
        let id = segment.id;
        let wrong = |what| LoadError::Segment { id, what };
        if !is_minted(id.0, &self.catalogue.cluster, |cluster| cluster.next_segment) {
            return Err(wrong("id was never minted"));
        }
        if !(1..=SEGMENT_BYTES_MAX).contains(&u64::from(segment.len)) {
            return Err(wrong("length is out of range"));
        }
        let may_hold = |node: NodeId| {
            self.catalogue.node(node).is_some_and(|node| node.admin == Admin::InService)
        };
        if !segment.slots.iter().all(|slot| may_hold(slot.node)) {
            return Err(wrong("slot on an unknown or removed node"));
        }
        if let Some(what) = slots_problem(&segment) {
            return Err(wrong(what));
        }
        if self.catalogue.index.digests.insert(segment.digest, id).is_some() {
            return Err(LoadError::Digest(segment.digest));
        }
        self.catalogue.index.add_segment(&segment);
        if self.catalogue.segments.insert(segment).is_some() {
            return Err(wrong("is there twice"));
        }
        Ok(())
    }

    pub fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), LoadError> {
        let id = checkpoint.id;
        let wrong = |what| LoadError::Checkpoint { id, what };
        if !is_minted(id.0, &self.catalogue.cluster, |cluster| cluster.next_checkpoint) {
            return Err(wrong("id was never minted"));
        }
        if let Some(what) = checkpoint_problem(&checkpoint) {
            return Err(wrong(what));
        }
        self.catalogue.index.add_checkpoint(&checkpoint);
        if self.catalogue.checkpoints.insert(id, Arc::new(checkpoint)).is_some() {
            return Err(wrong("is there twice"));
        }
        Ok(())
    }

    /// Oldest first.
    pub fn reply(&mut self, request: RequestId, reply: &Reply) -> Result<(), LoadError> {
        let replies = &mut self.catalogue.replies;
        let known = replies.get(request).is_some();
        if request == RequestId(0) || known || !is_kept(reply) || replies.len() >= REPLIES_MAX {
            return Err(LoadError::Reply(request));
        }
        replies.remember(request, reply);
        Ok(())
    }

    /// Checks that references fit together (D6) and makes the derived rest.
    pub fn finish(self) -> Result<Catalogue, LoadError> {
        let mut catalogue = self.catalogue;
        // By wanted replicas.
        let mut counted = vec![SegmentCounts::default(); REPLICAS_MAX as usize + 1];
        for checkpoint in catalogue.checkpoints.values() {
            let wrong = |what| LoadError::Checkpoint { id: checkpoint.id, what };
            for id in checkpoint.references() {
                if catalogue.segments.get(id).is_none() {
                    return Err(wrong("refers to a segment that is not there"));
                }
                counted[checkpoint.policy.replicas as usize].add(id);
            }
            for id in checkpoint.segments.iter() {
                if checkpoint.loose.contains(id) {
                    return Err(wrong("holds two references on one segment"));
                }
                catalogue.index.committed.add(id);
            }
        }
        for segment in catalogue.segments.iter() {
            let count = |wanted: &u32| counted[*wanted as usize].get(segment.id);
            let recount = (1..=REPLICAS_MAX).map(|wanted| (wanted, count(&wanted)));
            if !recount.filter(|(_, count)| *count > 0).eq(segment.references.iter().copied()) {
                let what = "references are not those of a recount";
                return Err(LoadError::Segment { id: segment.id, what });
            }
        }
        catalogue.recount_racks();
        Ok(catalogue)
    }
}

/// Whether an id could have been minted: of an older lineage, or below this lineage's counter.
fn is_minted(id: u64, cluster: &Cluster, next: fn(&Cluster) -> u64) -> bool {
    let (lineage, counter) = (id >> LINEAGE_SHIFT, id & ((1 << LINEAGE_SHIFT) - 1));
    let current = u64::from(cluster.lineage.0);
    counter > 0 && (lineage < current || (lineage == current && counter < next(cluster)))
}

fn policy_is_sound(policy: &Policy) -> bool {
    let r = policy.replicas;
    (1..=REPLICAS_MAX).contains(&r)
        && (1..=r).contains(&policy.write_quorum)
        && (1..=r).contains(&policy.min_racks)
        && policy.keep_last != Some(0)
}

fn slots_problem(segment: &Segment) -> Option<&'static str> {
    let ascending = segment
        .slots
        .windows(2)
        .all(|pair| (pair[0].node, pair[0].epoch) < (pair[1].node, pair[1].epoch));
    // Of the slots on one node only the last, the newest, may be live.
    let newest_live = segment
        .slots
        .windows(2)
        .all(|pair| pair[0].node != pair[1].node || pair[0].state == SlotState::Released);
    let references = &segment.references;
    let counted = references.windows(2).all(|pair| pair[0].0 < pair[1].0)
        && references
            .iter()
            .all(|(wanted, count)| (1..=REPLICAS_MAX).contains(wanted) && *count > 0);
    if !ascending {
        Some("slots are not in order")
    } else if !newest_live {
        Some("an old slot is live")
    } else if !counted {
        Some("references are not in order")
    } else if segment.reaped && (segment.is_referenced() || segment.live_slots().count() > 0) {
        Some("is reaped but in use")
    } else {
        None
    }
}

fn checkpoint_problem(record: &Checkpoint) -> Option<&'static str> {
    let parts_wanted = record.parts_wanted as usize;
    let open = record.state == CheckpointState::Open;
    let committed = record.state == CheckpointState::Committed;
    if !policy_is_sound(&record.policy) {
        Some("policy is out of range")
    } else if record.open.is_some() != open {
        Some("upload state does not fit its state")
    } else if open && (!record.segments.is_empty() || record.commit.is_some()) {
        Some("is open but names segments")
    } else if committed && (record.commit.is_none() || record.parts.len() != parts_wanted) {
        Some("is committed without a commit or with parts missing")
    } else if record.commit.is_none() && !record.segments.is_empty() {
        Some("names segments without a commit")
    } else if record.open.as_ref().is_some_and(|upload| {
        let last = upload.parts.last_key_value().map(|(number, _)| *number as usize);
        last.is_some_and(|last| last >= parts_wanted)
            || upload.parts.values().any(|p| p.staged.iter().any(|id| !record.loose.contains(id)))
    }) {
        Some("upload names parts or segments it does not have")
    } else {
        None
    }
}
