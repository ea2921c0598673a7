//! Nodes that want to register but that this leader could not call back. They stay outside the
//! cluster until it can. Soft state: it ends with this process, or some time after the node's last
//! attempt.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_host::envelope;
use cairn_types::ids::NodeId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A node that still tries repeats its attempt within this time.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// At most one entry for each node of the catalogue.
#[derive(Debug, Default)]
pub struct Joining(Mutex<BTreeMap<NodeId, Unreached>>);

#[derive(Debug)]
struct Unreached {
    address: String,
    why: String,
    until: Instant,
}

impl Joining {
    /// The node could not be called back at `address`. Returns whether this is new, so that it is
    /// logged once and not at each attempt.
    pub fn is_not_reached(&self, node: NodeId, address: &str, why: &str) -> bool {
        let (now, mut unreached) = (Instant::now(), self.0.lock());
        unreached.retain(|_, it| now < it.until);
        let is_news = unreached.get(&node).is_none_or(|it| it.address != address);
        // Any server may listen there and answer with any text.
        let (address, why) = (address.to_owned(), envelope::said(why));
        unreached.insert(node, Unreached { address, why, until: now + KEPT_FOR });
        is_news
    }

    pub fn is_reached(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }

    /// Why a node cannot join, as far as this process has tried. `None` if it is `registered` at
    /// that address by now, perhaps by another leader.
    pub fn why(&self, node: NodeId, registered: Option<&str>) -> Option<String> {
        let unreached = self.0.lock();
        let it = unreached.get(&node).filter(|it| Instant::now() < it.until)?;
        if registered == Some(&*it.address) {
            return None;
        }
        Some(format!("cannot be called back at {}: {}", it.address, it.why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_cannot_be_called_back_is_news_once() {
        let (joining, node) = (Joining::default(), NodeId(4));
        assert_eq!(joining.why(node, None), None);
        assert!(joining.is_not_reached(node, "h4:7400", "connection refused"));
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!joining.is_not_reached(node, "h4:7400", "no answer within 1s"));
        }
        let why = joining.why(node, None).unwrap();
        assert_eq!(why, "cannot be called back at h4:7400: no answer within 1s");
        assert!(joining.is_not_reached(node, "h5:7400", "connection refused"), "it has moved");
        tokio::time::sleep(KEPT_FOR).await;
        assert_eq!(joining.why(node, None), None, "it does not try any more");
        assert!(joining.is_not_reached(node, "h5:7400", "connection refused"));
        assert_eq!(joining.why(node, Some("h5:7400")), None, "another leader has reached it");
        assert!(joining.why(node, Some("h3:7400")).is_some());
        joining.is_reached(node);
        assert_eq!(joining.why(node, None), None);
    }

    #[test]
    fn what_a_server_at_that_address_says_is_one_bounded_line() {
        let (joining, node) = (Joining::default(), NodeId(4));
        let hostile = format!("gone\u{1b}[2J\nnode 1 is down{}", "x".repeat(10_000));
        joining.is_not_reached(node, "h4:7400", &hostile);
        let why = joining.why(node, None).unwrap();
        assert!(why.starts_with("cannot be called back at h4:7400: gone [2J node 1 is down"));
        assert!(why.len() < 300 && !why.contains(char::is_control), "{why}");
    }
}
