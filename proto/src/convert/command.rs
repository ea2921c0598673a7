//! Commands: what Raft's log holds and what clients and nodes ask for.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::command::{Body, Command, DeleteReason, StageSegment};
use cairn_core::ids::{
    Attempt, CheckpointId, ClusterId, Cookie, Epoch, Incarnation, NodeId, Nonce, RequestId, Run,
    SegmentId, Step, check_label,
};
use cairn_core::limits::{
    BATCH_SEGMENTS_MAX, COMMAND_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, NODES_MAX, NONCES_MAX,
    REPLICAS_MAX,
};
use cairn_core::model::Liveness;
use prost::Message;

use super::{
    ConvertError, at_most, check_address, digest_from_wire, digest_to_wire, fixed, id128_from_wire,
    id128_to_wire, manifest_place_from_wire, manifest_place_to_wire, new_node_from_wire,
    new_node_to_wire, policy_change_from_wire, policy_change_to_wire, required,
    segment_len_from_wire, settings_from_wire, settings_to_wire,
};
use crate::envelope::FEATURE_LEVEL;
use crate::wire::{self, command::Body as Form};

/// Feature level that today's commands need. A new command gets its own, higher one.
const COMMAND_LEVEL: u32 = 1;

/// The log form of a command. It must be one that [`decode_command`] takes back: every proposer
/// keeps to the limits that are checked there, else its entry could not be applied anywhere.
pub fn encode_command(command: &Command) -> Bytes {
    let bytes = Bytes::from(command_to_wire(command).encode_to_vec());
    debug_assert_eq!(decode_command(&bytes).as_ref(), Ok(command), "command does not read back");
    bytes
}

/// A command from its log form.
pub fn decode_command(bytes: &[u8]) -> Result<Command, ConvertError> {
    at_most("command", bytes.len(), COMMAND_BYTES_MAX)?;
    command_from_wire(wire::Command::decode(bytes)?)
}

pub fn command_to_wire(command: &Command) -> wire::Command {
    wire::Command {
        request: id128_to_wire(command.request.0),
        clock_ms: command.clock_ms,
        wall_ms: command.wall_ms,
        feature_level: COMMAND_LEVEL,
        body: Some(body_to_wire(&command.body)),
    }
}

/// A command, checked for shape. One from a higher feature level, or one whose body this build
/// does not know, is [`ConvertError::FutureCommand`].
pub fn command_from_wire(command: wire::Command) -> Result<Command, ConvertError> {
    let future = ConvertError::FutureCommand { feature_level: command.feature_level };
    if command.feature_level > FEATURE_LEVEL {
        return Err(future);
    }
    let body = command.body.ok_or(future)?;
    Ok(Command {
        request: RequestId(id128_from_wire("request id", &command.request)?),
        clock_ms: command.clock_ms,
        wall_ms: command.wall_ms,
        body: body_from_wire(body)?,
    })
}

