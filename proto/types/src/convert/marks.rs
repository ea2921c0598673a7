//! Refs, holds and quarantine.

use crate::ids::{CheckpointId, RefName};
use crate::limits::{LABEL_BYTES_MAX, REASON_BYTES_MAX, REF_HISTORY_MAX, SUBJECT_BYTES_MAX};
use crate::marks::{Hold, NamedRef, Quarantine, Ref, RefMove};
use crate::wire;

use super::{ConvertError, at_most};

pub fn ref_to_wire(name: &RefName, target: &Ref) -> wire::Ref {
    let one = |step: &RefMove| wire::RefMove {
        generation: step.generation,
        checkpoint: step.checkpoint.map(|id| id.0),
        by: step.by.clone(),
        wall_ms: step.wall_ms,
        subject: step.subject.clone(),
    };
    wire::Ref { name: name.to_string(), history: target.history.iter().map(one).collect() }
}

/// A ref is what its newest move says.
pub fn ref_from_wire(message: wire::Ref) -> Result<NamedRef, ConvertError> {
    at_most("moves of a ref", message.history.len(), REF_HISTORY_MAX)?;
    let one = |step: wire::RefMove| {
        at_most("client name", step.by.len(), LABEL_BYTES_MAX)?;
        at_most("subject", step.subject.len(), SUBJECT_BYTES_MAX)?;
        Ok(RefMove {
            generation: step.generation,
            checkpoint: step.checkpoint.map(CheckpointId),
            by: step.by,
            wall_ms: step.wall_ms,
            subject: step.subject,
        })
    };
    let history = message.history.into_iter().map(one).collect::<Result<Vec<_>, ConvertError>>()?;
    let newest = history.last().ok_or(ConvertError::Missing { field: "move of a ref" })?;
    let (generation, checkpoint) = (newest.generation, newest.checkpoint);
    let name = message.name.parse()?;
    Ok(NamedRef { name, target: Ref { generation, checkpoint, history } })
}

pub fn hold_to_wire(hold: &Hold) -> wire::Hold {
    let Hold { owner, reason, until_ms, wall_ms, until_wall_ms } = hold;
    wire::Hold {
        owner: owner.clone(),
        reason: reason.clone(),
        until_ms: *until_ms,
        wall_ms: *wall_ms,
        until_wall_ms: *until_wall_ms,
    }
}

pub fn hold_from_wire(hold: wire::Hold) -> Result<Hold, ConvertError> {
    at_most("owner of a hold", hold.owner.len(), LABEL_BYTES_MAX)?;
    at_most("reason", hold.reason.len(), REASON_BYTES_MAX)?;
    let wire::Hold { owner, reason, until_ms, wall_ms, until_wall_ms } = hold;
    Ok(Hold { owner, reason, until_ms, wall_ms, until_wall_ms })
}

pub fn quarantine_to_wire(quarantine: &Quarantine) -> wire::Quarantine {
    let Quarantine { reason, by, wall_ms } = quarantine;
    wire::Quarantine { reason: reason.clone(), by: by.clone(), wall_ms: *wall_ms }
}

pub fn quarantine_from_wire(quarantine: wire::Quarantine) -> Result<Quarantine, ConvertError> {
    at_most("reason", quarantine.reason.len(), REASON_BYTES_MAX)?;
    at_most("client name", quarantine.by.len(), LABEL_BYTES_MAX)?;
    let wire::Quarantine { reason, by, wall_ms } = quarantine;
    Ok(Quarantine { reason, by, wall_ms })
}
