//! What watchers are told.

use crate::event::{Event, EventId, Happened, MalformedCursor, WatchedCheckpoint, WatchedRef};
use crate::ids::{CheckpointId, Namespace, RefName, Step};
use crate::marks::Ref;
use crate::model::DeletedFor;
use crate::wire;

use super::{ConvertError, required};

impl From<MalformedCursor> for ConvertError {
    fn from(_: MalformedCursor) -> Self {
        Self::Text { field: "cursor" }
    }
}

pub fn event_to_wire(event: &Event) -> wire::Event {
    let mut message = wire::Event {
        id: event.id.to_string(),
        wall_ms: event.wall_ms,
        namespace: event.namespace.to_string(),
        checkpoint: event.what.checkpoint().map(|id| id.0),
        step: event.what.step().map(|step| step.0),
        ..Default::default()
    };
    message.kind = match &event.what {
        Happened::Committed { .. } => 1,
        Happened::Deleted { reason, .. } => {
            message.deleted_for = reason.number();
            2
        }
        Happened::Undeleted { .. } => 3,
        Happened::Quarantined { .. } => 4,
        Happened::Released { .. } => 5,
        Happened::Full { .. } => 6,
        Happened::RefMoved { name, generation, .. } => {
            (message.name, message.generation) = (name.to_string(), *generation);
            7
        }
    };
    message
}

pub fn event_from_wire(message: wire::Event) -> Result<Event, ConvertError> {
    let named = || -> Result<(CheckpointId, Step), ConvertError> {
        let id = required("checkpoint", message.checkpoint).map(CheckpointId)?;
        Ok((id, required("step", message.step).map(Step)?))
    };
    let what = match message.kind {
        1 => named().map(|(checkpoint, step)| Happened::Committed { checkpoint, step })?,
        2 => {
            let ((checkpoint, step), got) = (named()?, message.deleted_for);
            let unknown = ConvertError::Value { field: "deletion", got: got.into() };
            let reason = DeletedFor::from_number(got).ok_or(unknown)?;
            Happened::Deleted { checkpoint, step, reason }
        }
        3 => named().map(|(checkpoint, step)| Happened::Undeleted { checkpoint, step })?,
        4 => named().map(|(checkpoint, step)| Happened::Quarantined { checkpoint, step })?,
        5 => named().map(|(checkpoint, step)| Happened::Released { checkpoint, step })?,
        6 => named().map(|(checkpoint, step)| Happened::Full { checkpoint, step })?,
        7 => Happened::RefMoved {
            name: message.name.parse()?,
            generation: message.generation,
            checkpoint: message.checkpoint.map(CheckpointId),
            step: message.step.map(Step),
        },
        got => return Err(ConvertError::Value { field: "kind of an event", got: got.into() }),
    };
    Ok(Event {
        id: message.id.parse()?,
        wall_ms: message.wall_ms,
        namespace: message.namespace.parse()?,
        what,
    })
}

pub fn watched_to_wire(watched: &WatchedCheckpoint) -> wire::WatchedCheckpoint {
    let WatchedCheckpoint { id, namespace, step, commit_wall_ms, is_quarantined, is_full } =
        watched;
    wire::WatchedCheckpoint {
        id: id.0,
        namespace: namespace.to_string(),
        step: step.0,
        commit_wall_ms: *commit_wall_ms,
        quarantined: *is_quarantined,
        full: *is_full,
    }
}

pub fn watched_from_wire(
    message: wire::WatchedCheckpoint,
) -> Result<WatchedCheckpoint, ConvertError> {
    Ok(WatchedCheckpoint {
        id: CheckpointId(message.id),
        namespace: message.namespace.parse()?,
        step: Step(message.step),
        commit_wall_ms: message.commit_wall_ms,
        is_quarantined: message.quarantined,
        is_full: message.full,
    })
}

/// `None` of a ref that was removed.
pub fn watched_ref_to_wire(
    namespace: &Namespace,
    name: &RefName,
    target: &Ref,
    step: Option<Step>,
) -> Option<wire::WatchedRef> {
    Some(wire::WatchedRef {
        namespace: namespace.to_string(),
        name: name.to_string(),
        checkpoint: target.checkpoint?.0,
        generation: target.generation,
        step: step.map(|step| step.0),
    })
}

pub fn watched_ref_from_wire(message: wire::WatchedRef) -> Result<WatchedRef, ConvertError> {
    Ok(WatchedRef {
        namespace: message.namespace.parse()?,
        name: message.name.parse()?,
        checkpoint: CheckpointId(message.checkpoint),
        generation: message.generation,
        step: message.step.map(Step),
    })
}

/// A cursor; `None` of an empty text.
pub fn cursor_from_wire(text: &str) -> Result<Option<EventId>, ConvertError> {
    if text.is_empty() { Ok(None) } else { Ok(Some(text.parse()?)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Lineage;

    #[test]
    fn events_of_each_kind_survive_the_wire() {
        let (checkpoint, step) = (CheckpointId(7), Step(9));
        let name: RefName = "production".parse().unwrap();
        let reason = DeletedFor::Retention;
        let moved = |checkpoint, step| Happened::RefMoved {
            name: name.clone(),
            generation: 4,
            checkpoint,
            step,
        };
        for (place, what) in (0..).zip([
            Happened::Committed { checkpoint, step },
            Happened::Deleted { checkpoint, step, reason },
            Happened::Undeleted { checkpoint, step },
            Happened::Quarantined { checkpoint, step },
            Happened::Released { checkpoint, step },
            Happened::Full { checkpoint, step },
            moved(Some(checkpoint), Some(step)),
            moved(None, None),
        ]) {
            let id = EventId { lineage: Lineage(1), index: 5, place };
            let namespace: Namespace = "a/b".parse().unwrap();
            let event = Event { id, wall_ms: 3, namespace, what };
            assert_eq!(event_from_wire(event_to_wire(&event)), Ok(event.clone()));
            let mut unknown = event_to_wire(&event);
            unknown.kind += 100;
            assert!(event_from_wire(unknown).is_err());
        }
    }
}