fn body_to_wire(body: &Body) -> Form {
    match body {
        Body::InitCluster { cluster, settings, node } => Form::InitCluster(wire::InitCluster {
            cluster: id128_to_wire(cluster.0),
            settings: Some(settings_to_wire(settings)),
            node: Some(new_node_to_wire(node)),
        }),
        Body::AllocateNode(node) => Form::AllocateNode(new_node_to_wire(node)),
        Body::Register {
            node,
            cookie,
            previous,
            nonce,
            host,
            rack,
            address,
            capacity_bytes,
            feature_level,
        } => Form::Register(wire::RegisterNode {
            node: node.0,
            cookie: id128_to_wire(cookie.0),
            previous: previous.iter().map(|nonce| id128_to_wire(nonce.0)).collect(),
            nonce: id128_to_wire(nonce.0),
            host: host.clone(),
            rack: rack.clone(),
            address: address.clone(),
            capacity_bytes: *capacity_bytes,
            feature_level: *feature_level,
        }),
        Body::Inventory { node, incarnation, missing, last } => Form::Inventory(wire::Inventory {
            node: node.0,
            incarnation: incarnation.0,
            missing: epochs_to_wire(missing),
            last: *last,
        }),
        Body::SetLiveness { changes } => {
            let changes = changes.iter().map(|(node, incarnation, liveness)| {
                let up = *liveness == Liveness::Up;
                wire::LivenessChange { node: node.0, incarnation: incarnation.0, up }
            });
            Form::SetLiveness(wire::SetLiveness { changes: changes.collect() })
        }
        Body::RemoveNode { node } => Form::RemoveNode(wire::RemoveNode { node: node.0 }),
        Body::SetPolicy { namespace, change } => Form::SetPolicy(wire::SetPolicy {
            namespace: namespace.to_string(),
            change: Some(policy_change_to_wire(change)),
        }),
        Body::Begin { namespace, step, parts, attempt, change, replace, labels } => {
            Form::Begin(wire::Begin {
                namespace: namespace.to_string(),
                step: step.0,
                parts: *parts,
                attempt: attempt.0,
                change: Some(policy_change_to_wire(change)),
                replace: *replace,
                labels: labels.clone(),
            })
        }
        Body::Stage { checkpoint, attempt, part, run, segments } => Form::Stage(wire::Stage {
            checkpoint: checkpoint.0,
            attempt: attempt.0,
            part: *part,
            run: run.0,
            segments: segments.iter().map(stage_to_wire).collect(),
        }),
        Body::Durable { node, incarnation, replicas } => {
            Form::Durable(replicas_to_wire(*node, *incarnation, replicas))
        }
        Body::Lost { node, incarnation, replicas } => {
            Form::Lost(replicas_to_wire(*node, *incarnation, replicas))
        }
        Body::Removed { node, incarnation, replicas } => {
            Form::Removed(replicas_to_wire(*node, *incarnation, replicas))
        }
        Body::SealPart { checkpoint, attempt, part, run, manifest, set_digest, bytes, files } => {
            Form::SealPart(wire::SealPart {
                checkpoint: checkpoint.0,
                attempt: attempt.0,
                part: *part,
                run: run.0,
                manifest: Some(manifest_place_to_wire(manifest)),
                set_digest: Bytes::copy_from_slice(set_digest),
                bytes: *bytes,
                files: *files,
            })
        }
        Body::Renew { uploads } => {
            let uploads = uploads.iter().map(|(checkpoint, attempt)| wire::Upload {
                checkpoint: checkpoint.0,
                attempt: attempt.0,
            });
            Form::Renew(wire::Renew { uploads: uploads.collect() })
        }
        Body::LeaderStarted => Form::LeaderStarted(wire::LeaderStarted {}),
        Body::ExpireUploads { checkpoints } => Form::ExpireUploads(wire::Checkpoints {
            checkpoints: checkpoints.iter().map(|checkpoint| checkpoint.0).collect(),
        }),
        Body::Delete { checkpoint, reason, now } => Form::Delete(wire::Delete {
            checkpoint: checkpoint.0,
            retention: *reason == DeleteReason::Retention,
            now: *now,
        }),
        Body::DropReferences { checkpoint } => {
            Form::DropReferences(wire::DropReferences { checkpoint: checkpoint.0 })
        }
        Body::Reap { segments } => {
            Form::Reap(wire::Reap { segments: segments.iter().map(|segment| segment.0).collect() })
        }
        Body::AssignSlots { slots } => Form::AssignSlots(slots_to_wire(slots)),
        Body::ReleaseSlots { slots } => Form::ReleaseSlots(slots_to_wire(slots)),
    }
}

