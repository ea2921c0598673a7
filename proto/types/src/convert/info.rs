//! What a client learns of a checkpoint.

use crate::command::{metrics_from_wire, metrics_to_wire};
use crate::ids::{Attempt, CheckpointId, Step};
use crate::limits::{LABEL_BYTES_MAX, PARTS_BEGUN_MAX};
use crate::model::{Began, CheckpointInfo, CheckpointState, Commit, DeletedFor, Deletion};
use crate::progress::{PartProgress, UploadProgress};

use super::{
    ConvertError, at_most, durability_from_wire, durability_to_wire, hold_from_wire, hold_to_wire,
    policy_from_wire, policy_to_wire, quarantine_from_wire, quarantine_to_wire, required,
    sealed_part_from_wire, sealed_part_to_wire,
};
use crate::wire;

/// A checkpoint's state as the number the messages carry.
pub fn state_to_wire(state: CheckpointState) -> u32 {
    match state {
        CheckpointState::Open => 0,
        CheckpointState::Committed => 1,
        CheckpointState::Deleted => 2,
    }
}

pub fn state_from_wire(number: u32) -> Result<CheckpointState, ConvertError> {
    match number {
        0 => Ok(CheckpointState::Open),
        1 => Ok(CheckpointState::Committed),
        2 => Ok(CheckpointState::Deleted),
        _ => Err(ConvertError::Value { field: "checkpoint state", got: number.into() }),
    }
}

pub fn info_to_wire(info: &CheckpointInfo) -> wire::CheckpointInfo {
    wire::CheckpointInfo {
        id: info.id.0,
        namespace: info.namespace.to_string(),
        step: info.step.0,
        attempt: info.attempt.0,
        state: state_to_wire(info.state),
        policy: Some(policy_to_wire(&info.policy)),
        parts: info.parts.iter().map(sealed_part_to_wire).collect(),
        commit_index: info.commit.map(|commit| commit.index),
        commit_wall_ms: info.commit.map_or(0, |commit| commit.wall_ms),
        labels: info.labels.clone(),
        bytes: info.bytes,
        files: info.files,
        segments: info.segments,
        segment_bytes: info.segment_bytes,
        durability: Some(durability_to_wire(&info.durability)),
        parts_wanted: info.parts_wanted,
        parts_missing: info.parts_missing,
        first_missing: info.first_missing.clone(),
        client: info.began.client.clone(),
        job: info.began.job.clone(),
        subject: info.began.subject.clone(),
        began_wall_ms: info.began.wall_ms,
        began_index: info.began.index,
        metrics: metrics_to_wire(&info.metrics),
        quarantine: info.quarantine.as_ref().map(quarantine_to_wire),
        refs: info.refs.iter().map(ToString::to_string).collect(),
        holds: info.holds.iter().map(hold_to_wire).collect(),
        deletion: info.deletion.as_ref().map(deletion_to_wire),
        new_bytes: info.new_bytes,
        upload: info.upload.as_ref().map(progress_to_wire),
        open_ended: info.open_ended,
    }
}

fn progress_to_wire(upload: &UploadProgress) -> wire::UploadProgress {
    let part = |part: &PartProgress| wire::PartProgress {
        part: part.part,
        segments: part.segments,
        bytes: part.bytes,
        durable_bytes: part.durable_bytes,
    };
    wire::UploadProgress {
        durable_bytes: upload.durable_bytes,
        lease_left_ms: upload.lease_left_ms,
        deleted_in_ms: upload.deleted_in_ms,
        idle_ms: upload.idle_ms,
        parts_begun: upload.parts_begun,
        first_begun: upload.first_begun.iter().map(part).collect(),
    }
}

fn progress_from_wire(upload: wire::UploadProgress) -> Result<UploadProgress, ConvertError> {
    at_most("parts in progress", upload.first_begun.len(), PARTS_BEGUN_MAX)?;
    let part = |part: wire::PartProgress| PartProgress {
        part: part.part,
        segments: part.segments,
        bytes: part.bytes,
        durable_bytes: part.durable_bytes,
    };
    Ok(UploadProgress {
        durable_bytes: upload.durable_bytes,
        lease_left_ms: upload.lease_left_ms,
        deleted_in_ms: upload.deleted_in_ms,
        idle_ms: upload.idle_ms,
        parts_begun: upload.parts_begun,
        first_begun: upload.first_begun.into_iter().map(part).collect(),
    })
}

fn deletion_to_wire(deletion: &Deletion) -> wire::Deletion {
    let Deletion { reason, by, wall_ms, restorable_ms } = deletion;
    wire::Deletion {
        reason: reason.number(),
        by: by.clone(),
        wall_ms: *wall_ms,
        restorable_ms: *restorable_ms,
    }
}

fn deletion_from_wire(deletion: wire::Deletion) -> Result<Deletion, ConvertError> {
    at_most("client name", deletion.by.len(), LABEL_BYTES_MAX)?;
    let got = deletion.reason;
    let unknown = ConvertError::Value { field: "deletion", got: got.into() };
    Ok(Deletion {
        reason: DeletedFor::from_number(got).ok_or(unknown)?,
        by: deletion.by,
        wall_ms: deletion.wall_ms,
        restorable_ms: deletion.restorable_ms,
    })
}

pub fn info_from_wire(info: wire::CheckpointInfo) -> Result<CheckpointInfo, ConvertError> {
    Ok(CheckpointInfo {
        id: CheckpointId(info.id),
        namespace: info.namespace.parse()?,
        step: Step(info.step),
        attempt: Attempt(info.attempt),
        state: state_from_wire(info.state)?,
        policy: policy_from_wire(&required("policy", info.policy)?)?,
        parts: info.parts.into_iter().map(sealed_part_from_wire).collect::<Result<_, _>>()?,
        commit: info.commit_index.map(|index| Commit { index, wall_ms: info.commit_wall_ms }),
        labels: info.labels,
        bytes: info.bytes,
        files: info.files,
        segments: info.segments,
        segment_bytes: info.segment_bytes,
        new_bytes: info.new_bytes,
        durability: durability_from_wire(&required("durability", info.durability)?),
        parts_wanted: info.parts_wanted,
        parts_missing: info.parts_missing,
        open_ended: info.open_ended,
        first_missing: info.first_missing,
        began: Began {
            index: info.began_index,
            wall_ms: info.began_wall_ms,
            client: info.client,
            job: info.job,
            subject: info.subject,
        },
        metrics: metrics_from_wire(info.metrics)?,
        quarantine: info.quarantine.map(quarantine_from_wire).transpose()?,
        refs: info.refs.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        holds: info.holds.into_iter().map(hold_from_wire).collect::<Result<_, _>>()?,
        deletion: info.deletion.map(deletion_from_wire).transpose()?,
        upload: info.upload.map(progress_from_wire).transpose()?,
    })
}
