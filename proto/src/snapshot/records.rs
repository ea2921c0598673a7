//! One catalogue record each, to its snapshot form and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::catalogue::{Checkpoint, Upload, UploadPart};
use cairn_core::id_set::IdSet;
use cairn_core::ids::{
    Attempt, CheckpointId, ClusterId, Incarnation, Lineage, Namespace, NodeId, Nonce, Run,
    SegmentId, Step,
};
use cairn_core::model::{
    Admin, Cluster, Codec, Commit, Liveness, NamespaceRecord, NewNode, Node, OpenPart, Segment,
};

use super::SNAPSHOT_VERSION;
use crate::convert::{
    ConvertError, digest_from_wire, digest_to_wire, id128_from_wire, id128_to_wire,
    new_node_from_wire, new_node_to_wire, policy_from_wire, policy_to_wire, required,
    sealed_part_from_wire, sealed_part_to_wire, segment_len_from_wire, settings_from_wire,
    settings_to_wire, slot_from_wire, slot_to_wire, state_from_wire, state_to_wire,
};
use crate::wire;

pub(super) fn head_to_wire(cluster: &Cluster) -> wire::SnapshotHead {
    wire::SnapshotHead {
        version: SNAPSHOT_VERSION,
        cluster: id128_to_wire(cluster.id.0),
        lineage: cluster.lineage.0.into(),
        clock_ms: cluster.clock_ms,
        reap_hold: cluster.reap_hold,
        feature_level: cluster.feature_level,
        settings: Some(settings_to_wire(&cluster.settings)),
        next_node: cluster.next_node,
        next_segment: cluster.next_segment,
        next_checkpoint: cluster.next_checkpoint,
        next_incarnation: cluster.next_incarnation,
    }
}

pub(super) fn head_from_wire(head: wire::SnapshotHead) -> Result<Cluster, ConvertError> {
    let got = head.lineage;
    let lineage = u16::try_from(got)
        .map_err(|_| ConvertError::Value { field: "lineage", got: got.into() })?;
    Ok(Cluster {
        id: ClusterId(id128_from_wire("cluster id", &head.cluster)?),
        lineage: Lineage(lineage),
        clock_ms: head.clock_ms,
        reap_hold: head.reap_hold,
        feature_level: head.feature_level,
        settings: settings_from_wire(&required("settings", head.settings)?),
        next_node: head.next_node,
        next_segment: head.next_segment,
        next_checkpoint: head.next_checkpoint,
        next_incarnation: head.next_incarnation,
    })
}

pub(super) fn node_to_wire(node: &Node) -> wire::SnapshotNode {
    let new = NewNode {
        cookie: node.cookie,
        host: node.host.clone(),
        rack: node.rack.clone(),
        address: node.address.clone(),
        capacity_bytes: node.capacity_bytes,
        feature_level: node.feature_level,
    };
    wire::SnapshotNode {
        id: node.id.0,
        node: Some(new_node_to_wire(&new)),
        nonce: id128_to_wire(node.nonce.0),
        superseded: node.superseded.iter().map(|nonce| id128_to_wire(nonce.0)).collect(),
        incarnation: node.incarnation.0,
        inventoried: node.inventoried,
        removed: node.admin == Admin::Removed,
        up: node.liveness == Liveness::Up,
        liveness_since_ms: node.liveness_since_ms,
    }
}

pub(super) fn node_from_wire(record: wire::SnapshotNode) -> Result<Node, ConvertError> {
    let new = new_node_from_wire(required("node", record.node)?)?;
    let nonce = |bytes: &Bytes| id128_from_wire("nonce", bytes).map(Nonce);
    Ok(Node {
        id: NodeId(record.id),
        cookie: new.cookie,
        nonce: nonce(&record.nonce)?,
        superseded: record.superseded.iter().map(nonce).collect::<Result<_, _>>()?,
        host: new.host,
        rack: new.rack,
        address: new.address,
        incarnation: Incarnation(record.incarnation),
        inventoried: record.inventoried,
        admin: if record.removed { Admin::Removed } else { Admin::InService },
        liveness: if record.up { Liveness::Up } else { Liveness::Down },
        liveness_since_ms: record.liveness_since_ms,
        capacity_bytes: new.capacity_bytes,
        feature_level: new.feature_level,
    })
}

pub(super) fn namespace_to_wire(
    name: &Namespace,
    record: &NamespaceRecord,
) -> wire::SnapshotNamespace {
    wire::SnapshotNamespace {
        name: name.to_string(),
        policy: Some(policy_to_wire(&record.policy)),
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
    }
}

pub(super) fn namespace_from_wire(
    record: wire::SnapshotNamespace,
) -> Result<(Namespace, NamespaceRecord), ConvertError> {
    let namespace = NamespaceRecord {
        policy: policy_from_wire(&required("policy", record.policy)?)?,
        policy_version: record.policy_version,
        last_wall_ms: record.last_wall_ms,
    };
    Ok((record.name.parse()?, namespace))
}

