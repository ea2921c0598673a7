//! The head of a snapshot: the cluster's own record.

use bytes::Bytes;
use cairn_types::audit::AuditHead;
use cairn_types::convert::{
    ConvertError, id128_from_wire, id128_to_wire, required, settings_from_wire, settings_to_wire,
};
use cairn_types::ids::{ClusterId, Lineage};
use cairn_types::model::Cluster;
use cairn_types::wire;

use super::SNAPSHOT_VERSION;

pub(super) fn to_wire(cluster: &Cluster) -> wire::SnapshotHead {
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
        tokens_required: cluster.tokens_required,
        audit_count: cluster.audit.count,
        audit_index: cluster.audit.index,
        audit_hash: match cluster.audit.count {
            0 => Bytes::new(),
            _ => Bytes::copy_from_slice(&cluster.audit.hash),
        },
    }
}

pub(super) fn from_wire(head: wire::SnapshotHead) -> Result<Cluster, ConvertError> {
    let got = head.lineage;
    let lineage = u16::try_from(got)
        .map_err(|_| ConvertError::Value { field: "lineage", got: got.into() })?;
    let audit = match (head.audit_count, &*head.audit_hash) {
        (0, []) => AuditHead::default(),
        (count, hash) => AuditHead {
            count,
            index: head.audit_index,
            hash: hash.try_into().map_err(|_| ConvertError::Length {
                field: "hash of the audit",
                got: hash.len(),
                want: 32,
            })?,
        },
    };
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
        tokens_required: head.tokens_required,
        audit,
    })
}