fn body_from_wire(form: Form) -> Result<Body, ConvertError> {
    let body = match form {
        Form::InitCluster(init) => Body::InitCluster {
            cluster: ClusterId(id128_from_wire("cluster id", &init.cluster)?),
            settings: settings_from_wire(&required("settings", init.settings)?),
            node: new_node_from_wire(required("node", init.node)?)?,
        },
        Form::AllocateNode(node) => Body::AllocateNode(new_node_from_wire(node)?),
        Form::Register(register) => register_from_wire(register)?,
        Form::Inventory(inventory) => Body::Inventory {
            node: NodeId(inventory.node),
            incarnation: Incarnation(inventory.incarnation),
            missing: epochs_from_wire("missing", &inventory.missing)?,
            last: inventory.last,
        },
        Form::SetLiveness(set) => {
            at_most("liveness changes", set.changes.len(), NODES_MAX)?;
            let changes = set.changes.iter().map(|change| {
                let liveness = if change.up { Liveness::Up } else { Liveness::Down };
                (NodeId(change.node), Incarnation(change.incarnation), liveness)
            });
            Body::SetLiveness { changes: changes.collect() }
        }
        Form::RemoveNode(remove) => Body::RemoveNode { node: NodeId(remove.node) },
        Form::SetPolicy(set) => Body::SetPolicy {
            namespace: set.namespace.parse()?,
            change: policy_change_from_wire(&set.change.unwrap_or_default())?,
        },
        Form::Begin(begin) => {
            check_labels(&begin.labels)?;
            Body::Begin {
                namespace: begin.namespace.parse()?,
                step: Step(begin.step),
                parts: begin.parts,
                attempt: Attempt(begin.attempt),
                change: policy_change_from_wire(&begin.change.unwrap_or_default())?,
                replace: begin.replace,
                labels: begin.labels,
            }
        }
        Form::Stage(stage) => {
            at_most("segments", stage.segments.len(), BATCH_SEGMENTS_MAX)?;
            Body::Stage {
                checkpoint: CheckpointId(stage.checkpoint),
                attempt: Attempt(stage.attempt),
                part: stage.part,
                run: Run(stage.run),
                segments: stage.segments.iter().map(stage_from_wire).collect::<Result<_, _>>()?,
            }
        }
        Form::Durable(report) => {
            let (node, incarnation, replicas) = replicas_from_wire(&report)?;
            Body::Durable { node, incarnation, replicas }
        }
        Form::Lost(report) => {
            let (node, incarnation, replicas) = replicas_from_wire(&report)?;
            Body::Lost { node, incarnation, replicas }
        }
        Form::Removed(report) => {
            let (node, incarnation, replicas) = replicas_from_wire(&report)?;
            Body::Removed { node, incarnation, replicas }
        }
        Form::SealPart(seal) => Body::SealPart {
            checkpoint: CheckpointId(seal.checkpoint),
            attempt: Attempt(seal.attempt),
            part: seal.part,
            run: Run(seal.run),
            manifest: manifest_place_from_wire(seal.manifest)?,
            set_digest: fixed("set digest", &seal.set_digest)?,
            bytes: seal.bytes,
            files: seal.files,
        },
        Form::Renew(renew) => {
            at_most("uploads", renew.uploads.len(), BATCH_SEGMENTS_MAX)?;
            let pair =
                |upload: &wire::Upload| (CheckpointId(upload.checkpoint), Attempt(upload.attempt));
            Body::Renew { uploads: renew.uploads.iter().map(pair).collect() }
        }
        Form::LeaderStarted(wire::LeaderStarted {}) => Body::LeaderStarted,
        Form::ExpireUploads(list) => {
            at_most("checkpoints", list.checkpoints.len(), BATCH_SEGMENTS_MAX)?;
            let checkpoints = list.checkpoints.into_iter().map(CheckpointId).collect();
            Body::ExpireUploads { checkpoints }
        }
        Form::Delete(delete) => Body::Delete {
            checkpoint: CheckpointId(delete.checkpoint),
            reason: if delete.retention { DeleteReason::Retention } else { DeleteReason::Asked },
            now: delete.now,
        },
        Form::DropReferences(drop) => {
            Body::DropReferences { checkpoint: CheckpointId(drop.checkpoint) }
        }
        Form::Reap(reap) => {
            at_most("segments", reap.segments.len(), BATCH_SEGMENTS_MAX)?;
            Body::Reap { segments: reap.segments.into_iter().map(SegmentId).collect() }
        }
        Form::AssignSlots(list) => Body::AssignSlots { slots: slots_from_wire(&list)? },
        Form::ReleaseSlots(list) => Body::ReleaseSlots { slots: slots_from_wire(&list)? },
    };
    Ok(body)
}