pub(super) fn segment_to_wire(segment: &Segment) -> wire::SnapshotSegment {
    let codec = match segment.codec {
        Codec::Raw => 0,
    };
    let references = segment.references.iter();
    wire::SnapshotSegment {
        id: segment.id.0,
        digest: digest_to_wire(&segment.digest),
        len: segment.len,
        codec,
        stored_len: segment.stored_len,
        references: references
            .map(|&(replicas, count)| wire::ReferenceCount { replicas, count })
            .collect(),
        reap_after_ms: segment.reap_after_ms,
        reaped: segment.reaped,
        slots: segment.slots.iter().map(slot_to_wire).collect(),
    }
}

pub(super) fn segment_from_wire(record: &wire::SnapshotSegment) -> Result<Segment, ConvertError> {
    let codec = match record.codec {
        0 => Codec::Raw,
        got => return Err(ConvertError::Value { field: "codec", got: got.into() }),
    };
    let references = record.references.iter();
    Ok(Segment {
        id: SegmentId(record.id),
        digest: digest_from_wire("segment digest", &record.digest)?,
        len: segment_len_from_wire(record.len)?,
        codec,
        stored_len: record.stored_len,
        references: references.map(|reference| (reference.replicas, reference.count)).collect(),
        reap_after_ms: record.reap_after_ms,
        reaped: record.reaped,
        slots: record.slots.iter().map(slot_from_wire).collect::<Result<_, _>>()?,
    })
}

pub(super) fn checkpoint_to_wire(record: &Checkpoint) -> wire::SnapshotCheckpoint {
    wire::SnapshotCheckpoint {
        id: record.id.0,
        namespace: record.namespace.to_string(),
        step: record.step.0,
        attempt: record.attempt.0,
        state: state_to_wire(record.state),
        policy: Some(policy_to_wire(&record.policy)),
        parts_wanted: record.parts_wanted,
        labels: record.labels.clone(),
        open: record.open.as_ref().map(upload_to_wire),
        parts: record.parts.iter().map(sealed_part_to_wire).collect(),
        segments: Some(set_to_wire(&record.segments)),
        loose: Some(set_to_wire(&record.loose.to_id_set())),
        commit_index: record.commit.map(|commit| commit.index),
        commit_wall_ms: record.commit.map_or(0, |commit| commit.wall_ms),
        bytes: record.bytes,
        files: record.files,
        segment_bytes: record.segment_bytes,
        deleted_at_ms: record.deleted_at_ms,
        now: record.now,
    }
}

pub(super) fn checkpoint_from_wire(
    record: wire::SnapshotCheckpoint,
) -> Result<Checkpoint, ConvertError> {
    let parts = record.parts.into_iter().map(sealed_part_from_wire);
    let wall_ms = record.commit_wall_ms;
    Ok(Checkpoint {
        id: CheckpointId(record.id),
        namespace: record.namespace.parse()?,
        step: Step(record.step),
        attempt: Attempt(record.attempt),
        state: state_from_wire(record.state)?,
        policy: policy_from_wire(&required("policy", record.policy)?)?,
        parts_wanted: record.parts_wanted,
        labels: record.labels,
        open: record.open.map(upload_from_wire).transpose()?,
        parts: parts.collect::<Result<_, _>>()?,
        segments: set_from_wire("segments", record.segments)?,
        loose: set_from_wire("loose", record.loose)?.iter().collect(),
        commit: record.commit_index.map(|index| Commit { index, wall_ms }),
        bytes: record.bytes,
        files: record.files,
        segment_bytes: record.segment_bytes,
        deleted_at_ms: record.deleted_at_ms,
        now: record.now,
    })
}

fn upload_to_wire(upload: &Upload) -> wire::SnapshotUpload {
    let parts = upload.parts.iter().map(|(part, open)| wire::SnapshotPart {
        part: *part,
        run: open.part.run.0,
        staged: Some(set_to_wire(&open.staged.to_id_set())),
        sealed: open.part.sealed.as_ref().map(sealed_part_to_wire),
    });
    wire::SnapshotUpload {
        lease_until_ms: upload.lease_until_ms,
        replace: upload.replace,
        parts: parts.collect(),
    }
}

fn upload_from_wire(upload: wire::SnapshotUpload) -> Result<Upload, ConvertError> {
    let mut parts = BTreeMap::new();
    for part in upload.parts {
        let number = part.part;
        let open = UploadPart {
            part: OpenPart {
                run: Run(part.run),
                sealed: part.sealed.map(sealed_part_from_wire).transpose()?,
            },
            staged: set_from_wire("staged", part.staged)?.iter().collect(),
        };
        if parts.insert(number, open).is_some() {
            return Err(ConvertError::Value { field: "a second part number", got: number.into() });
        }
    }
    Ok(Upload { lease_until_ms: upload.lease_until_ms, replace: upload.replace, parts })
}

fn set_to_wire(set: &IdSet) -> wire::IdSet {
    wire::IdSet { len: set.len(), deltas: set.encoded().clone() }
}

/// Copied, so that a set kept for long does not hold the whole record it came in.
fn set_from_wire(field: &'static str, set: Option<wire::IdSet>) -> Result<IdSet, ConvertError> {
    let set = required(field, set)?;
    Ok(IdSet::decode(Bytes::copy_from_slice(&set.deltas), set.len)?)
}
