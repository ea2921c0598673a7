//! Which node an operator means: by id, host name or address.

use cairn_client::NodeInfo;

use crate::exit::{Exit, Failure};

/// The node that `text` names. An id may be a removed node's; host and address are those of a node
/// that is still a member.
pub fn find<'a>(nodes: &'a [NodeInfo], text: &str) -> Result<&'a NodeInfo, Failure> {
    if let Ok(id) = text.parse::<u64>()
        && let Some(node) = nodes.iter().find(|node| node.id.0 == id)
    {
        return Ok(node);
    }
    let named = |node: &&NodeInfo| !node.removed && (node.host == text || node.address == text);
    let found: Vec<&NodeInfo> = nodes.iter().filter(named).collect();
    match found[..] {
        [node] => Ok(node),
        [] => Err(Failure::new(Exit::NotFound, anyhow::anyhow!("no node {text}"))
            .with_hint("`cairn node ls` lists the nodes")),
        _ => {
            let ids: Vec<String> = found.iter().map(|node| node.id.to_string()).collect();
            Err(Failure::usage(format!("{text} names {} nodes: {}", ids.len(), ids.join(", ")))
                .with_hint("give the id of one of them"))
        }
    }
}

/// A node for tests.
#[cfg(test)]
pub fn member(id: u64, host: &str) -> NodeInfo {
    let mut node = NodeInfo::default();
    node.id = cairn_client::NodeId(id);
    node.host = host.to_owned();
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, host: &str, removed: bool) -> NodeInfo {
        let mut node = member(id, host);
        node.address = format!("{host}:{}", 7400 + id);
        node.removed = removed;
        node
    }

    #[test]
    fn a_node_is_named_by_id_host_or_address() {
        let nodes = [node(1, "h1", false), node(2, "h1", true), node(3, "h2", false)];
        let id = |text: &str| find(&nodes, text).map(|node| node.id.0).map_err(|error| error.exit);
        assert_eq!(id("3"), Ok(3));
        assert_eq!(id("2"), Ok(2));
        assert_eq!(id("h1"), Ok(1), "the other one was removed");
        assert_eq!(id("h2:7403"), Ok(3));
        assert_eq!(id("4"), Err(Exit::NotFound));
        assert_eq!(id("h"), Err(Exit::NotFound));
    }

    #[test]
    fn a_host_with_two_nodes_names_neither() {
        let nodes = [node(1, "h1", false), node(2, "h1", false)];
        let failure = find(&nodes, "h1").unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.error.to_string(), "h1 names 2 nodes: 1, 2");
    }
}
