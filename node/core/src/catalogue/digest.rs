//! The catalogue's digest: BLAKE3 over a walk of its whole state in one fixed order (C3).
//!
//! Every value has a fixed width or its length before it, so two states that differ never give
//! the same bytes. Derived indexes are left out.

use super::{Catalogue, Checkpoint, Upload};
use crate::command::Reply;
use crate::model::{
    Admin, CheckpointState, Codec, Durability, Isolation, Liveness, ManifestPlace, Node, Policy,
    SealedPart, Segment, SlotState,
};
use crate::segment_set::SegmentSet;

/// Bytes gathered before they go to the hasher, which is slow with small pieces.
const GATHER_BYTES: usize = 16 << 10;

impl Catalogue {
    pub fn digest(&self) -> [u8; 32] {
        let mut walk = Walk::default();
        walk.cluster(self);
        walk.number(self.nodes.len() as u64);
        self.nodes.values().for_each(|node| walk.node(node));
        walk.number(self.namespaces.len() as u64);
        for (name, record) in &self.namespaces {
            walk.text(name.as_str());
            walk.policy(&record.policy);
            walk.number(record.policy_version);
            walk.number(record.last_wall_ms);
        }
        walk.number(self.checkpoints.len() as u64);
        self.checkpoints.values().for_each(|checkpoint| walk.checkpoint(checkpoint));
        walk.number(self.segments.len());
        self.segments.iter().for_each(|segment| walk.segment(segment));
        walk.number(self.replies.len() as u64);
        for (request, reply) in self.replies.iter() {
            walk.wide(request.0);
            walk.reply(reply);
        }
        walk.finish()
    }
}

#[derive(Default)]
struct Walk {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Walk {
    fn finish(mut self) -> [u8; 32] {
        self.hasher.update(&self.gathered);
        *self.hasher.finalize().as_bytes()
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHER_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
    }

