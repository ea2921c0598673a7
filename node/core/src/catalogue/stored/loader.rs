//! Builds a catalogue from its persistent records, one by one, and checks all of them.
//!
//! The reader of a snapshot passes every record. `finish` computes the derived values and compares
//! them with the records' values. Even bytes with a right checksum may come from a bug in the
//! writer.

use cairn_types::ids::{
    CheckpointId, LINEAGE_SHIFT, Namespace, NodeId, RefName, RequestId, SegmentDigest, SegmentId,
    TokenId,
};
use cairn_types::limits::REPLICAS_MAX;
use cairn_types::model::{Cluster, Policy};

use crate::catalogue::Catalogue;
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
    #[error("ref {name} of {namespace} is invalid, there twice, or one too many")]
    Ref { namespace: Namespace, name: RefName },
    #[error("a hold on checkpoint {0} is there twice, or the checkpoint is not")]
    Hold(CheckpointId),
    #[error("issuer {0} is there twice, or one too many")]
    Issuer(String),
    #[error("revoked token {0} is there twice, or one too many")]
    Revoked(TokenId),
    #[error("segment {id}: {what}")]
    Segment { id: SegmentId, what: &'static str },
    #[error("segment digest {0} is there twice")]
    Digest(SegmentDigest),
    #[error("remembered reply of request {0} is invalid, there twice, or one too many")]
    Reply(RequestId),
}

/// Collects records in any order within each kind. Nodes come before segments.
#[derive(Debug)]
pub struct Loader {
    pub(super) catalogue: Catalogue,
}

impl Loader {
    /// Starts from the cluster record. [`Cluster::default`] is the record of an empty catalogue.
    pub fn new(cluster: Cluster) -> Result<Self, LoadError> {
        // Half of the id range below the lineage, so that minting at apply can never overflow.
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

    /// Checks that references are consistent (D6) and builds the derived data.
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
            catalogue.index.classify(segment);
        }
        catalogue.recount_racks();
        catalogue.index.filling = catalogue.filling_anew();
        Ok(catalogue)
    }
}

/// Whether an id could have been minted: it is of an older lineage, or below this lineage's
/// counter.
pub(super) fn is_minted(id: u64, cluster: &Cluster, next: fn(&Cluster) -> u64) -> bool {
    let (lineage, counter) = (id >> LINEAGE_SHIFT, id & ((1 << LINEAGE_SHIFT) - 1));
    let current = u64::from(cluster.lineage.0);
    counter > 0 && (lineage < current || (lineage == current && counter < next(cluster)))
}

pub(super) fn policy_is_sound(policy: &Policy) -> bool {
    let r = policy.replicas;
    (1..=REPLICAS_MAX).contains(&r)
        && (1..=r).contains(&policy.write_quorum)
        && (1..=r).contains(&policy.min_racks)
        && policy.keep_last != Some(0)
}