fn register_from_wire(register: wire::RegisterNode) -> Result<Body, ConvertError> {
    check_label(&register.host)?;
    check_label(&register.rack)?;
    check_address(&register.address)?;
    at_most("previous nonces", register.previous.len(), NONCES_MAX)?;
    let nonce = |bytes: &Bytes| id128_from_wire("nonce", bytes).map(Nonce);
    Ok(Body::Register {
        node: NodeId(register.node),
        cookie: Cookie(id128_from_wire("cookie", &register.cookie)?),
        previous: register.previous.iter().map(nonce).collect::<Result<_, _>>()?,
        nonce: nonce(&register.nonce)?,
        host: register.host,
        rack: register.rack,
        address: register.address,
        capacity_bytes: register.capacity_bytes,
        feature_level: register.feature_level,
    })
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ConvertError> {
    at_most("labels", labels.len(), LABELS_MAX)?;
    labels.iter().try_for_each(|(key, value)| {
        at_most("label key", key.len(), LABEL_BYTES_MAX)?;
        at_most("label value", value.len(), LABEL_BYTES_MAX)
    })
}

fn stage_to_wire(segment: &StageSegment) -> wire::StageSegment {
    wire::StageSegment {
        digest: digest_to_wire(&segment.digest),
        len: segment.len,
        targets: segment.targets.iter().map(|node| node.0).collect(),
    }
}

fn stage_from_wire(segment: &wire::StageSegment) -> Result<StageSegment, ConvertError> {
    at_most("targets", segment.targets.len(), REPLICAS_MAX as usize)?;
    Ok(StageSegment {
        digest: digest_from_wire("segment digest", &segment.digest)?,
        len: segment_len_from_wire(segment.len)?,
        targets: segment.targets.iter().copied().map(NodeId).collect(),
    })
}

fn replicas_to_wire(
    node: NodeId,
    incarnation: Incarnation,
    replicas: &[(SegmentId, Epoch)],
) -> wire::Replicas {
    wire::Replicas { node: node.0, incarnation: incarnation.0, replicas: epochs_to_wire(replicas) }
}

type Report = (NodeId, Incarnation, Vec<(SegmentId, Epoch)>);

fn replicas_from_wire(report: &wire::Replicas) -> Result<Report, ConvertError> {
    let replicas = epochs_from_wire("replicas", &report.replicas)?;
    Ok((NodeId(report.node), Incarnation(report.incarnation), replicas))
}

fn epochs_to_wire(pairs: &[(SegmentId, Epoch)]) -> Vec<wire::ReplicaEpoch> {
    let one = |(segment, epoch): &(SegmentId, Epoch)| wire::ReplicaEpoch {
        segment: segment.0,
        epoch: epoch.0,
    };
    pairs.iter().map(one).collect()
}

fn epochs_from_wire(
    field: &'static str,
    pairs: &[wire::ReplicaEpoch],
) -> Result<Vec<(SegmentId, Epoch)>, ConvertError> {
    at_most(field, pairs.len(), BATCH_SEGMENTS_MAX)?;
    Ok(pairs.iter().map(|pair| (SegmentId(pair.segment), Epoch(pair.epoch))).collect())
}

fn slots_to_wire(slots: &[(SegmentId, NodeId)]) -> wire::SlotTargets {
    let one = |(segment, node): &(SegmentId, NodeId)| wire::SlotTarget {
        segment: segment.0,
        node: node.0,
    };
    wire::SlotTargets { slots: slots.iter().map(one).collect() }
}

fn slots_from_wire(list: &wire::SlotTargets) -> Result<Vec<(SegmentId, NodeId)>, ConvertError> {
    at_most("slots", list.slots.len(), BATCH_SEGMENTS_MAX)?;
    Ok(list.slots.iter().map(|slot| (SegmentId(slot.segment), NodeId(slot.node))).collect())
}
