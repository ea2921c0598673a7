//! Whether a node may put back a copy from quarantine that it has no slot for.
//!
//! The leader checks this before it proposes a slot. Apply checks `may_assign` again. Copies that
//! are not needed stay in quarantine.

use super::Catalogue;
use cairn_types::ids::{NodeId, SegmentDigest, SegmentId};

/// Why a node gets no slot for its copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSlot {
    #[error("the catalogue has no segment {0}")]
    Unknown(SegmentDigest),
    #[error("no checkpoint names segment {0} any more")]
    Unreferenced(SegmentDigest),
    #[error("node {0} is not up and in service")]
    NotInService(NodeId),
    #[error("replicas that count: {durable} of {wanted}; being made on other nodes: {awaited}")]
    NotNeeded { durable: u32, awaited: u32, wanted: u32 },
    #[error("a node on the same host has a slot of it")]
    SameHost,
}

impl Catalogue {
    /// The segment of `digest`, if `node` may get a slot of it.
    pub fn may_restore(&self, digest: SegmentDigest, node: NodeId) -> Result<SegmentId, NoSlot> {
        let segment = self.segment_by_digest(&digest).ok_or(NoSlot::Unknown(digest))?;
        if self.may_assign(segment, node) {
            return Ok(segment.id);
        }
        let wanted = segment.replicas_wanted();
        if wanted == 0 {
            return Err(NoSlot::Unreferenced(digest));
        }
        if !self.node(node).is_some_and(|it| it.takes_slots()) {
            return Err(NoSlot::NotInService(node));
        }
        let durable = self.counting(segment).replicas;
        let trusted = self.trusted_spread(segment).replicas;
        match trusted >= wanted {
            true => {
                let awaited = trusted.saturating_sub(durable);
                Err(NoSlot::NotNeeded { durable, awaited, wanted })
            }
            false => Err(NoSlot::SameHost),
        }
    }
}
