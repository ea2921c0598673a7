//! A page of a listing.

use std::sync::Arc;

use cairn_core::catalogue::{Catalogue, Checkpoint, ListPage, ListQuery};
use cairn_proto::wire;
use cairn_types::convert;
use cairn_types::rights::TokenSubject;

use super::shown;

pub(super) fn listed(
    catalogue: &Catalogue,
    token: Option<&TokenSubject>,
    query: &ListQuery,
) -> wire::ListReply {
    let ListPage { records, next } = catalogue.list(query);
    let entry = |record: &Arc<Checkpoint>| {
        // A listing is about checkpoints; `Resolve` gives the parts of one.
        let info = convert::info_to_wire(&catalogue.listed(record));
        shown::without_sharing(token, info)
    };
    let checkpoints = records.iter().map(entry).collect();
    let (next_namespace, next_step, next_id) = match next {
        Some((namespace, step, id)) => (namespace.to_string(), step.0, id.0),
        None => (String::new(), 0, 0),
    };
    wire::ListReply { checkpoints, next_namespace, next_step, next_id }
}
