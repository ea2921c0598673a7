//! What namespaces take.

use cairn_core::catalogue::{Catalogue, Usage, UsageQuery};
use cairn_proto::wire;
use cairn_types::ids::Namespace;

/// One page.
pub(super) fn usage(catalogue: &Catalogue, query: &UsageQuery) -> wire::UsageReply {
    let page = catalogue.usage(query);
    let one = |(name, usage): (Namespace, Usage)| {
        let Usage {
            checkpoints,
            logical_bytes,
            stored_bytes,
            unique_bytes,
            trash_checkpoints,
            trash_bytes,
        } = usage;
        wire::NamespaceUsage {
            namespace: name.to_string(),
            checkpoints,
            logical_bytes,
            stored_bytes,
            unique_bytes,
            trash_checkpoints,
            trash_bytes,
        }
    };
    let namespaces = page.namespaces.into_iter().map(one).collect();
    wire::UsageReply { namespaces, more: page.more }
}