    fn number(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    fn wide(&mut self, value: u128) {
        self.raw(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn maybe(&mut self, value: Option<u64>) {
        self.number(u64::from(value.is_some()));
        self.number(value.unwrap_or(0));
    }

    fn set(&mut self, set: &SegmentSet) {
        self.number(set.len());
        set.iter().for_each(|id| self.number(id.0));
    }

    fn cluster(&mut self, catalogue: &Catalogue) {
        let cluster = &catalogue.cluster;
        let settings = &cluster.settings;
        self.wide(cluster.id.0);
        for value in [
            u64::from(cluster.lineage.0),
            cluster.clock_ms,
            u64::from(cluster.reap_hold),
            u64::from(cluster.feature_level),
            settings.lease_ms,
            settings.grace_ms,
            settings.down_after_ms,
            settings.replace_after_ms,
            cluster.next_node,
            cluster.next_segment,
            cluster.next_checkpoint,
            cluster.next_incarnation,
        ] {
            self.number(value);
        }
    }

    fn node(&mut self, node: &Node) {
        self.number(node.id.0);
        self.wide(node.cookie.0);
        self.wide(node.nonce.0);
        self.number(node.superseded.len() as u64);
        node.superseded.iter().for_each(|nonce| self.wide(nonce.0));
        for text in [&node.host, &node.rack, &node.address] {
            self.text(text);
        }
        let admin = match node.admin {
            Admin::InService => 0,
            Admin::Removed => 1,
        };
        let liveness = match node.liveness {
            Liveness::Up => 0,
            Liveness::Down => 1,
        };
        for value in [
            node.incarnation.0,
            u64::from(node.inventoried),
            admin,
            liveness,
            node.liveness_since_ms,
            node.capacity_bytes,
            u64::from(node.feature_level),
        ] {
            self.number(value);
        }
    }

    fn policy(&mut self, policy: &Policy) {
        let isolation = match policy.isolation {
            Isolation::Hard => 0,
            Isolation::Soft => 1,
        };
        for value in [policy.replicas, policy.write_quorum, policy.min_racks, isolation] {
            self.number(u64::from(value));
        }
        self.maybe(policy.keep_last.map(u64::from));
    }

    fn checkpoint(&mut self, record: &Checkpoint) {
        self.number(record.id.0);
        self.text(record.namespace.as_str());
        self.number(record.step.0);
        self.number(record.attempt.0);
        self.number(match record.state {
            CheckpointState::Open => 0,
            CheckpointState::Committed => 1,
            CheckpointState::Deleted => 2,
        });
        self.policy(&record.policy);
        self.number(u64::from(record.parts_wanted));
        self.number(record.labels.len() as u64);
        for (key, value) in &record.labels {
            self.text(key);
            self.text(value);
        }
        self.number(u64::from(record.open.is_some()));
        if let Some(upload) = &record.open {
            self.upload(upload);
        }
        self.number(record.parts.len() as u64);
        record.parts.iter().for_each(|part| self.sealed(part));
        self.number(record.segments.len());
        self.bytes(record.segments.encoded());
        self.set(&record.loose);
        self.maybe(record.commit.map(|commit| commit.index));
        self.maybe(record.commit.map(|commit| commit.wall_ms));
        self.number(record.bytes);
        self.number(record.files);
        self.number(record.segment_bytes);
        self.maybe(record.deleted_at_ms);
        self.number(u64::from(record.now));
    }

    fn upload(&mut self, upload: &Upload) {
        self.number(upload.lease_until_ms);
        self.number(u64::from(upload.replace));
        self.number(upload.parts.len() as u64);
        for (number, part) in &upload.parts {
            self.number(u64::from(*number));
            self.number(part.part.run.0);
            self.number(u64::from(part.part.sealed.is_some()));
            if let Some(sealed) = &part.part.sealed {
                self.sealed(sealed);
            }
            self.set(&part.staged);
        }
    }

    fn sealed(&mut self, part: &SealedPart) {
        match &part.manifest {
            ManifestPlace::Inline(bytes) => {
                self.number(0);
                self.bytes(bytes);
            }
            ManifestPlace::Segments(digests) => {
                self.number(1);
                self.number(digests.len() as u64);
                digests.iter().for_each(|digest| self.raw(&digest.0));
            }
        }
        self.raw(&part.set_digest);
        self.number(part.bytes);
        self.number(part.files);
    }

    fn segment(&mut self, segment: &Segment) {
        let codec = match segment.codec {
            Codec::Raw => 0,
        };
        self.number(segment.id.0);
        self.raw(&segment.digest.0);
        for value in [
            u64::from(segment.len),
            codec,
            u64::from(segment.stored_len),
            segment.reap_after_ms,
            u64::from(segment.reaped),
            segment.references.len() as u64,
        ] {
            self.number(value);
        }
        for (replicas, count) in &segment.references {
            self.number(u64::from(*replicas) << 32 | u64::from(*count));
        }
        self.number(segment.slots.len() as u64);
        for slot in &segment.slots {
            self.number(slot.node.0);
            self.number(slot.epoch.0);
            self.number(match slot.state {
                SlotState::Assigned => 0,
                SlotState::Durable => 1,
                SlotState::Released => 2,
            });
        }
    }

    fn reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Done => self.number(0),
            Reply::NodeAllocated { node } => {
                self.number(1);
                self.number(node.0);
            }
            Reply::Registered { incarnation } => {
                self.number(2);
                self.number(incarnation.0);
            }
            Reply::Begun(begun) => {
                self.number(3);
                self.number(begun.checkpoint.0);
                self.number(begun.attempt.0);
                self.policy(&begun.policy);
                self.number(u64::from(begun.parts));
                self.number(begun.sealed.len() as u64);
                begun.sealed.iter().for_each(|part| self.number(u64::from(*part)));
                self.number(u64::from(begun.committed));
            }
            Reply::Sealed { parts_sealed, parts } => {
                self.number(4);
                self.number(u64::from(*parts_sealed) << 32 | u64::from(*parts));
            }
            Reply::Committed { checkpoint, durability } => {
                self.number(5);
                self.number(checkpoint.0);
                self.durability(durability);
            }
            Reply::Dropped { left } => {
                self.number(6);
                self.number(*left);
            }
            // Never remembered.
            Reply::Staged { .. }
            | Reply::Reported { .. }
            | Reply::Lacking { .. }
            | Reply::Refused(_) => self.number(7),
        }
    }

    fn durability(&mut self, durability: &Durability) {
        for value in [
            u64::from(durability.replicas_wanted),
            u64::from(durability.replicas_min),
            u64::from(durability.racks_min),
            durability.segments_below,
            durability.bytes_below,
            durability.segments_unavailable,
        ] {
            self.number(value);
        }
    }
}
