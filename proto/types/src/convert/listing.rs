//! What a listing is asked for.

use crate::ids::{CheckpointId, Namespace, Step};
use crate::limits::{LABEL_BYTES_MAX, LABEL_RULES_MAX};
use crate::listing::{ListFilter, ListPlace, ListedStates};
use crate::retention::LabelRule;
use crate::wire;

use super::{ConvertError, at_most};

pub fn list_request(
    prefix: Option<&Namespace>,
    filter: &ListFilter,
    after: Option<&ListPlace>,
    limit: u32,
) -> wire::ListRequest {
    let (after_namespace, after_step, after_id) = match after {
        Some((namespace, step, id)) => (namespace.to_string(), step.0, id.0),
        None => (String::new(), 0, 0),
    };
    let label =
        |rule: &LabelRule| wire::LabelRule { key: rule.key.clone(), value: rule.value.clone() };
    wire::ListRequest {
        prefix: prefix.map(ToString::to_string).unwrap_or_default(),
        open: filter.states.open,
        deleted: filter.states.deleted,
        without_committed: !filter.states.committed,
        quarantined: filter.states.quarantined,
        as_of_ms: filter.as_of_ms,
        labels: filter.labels.iter().map(label).collect(),
        deadline_ms: 0,
        after_namespace,
        after_step,
        after_id,
        limit,
    }
}

/// The filter of a request, with bounded labels.
pub fn list_filter_from_wire(request: &wire::ListRequest) -> Result<ListFilter, ConvertError> {
    at_most("labels of a listing", request.labels.len(), LABEL_RULES_MAX)?;
    let label = |rule: &wire::LabelRule| {
        at_most("label", rule.key.len(), LABEL_BYTES_MAX)?;
        at_most("label", rule.value.as_ref().map_or(0, String::len), LABEL_BYTES_MAX)?;
        Ok(LabelRule { key: rule.key.clone(), value: rule.value.clone() })
    };
    Ok(ListFilter {
        states: ListedStates {
            committed: !request.without_committed,
            quarantined: request.quarantined,
            open: request.open,
            deleted: request.deleted,
        },
        as_of_ms: request.as_of_ms,
        labels: request.labels.iter().map(label).collect::<Result<_, ConvertError>>()?,
    })
}

/// The place behind which a page begins.
pub fn list_place_from_wire(
    namespace: &str,
    step: u64,
    id: u64,
) -> Result<Option<ListPlace>, ConvertError> {
    match namespace {
        "" => Ok(None),
        name => Ok(Some((name.parse()?, Step(step), CheckpointId(id)))),
    }
}
