//! What a client learns of a checkpoint.

use crate::command::{metrics_from_wire, metrics_to_wire};
use crate::ids::{Attempt, CheckpointId, Step};
use crate::model::{Began, CheckpointInfo, CheckpointState, Commit};

use super::{
    ConvertError, durability_from_wire, durability_to_wire, hold_from_wire, hold_to_wire,
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
        began_wall_ms: info.began.wall_ms,
        began_index: info.began.index,
        metrics: metrics_to_wire(&info.metrics),
        quarantine: info.quarantine.as_ref().map(quarantine_to_wire),
        refs: info.refs.iter().map(ToString::to_string).collect(),
        holds: info.holds.iter().map(hold_to_wire).collect(),
    }
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
        durability: durability_from_wire(&required("durability", info.durability)?),
        parts_wanted: info.parts_wanted,
        parts_missing: info.parts_missing,
        first_missing: info.first_missing,
        began: Began {
            index: info.began_index,
            wall_ms: info.began_wall_ms,
            client: info.client,
            job: info.job,
        },
        metrics: metrics_from_wire(info.metrics)?,
        quarantine: info.quarantine.map(quarantine_from_wire).transpose()?,
        refs: info.refs.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        holds: info.holds.into_iter().map(hold_from_wire).collect::<Result<_, _>>()?,
    })
}
