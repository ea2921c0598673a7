//! Listings of refs and holds.

use std::collections::BTreeMap;

use cairn_core::catalogue::Catalogue;
use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::ids::{CheckpointId, Namespace, Step};
use cairn_types::limits::HOLDS_PAGE_MAX;

use crate::caller::Caller;

/// The refs of a namespace, and the steps of what they name or named.
pub(super) fn refs(catalogue: &Catalogue, namespace: &Namespace) -> wire::ListRefsReply {
    let mut steps = BTreeMap::<CheckpointId, Step>::new();
    let mut refs = Vec::new();
    for (name, target) in catalogue.refs(namespace) {
        let named = target.history.iter().filter_map(|moved| moved.checkpoint);
        let known = named.filter_map(|id| catalogue.checkpoint(id));
        let known = known.filter(|record| record.is_committed());
        steps.extend(known.map(|record| (record.id, record.step)));
        refs.push(convert::ref_to_wire(name, target));
    }
    let step =
        |(id, step): (CheckpointId, Step)| wire::CheckpointStep { checkpoint: id.0, step: step.0 };
    wire::ListRefsReply { refs, steps: steps.into_iter().map(step).collect() }
}

/// One page of the holds on committed checkpoints that have not ended.
pub(super) fn holds(
    catalogue: &Catalogue,
    asked: &wire::ListHoldsRequest,
    caller: &Caller,
) -> wire::ListHoldsReply {
    let clock_ms = catalogue.cluster().clock_ms;
    let below = format!("{}/", asked.prefix);
    let is_wanted = |namespace: &str| {
        asked.prefix.is_empty() || namespace == asked.prefix || namespace.starts_with(&below)
    };
    let after = (CheckpointId(asked.after_checkpoint), asked.after_owner.clone());
    let found = catalogue.holds_after((after.0 != CheckpointId(0)).then_some(after));
    let active = found.filter(|(_, hold)| hold.is_active(clock_ms));
    let listed = active.filter_map(|(id, hold)| {
        let record = catalogue.checkpoint(id).filter(|record| record.is_committed())?;
        let is_shown = caller.reads(&record.namespace);
        (is_shown && is_wanted(record.namespace.as_str())).then(|| wire::ListedHold {
            checkpoint: id.0,
            namespace: record.namespace.to_string(),
            step: record.step.0,
            hold: Some(convert::hold_to_wire(hold)),
        })
    });
    let mut holds: Vec<wire::ListedHold> = listed.take(HOLDS_PAGE_MAX + 1).collect();
    let more = holds.len() > HOLDS_PAGE_MAX;
    holds.truncate(HOLDS_PAGE_MAX);
    wire::ListHoldsReply { holds, more }
}
