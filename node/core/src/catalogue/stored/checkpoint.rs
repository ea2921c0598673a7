//! A checkpoint's record.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_types::command::{metrics_from_wire, metrics_to_wire};
use cairn_types::convert::{
    ConvertError, policy_from_wire, policy_to_wire, quarantine_from_wire, quarantine_to_wire,
    required, sealed_part_from_wire, sealed_part_to_wire, state_from_wire, state_to_wire,
};
use cairn_types::id_set::IdSet;
use cairn_types::ids::{Attempt, CheckpointId, Run, Step};
use cairn_types::model::{Began, CheckpointState, Commit, DeletedFor, OpenPart};
use cairn_types::wire;

use super::{LoadError, Loader, Put, Stored, StoredError, is_minted, policy_is_sound};
use crate::catalogue::{Catalogue, Checkpoint, Upload, UploadPart};
use crate::persistent::Map;
use crate::segment_set::{SegmentCounts, SegmentSet};

pub(super) struct Checkpoints;

impl Stored for Checkpoints {
    type Message = wire::SnapshotCheckpoint;

    fn each(catalogue: &Catalogue, put: Put<'_, Self::Message>) -> io::Result<()> {
        catalogue.checkpoints().try_for_each(|checkpoint| put(to_wire(checkpoint)))
    }

    fn load(message: Self::Message, loader: &mut Loader) -> Result<(), StoredError> {
        loader.checkpoint(from_wire(message)?)?;
        Ok(())
    }
}

impl Loader {
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
}

fn to_wire(record: &Checkpoint) -> wire::SnapshotCheckpoint {
    wire::SnapshotCheckpoint {
        id: record.id.0,
        namespace: record.namespace.to_string(),
        step: record.step.0,
        attempt: record.attempt.0,
        state: state_to_wire(record.state),
        policy: Some(policy_to_wire(&record.policy)),
        parts_wanted: record.parts_wanted,
        labels: record.labels.clone(),
        metrics: metrics_to_wire(&record.metrics),
        quarantine: record.quarantine.as_ref().map(quarantine_to_wire),
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
        began_index: record.began.index,
        began_wall_ms: record.began.wall_ms,
        client: record.began.client.clone(),
        job: record.began.job.clone(),
        subject: record.began.subject.clone(),
        deleted_for: record.deleted_for.map_or(0, DeletedFor::number),
        deleted_by: record.deleted_by.clone(),
        deleted_wall_ms: record.deleted_wall_ms,
        dropped: Some(set_to_wire(&record.dropped.to_id_set())),
        dropped_until_ms: record.dropped_until_ms,
        new_bytes: record.new_bytes,
        full: record.full,
        open_ended: record.open_ended,
    }
}

fn from_wire(record: wire::SnapshotCheckpoint) -> Result<Checkpoint, ConvertError> {
    let parts = record.parts.into_iter().map(sealed_part_from_wire);
    let wall_ms = record.commit_wall_ms;
    Ok(Checkpoint {
        id: CheckpointId(record.id),
        namespace: record.namespace.parse()?,
        step: Step(record.step),
        attempt: Attempt(record.attempt),
        state: state_from_wire(record.state)?,
        policy: policy_from_wire(&required("policy", record.policy)?)?,
        began: Began {
            index: record.began_index,
            wall_ms: record.began_wall_ms,
            client: record.client,
            job: record.job,
            subject: record.subject,
        },
        parts_wanted: record.parts_wanted,
        open_ended: record.open_ended,
        labels: record.labels,
        metrics: metrics_from_wire(record.metrics)?,
        quarantine: record.quarantine.map(quarantine_from_wire).transpose()?,
        open: record.open.map(|open| upload_from_wire(open, record.open_ended)).transpose()?,
        parts: parts.collect::<Result<_, _>>()?,
        segments: set_from_wire("segments", record.segments)?,
        loose: set_from_wire("loose", record.loose)?.iter().collect(),
        commit: record.commit_index.map(|index| Commit { index, wall_ms }),
        bytes: record.bytes,
        files: record.files,
        segment_bytes: record.segment_bytes,
        new_bytes: record.new_bytes,
        full: record.full,
        deleted_at_ms: record.deleted_at_ms,
        deleted_for: match record.deleted_for {
            0 => None,
            got => Some(
                DeletedFor::from_number(got)
                    .ok_or(ConvertError::Value { field: "deletion", got: got.into() })?,
            ),
        },
        deleted_by: record.deleted_by,
        deleted_wall_ms: record.deleted_wall_ms,
        now: record.now,
        dropped: set_from_wire("dropped", record.dropped)?.iter().collect(),
        dropped_until_ms: record.dropped_until_ms,
    })
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
    } else if record.new_bytes > record.segment_bytes {
        Some("has more new bytes than bytes")
    } else if record.deleted_for.is_some() != (record.state == CheckpointState::Deleted) {
        Some("is deleted without a reason, or has one without being deleted")
    } else if !record.dropped.is_empty() && record.state != CheckpointState::Deleted {
        Some("has given references back without being deleted")
    } else if record.commit.is_none() && !record.segments.is_empty() {
        Some("names segments without a commit")
    } else if record.open.as_ref().is_some_and(|upload| {
        let last = upload.parts.last_key_value().map(|(number, _)| *number);
        last.is_some_and(|last| record.check_part(last).is_err())
            || upload.voided.iter().any(|id| !record.loose.contains(id))
            || upload.parts.values().any(|p| p.staged.iter().any(|id| !record.loose.contains(id)))
    }) {
        Some("upload names parts or segments it does not have")
    } else {
        None
    }
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
        idle_since_ms: upload.idle_since_ms,
        replace: upload.replace,
        keep_last: upload.keep_last,
        parts: parts.collect(),
        begins: upload.begins,
        removed: upload.removed,
        voided: (!upload.voided.is_empty()).then(|| set_to_wire(&upload.voided.to_id_set())),
    }
}

fn upload_from_wire(
    upload: wire::SnapshotUpload,
    open_ended: bool,
) -> Result<Upload, ConvertError> {
    let mut parts = Map::default();
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
    let voided = match upload.voided {
        Some(set) => set_from_wire("voided", Some(set))?.iter().collect(),
        None => SegmentSet::default(),
    };
    let mut held = SegmentCounts::default();
    for part in parts.values().filter(|_| open_ended) {
        held.add_all(&part.staged);
    }
    let is_sealed = |part: &&UploadPart| part.part.sealed.is_some();
    let sealed = parts.values().filter(is_sealed).count() as u32;
    Ok(Upload {
        lease_until_ms: upload.lease_until_ms,
        idle_since_ms: upload.idle_since_ms,
        replace: upload.replace,
        keep_last: upload.keep_last,
        parts,
        sealed,
        begins: upload.begins,
        removed: upload.removed,
        voided,
        held,
    })
}

fn set_to_wire(set: &IdSet) -> wire::IdSet {
    wire::IdSet { len: set.len(), deltas: set.encoded().clone() }
}

/// Copied, so that a long-lived set does not keep the whole received record in memory.
fn set_from_wire(field: &'static str, set: Option<wire::IdSet>) -> Result<IdSet, ConvertError> {
    let set = required(field, set)?;
    Ok(IdSet::decode(Bytes::copy_from_slice(&set.deltas), set.len)?)
}
